"""Promotion when servers, processes and people get in its way: it ends with a reason, or goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.simulated_promotion import CANDIDATE, INCUMBENT, PLAN, FakeServer, promotion
from tests.promotion_world import Killed, good
from toolorch_integrations.store import TraceStore
from toolorch_integrations.versions import Routes
from toolorch_rl.evaluation import TaskResult
from toolorch_serving.promotion import PromotionError, PromotionRecord, PromotionRecords, Step, restore, roll_back
from toolorch_serving.promotion.promotion import FAILURES


def test_a_server_that_dies_between_publish_and_probe_leaves_the_incumbent(tmp_path: Path):
    server = FakeServer(fails={"probe"})
    found = promotion(good(), tmp_path, server)
    last = found.begin(CANDIDATE, tmp_path, INCUMBENT)
    assert last.step is Step.STAYED
    assert "the server does not answer (probe)" in last.reason
    assert found.records.routes(INCUMBENT) == Routes(INCUMBENT)
    assert "retire" in server.asked  # it may have been loaded
    assert server.versions == {INCUMBENT}


def restarted_in_canary(server: FakeServer, folder: Path, fails: Sequence[str]) -> PromotionRecord:
    """Promote a good candidate; the server loses it in mid-canary, and fails from then on as it is told."""
    found = promotion(good(), folder, server)
    slept, times = found.sleep, []

    def sleep(seconds: float) -> None:
        slept(seconds)
        times.append(seconds)
        if len(times) == 1:
            server.versions.discard(CANDIDATE)
            server.fails = set(fails)

    found.sleep = sleep
    return found.begin(CANDIDATE, folder, INCUMBENT)


def test_a_server_that_restarts_during_the_canary_gets_the_candidate_back(tmp_path: Path):
    server = FakeServer()
    assert restarted_in_canary(server, tmp_path, ()).step is Step.PROMOTED
    assert server.asked.count("probe") == 2
    assert CANDIDATE in server.versions


def test_a_candidate_that_a_restarted_server_does_not_take_is_rolled_back(tmp_path: Path):
    server = FakeServer()
    last = restarted_in_canary(server, tmp_path, ["publish"])
    assert last.step is Step.ROLLED_BACK
    assert last.reason == "canary, and then: the server does not answer (publish)"
    assert server.asked.count("publish") == 1 + FAILURES
    assert PromotionRecords(TraceStore.open(tmp_path / "traces.db")).routes(INCUMBENT) == Routes(INCUMBENT)


def test_a_server_that_restarts_during_the_evaluation_is_named_as_the_reason(tmp_path: Path):
    server = FakeServer()
    found = promotion(good(), tmp_path, server)
    evaluate = found.sources.evaluate

    def lost(version: str) -> Sequence[TaskResult]:
        server.versions.discard(CANDIDATE)
        return evaluate(version)

    found.sources = replace(found.sources, evaluate=lost)
    last = found.begin(CANDIDATE, tmp_path, INCUMBENT)
    assert last.step is Step.STAYED
    assert "the server lost policy-2 during the evaluation: was it restarted?" in last.reason


def test_a_server_gets_back_what_runs_are_routed_to(tmp_path: Path):
    server = FakeServer()
    found = promotion(good(), tmp_path, server)
    found.begin(CANDIDATE, tmp_path, INCUMBENT)
    assert restore(found.records, server) == []
    server.versions.discard(CANDIDATE)
    assert restore(found.records, server) == [CANDIDATE]
    assert CANDIDATE in server.versions
    server.versions.clear()
    assert restore(found.records, server, [INCUMBENT]) == []  # the bare policy is nobody's to publish


def test_a_server_that_is_away_for_a_moment_is_waited_for(tmp_path: Path):
    server = FakeServer()
    found = promotion(good(), tmp_path, server)
    slept, times = found.sleep, []

    def sleep(seconds: float) -> None:
        slept(seconds)
        times.append(seconds)
        server.fails = {"serves"} if len(times) == 2 else set()

    found.sleep = sleep
    assert found.begin(CANDIDATE, tmp_path, INCUMBENT).step is Step.PROMOTED


def test_a_canary_without_runs_ends_and_says_so(tmp_path: Path):
    found = promotion(good(), tmp_path)
    found.sources = replace(found.sources, live=lambda since: [])
    last = found.begin(CANDIDATE, tmp_path, INCUMBENT)
    assert last.step is Step.ROLLED_BACK
    assert "cannot be told (no live run has it yet)" in last.reason


def test_a_person_may_end_a_canary_from_another_process(tmp_path: Path):
    server = FakeServer()
    found = promotion(good(), tmp_path, server)
    slept = found.sleep

    def sleep(seconds: float) -> None:
        slept(seconds)
        if found.records.unfinished() is not None:
            roll_back(found.records, server, "taken back by hand")

    found.sleep = sleep
    last = found.begin(CANDIDATE, tmp_path, INCUMBENT)
    assert (last.step, last.reason) == (Step.ROLLED_BACK, "taken back by hand")
    assert server.versions == {INCUMBENT}


def test_what_was_promoted_can_be_rolled_back(tmp_path: Path):
    server = FakeServer()
    found = promotion(good(), tmp_path, server)
    found.begin(CANDIDATE, tmp_path, INCUMBENT)
    assert roll_back(found.records, server, "users complain").step is Step.ROLLED_BACK
    assert found.records.routes(INCUMBENT) == Routes(INCUMBENT)
    with pytest.raises(PromotionError, match="nothing to roll back"):
        roll_back(found.records, server, "again")


def test_a_roll_back_to_a_version_that_is_gone_is_refused(tmp_path: Path):
    server = FakeServer()
    found = promotion(good(), tmp_path, server)
    found.begin(CANDIDATE, tmp_path, INCUMBENT)
    server.versions.discard(INCUMBENT)
    with pytest.raises(PromotionError, match="load it first"):
        roll_back(found.records, server, "x")
    assert found.records.routes(INCUMBENT) == Routes(CANDIDATE)


@pytest.mark.parametrize("step", [Step.BEGUN, Step.ESTIMATED, Step.PUBLISHED, Step.EVALUATED, Step.CANARY])
def test_a_promotion_that_was_killed_goes_on(step: Step, tmp_path: Path):
    server = FakeServer()

    def kill(record: PromotionRecord) -> None:
        if record.step is step:
            raise Killed

    with pytest.raises(Killed):
        promotion(good(), tmp_path, server, tell=kill).begin(CANDIDATE, tmp_path, INCUMBENT)
    again = promotion(good(), tmp_path, server)
    last = again.resume()
    assert last is not None
    assert last.step is Step.PROMOTED
    assert server.asked.count("publish") == 1
    assert len({record.step for record in again.records.history()}) == len(again.records.history()) == 6
    assert again.resume() is None


class DiesProving(FakeServer):
    """A server whose promotion is killed when it has loaded the candidate, and not proven it."""

    def _ask(self, what: str) -> None:
        super()._ask(what)
        if what == "probe":
            raise Killed


@pytest.mark.parametrize(("fails", "end"), [((), Step.PROMOTED), (("probe",), Step.STAYED)])
def test_a_promotion_killed_before_the_probe_probes_again(fails: tuple[str, ...], end: Step, tmp_path: Path):
    server = DiesProving()
    with pytest.raises(Killed):
        promotion(good(), tmp_path, server).begin(CANDIDATE, tmp_path, INCUMBENT)
    assert CANDIDATE in server.versions
    resumed = FakeServer(server.versions, set(fails))
    last = promotion(good(), tmp_path, resumed).resume()
    assert last is not None
    assert last.step is end
    assert resumed.asked.count("probe") == 1


KILLED_PROMOTION = """
import os, signal, sys
from pathlib import Path
from benchmarks.simulated_promotion import CANDIDATE, INCUMBENT, promotion, world
from toolorch_serving.promotion import Step
def tell(record):
    if record.step is Step.CANARY:
        os.kill(os.getpid(), signal.SIGKILL)
folder = Path(sys.argv[1])
promotion(world("good", 100), folder, tell=tell).begin(CANDIDATE, folder, INCUMBENT)
"""


def test_a_process_killed_in_mid_canary_leaves_a_record_to_go_on_from(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED_PROMOTION, str(tmp_path)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=100,
    )
    assert done.returncode == -signal.SIGKILL
    server = FakeServer(versions={INCUMBENT, CANDIDATE})
    found = promotion(good(), tmp_path, server)
    assert found.records.routes(INCUMBENT) == Routes(INCUMBENT, CANDIDATE, PLAN.share)
    last = found.resume()
    assert last is not None
    assert last.step is Step.PROMOTED
