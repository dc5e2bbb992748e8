"""Promotion: better candidates serve, others do not, and whatever happens there is a reason on record."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.simulated_promotion import (
    CANDIDATE,
    INCUMBENT,
    PLAN,
    Clock,
    FakeServer,
    World,
    attempt,
    promotion,
    world,
)
from tests.routing_world import trace_of
from toolorch_integrations.ledger import Call, CallKind
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.store import TraceStore
from toolorch_integrations.trace import Reward, Trace, TraceCall
from toolorch_integrations.versions import Routes, VersionRouter, conversation, conversation_key, tries
from toolorch_rl.evaluation import TaskResult
from toolorch_rl.training import TrainSettings
from toolorch_serving.embedded import EmbeddedServer
from toolorch_serving.promotion import (
    CanaryPlan,
    Change,
    Criteria,
    Evidence,
    Gate,
    LiveRun,
    Margin,
    PromotionError,
    PromotionRecord,
    PromotionRecords,
    Proof,
    Stage,
    StageProof,
    Step,
    Verdict,
    live_runs,
    of_canary,
    restore,
    roll_back,
)
from toolorch_serving.promotion.evidence import rewarded
from toolorch_serving.promotion.promotion import FAILURES
from toolorch_serving.promotion.records import SupersededError
from toolorch_serving.promotion.rounds import LOG, STATE, Rounds
from toolorch_serving.promotion.sequential import confidence_sequence, scores

GOOD = {
    "reward": Change(0.1, 0.05, 0.15, 0.6),
    "solved": Change(0.02, -0.01, 0.05, 0.8),
    "dollars": Change(-0.001, -0.002, 0.0, 0.01),
}


def evidence(stage: Stage = Stage.EVALUATION, waiting: str = "", **changes: Change) -> Evidence:
    return Evidence(stage, {**GOOD, **changes}, waiting=waiting)


# --- the gate


def test_better_on_the_goal_and_no_worse_elsewhere_passes():
    decision = Gate().judge(evidence())
    assert decision.verdict is Verdict.PASS
    assert decision.reason == "evaluation: reward +0.1 [+0.05, +0.15]"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"reward": Change(0.01, -0.02, 0.04)}, "reward is not shown to be better"),
        ({"reward": Change(-0.1, -0.2, -0.05)}, "reward is no better"),
        ({"reward": Change(note="too few runs")}, "which cannot be told (too few runs)"),
        ({"solved": Change(-0.1, -0.15, -0.05, 0.8)}, "solved is worse"),
        ({"solved": Change(0.0, -0.1, 0.1, 0.8)}, "solved is not shown to be no worse than 0.03"),
        ({"dollars": Change(0.01, 0.005, 0.015, 0.01)}, "dollars is worse"),
        ({"seconds": Change(note="not known")}, "seconds is not shown to be no worse"),
    ],
)
def test_what_is_not_shown_stays_and_says_why(changes: dict[str, Change], reason: str):
    decision = Gate().judge(evidence(**changes))
    assert decision.verdict is Verdict.STAY
    assert reason in decision.reason


def test_a_goal_that_was_not_measured_stays():
    changes = {name: change for name, change in GOOD.items() if name != "reward"}
    assert "was not measured" in Gate().judge(Evidence(Stage.CANARY, changes)).reason


def test_an_estimate_need_not_prove_what_is_protected_but_must_not_refute_it():
    wide = Change(0.0, -0.3, 0.3, 0.8)
    assert Gate().judge(evidence(Stage.ESTIMATE, solved=wide)).verdict is Verdict.PASS
    worse = Change(-0.2, -0.3, -0.1, 0.8)
    assert Gate().judge(evidence(Stage.ESTIMATE, solved=worse)).verdict is Verdict.STAY


def test_a_canary_waits_for_what_is_open_and_never_for_a_regression():
    unclear = {"reward": Change(0.1, -0.1, 0.3, 0.6)}
    assert Gate().judge(evidence(Stage.CANARY, "more runs come", **unclear)).verdict is Verdict.WAIT
    broken = {**unclear, "solved": Change(-0.2, -0.3, -0.1, 0.8)}
    assert Gate().judge(evidence(Stage.CANARY, "more runs come", **broken)).verdict is Verdict.STAY
    assert Gate().judge(evidence(Stage.CANARY, "", **unclear)).verdict is Verdict.STAY


def test_margins_and_proofs_are_the_callers():
    dearer = {"dollars": Change(0.002, 0.001, 0.003, 0.01)}
    assert Gate().judge(evidence(**dearer)).verdict is Verdict.STAY
    loose = Criteria(protected={"dollars": Margin(relative=0.5)})
    assert Gate(loose).judge(evidence(**dearer)).verdict is Verdict.PASS
    lax = Criteria(proofs={Stage.EVALUATION: StageProof(goal=Proof.NOT_REFUTED, protected=Proof.NOT_REFUTED)})
    assert Gate(lax).judge(evidence(reward=Change(0.0, -0.1, 0.1))).verdict is Verdict.PASS


# --- intervals that may be watched


def test_a_confidence_sequence_holds_at_every_look():
    missed = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        treated = random.random(1_500) < 0.2
        values = np.where(treated, 0.6, 0.5) + random.normal(0, 0.4, 1_500)
        found = scores(values, treated, 0.2)
        looks = [confidence_sequence(found[:number], 1_000) for number in range(200, 1_501, 50)]
        missed += any(not low <= 0.1 <= high for _, low, high in looks)
    assert missed <= 5


def test_a_score_does_not_know_its_own_run():
    values, treated = np.array([1.0, 0.0, 1.0, 1.0]), np.array([True, False, True, False])
    changed = values.copy()
    changed[3] = 9.0
    assert scores(values, treated, 0.5)[:3].tolist() == scores(changed, treated, 0.5)[:3].tolist()


# --- the canary's evidence


def live(
    number: int, candidate: float, other: float, share: float = 0.5, seed: int = 0, per_key: int = 1
) -> list[LiveRun]:
    random = np.random.default_rng(seed)
    found = []
    for place in range(number):
        key = f"k{place // per_key}"
        ours = tries(key, "v2", share)
        solved = float(random.random() < (candidate if ours else other))
        found.append(LiveRun(key, ours, {"reward": solved, "solved": solved, "dollars": 0.01}))
    return found


def test_too_few_conversations_say_nothing_whatever_they_say():
    found = of_canary(live(40, 1.0, 0.0), CanaryPlan(0.5, least=30), Criteria(), 1.0)
    assert found.changes["reward"].low is None
    assert found.waiting
    assert Gate().judge(found).verdict is Verdict.WAIT


def test_runs_of_one_conversation_count_as_one():
    plan = CanaryPlan(0.5, least=30, planned=400)
    apart = of_canary(live(800, 0.9, 0.5), plan, Criteria(), 1.0).changes["reward"]
    together = of_canary(live(800, 0.9, 0.5, per_key=8), plan, Criteria(), 1.0)
    assert sum(together.counts[name] for name in ("candidate", "incumbent")) == 100
    change = together.changes["reward"]
    assert None not in (apart.low, apart.high, change.low, change.high)
    assert change.high - change.low > apart.high - apart.low  # type: ignore[operator]


def test_a_canary_ends_by_its_bounds():
    plan = CanaryPlan(0.5, least=30, planned=100, most=200, patience=60.0)
    assert of_canary(live(199, 0.5, 0.5), plan, Criteria(), 1.0).waiting
    assert not of_canary(live(200, 0.5, 0.5), plan, Criteria(), 1.0).waiting
    assert not of_canary(live(40, 0.5, 0.5), plan, Criteria(), 60.0).waiting


def test_what_no_run_did_is_rare_and_not_impossible():
    quiet = [replace(run, outcomes={**run.outcomes, "destructive_calls": 0.0}) for run in live(100, 0.9, 0.5)]
    change = of_canary(quiet, CanaryPlan(0.5, least=30), Criteria(), 1.0).changes["destructive_calls"]
    assert change.high is not None
    assert change.high > 0.05


@pytest.mark.parametrize("values", [{"share": 0.0}, {"share": 1.0}, {"least": 1}, {"most": 10}, {"patience": 0.0}])
def test_a_plan_that_cannot_work_is_refused(values: dict[str, Any]):
    with pytest.raises(PromotionError, match="canary"):
        CanaryPlan(**values)


# --- which version answers


def test_the_share_is_kept_and_conversations_stay():
    routes = Routes("v1", "v2", 0.1)
    chosen = [routes.choose(f"thread-{number}") for number in range(5_000)]
    assert chosen.count("v2") == pytest.approx(500, rel=0.15)
    assert [routes.choose(f"thread-{number}") for number in range(5_000)] == chosen


def test_a_running_conversation_outlives_a_promotion_but_not_a_roll_back():
    now = [Routes("v1", "v2", 0.5)]
    router = VersionRouter(lambda: now[0], refresh=0.0)
    trying = next(f"t{n}" for n in range(99) if router.version_for(f"t{n}") == "v2")
    staying = next(f"t{n}" for n in range(99) if router.version_for(f"t{n}") == "v1")
    now[0] = Routes("v2")
    assert (router.version_for(staying), router.version_for(trying), router.version_for("new")) == ("v1", "v2", "v2")
    now[0] = Routes("v1", "v3", 0.5)
    router.version_for("look")
    now[0] = Routes("v1")
    assert {router.version_for(f"u{n}") for n in range(20)} == {"v1"}


def test_a_rolled_back_candidate_loses_its_conversations_at_once():
    now = [Routes("v1", "v2", 0.5)]
    router = VersionRouter(lambda: now[0], refresh=0.0)
    trying = next(f"t{n}" for n in range(99) if router.version_for(f"t{n}") == "v2")
    now[0] = Routes("v1")
    assert router.version_for(trying) == "v1"


def test_routes_that_cannot_be_read_stay_as_they_are():
    answers: list[Any] = [Routes("v1"), OSError("down"), Routes("v2")]

    def source() -> Routes:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    router = VersionRouter(source, refresh=0.0)
    assert [router.version_for("a"), router.version_for("b")] == ["v1", "v2"]


def test_a_conversation_is_its_key_its_thread_or_its_first_words():
    select = [{"role": "system", "content": "s"}, {"role": "user", "content": "Problem: x\n\nDocuments: a"}]
    later = [{"role": "system", "content": "s"}, {"role": "user", "content": "Problem: x\n\nDocuments: a, b"}]
    assert conversation_key(select) == conversation_key(later)
    assert conversation_key(select, "thread-1") == "thread-1"
    with conversation("mine"):
        assert conversation_key(select, "thread-1") == "mine"


def test_both_faces_ask_the_router():
    from langchain_core.messages import HumanMessage
    from llama_index.core.base.llms.types import ChatMessage

    from toolorch_integrations.langgraph.versions import RoutedChatPolicy
    from toolorch_integrations.llamaindex.versions import RoutedPolicyLLM

    router = VersionRouter(lambda: Routes("v1", "v2", 0.5))
    chat = RoutedChatPolicy(model="v1", base_url="http://127.0.0.1:9/v1", router=router)
    llm = RoutedPolicyLLM("v1", "http://127.0.0.1:9/v1", router=router)
    seen = set()
    for number in range(20):
        text = f"question {number}"
        one = chat._get_request_payload([HumanMessage(text)])["model"]
        assert one == llm._request([ChatMessage(role="user", content=text)], {})["body"]["model"]
        seen.add(one)
    assert seen == {"v1", "v2"}


def test_a_version_that_is_set_around_a_run_goes_before_the_router():
    """So a held-out evaluation of the very app that is live chooses its version."""
    from langchain_core.messages import HumanMessage
    from llama_index.core.base.llms.types import ChatMessage

    from toolorch_integrations.langgraph.versions import RoutedChatPolicy
    from toolorch_integrations.llamaindex.versions import RoutedPolicyLLM
    from toolorch_integrations.overrides import policy_overrides

    url = "http://127.0.0.1:9/v1"
    router = VersionRouter(lambda: Routes("v1"))
    chat = RoutedChatPolicy(model="v1", base_url=url, router=router)
    llm = RoutedPolicyLLM("v1", url, router=router)

    def asked() -> set[str]:
        request = llm._request([ChatMessage(role="user", content="x")], {})
        return {chat._get_request_payload([HumanMessage("x")])["model"], request["body"]["model"]}

    with policy_overrides(model="v7"):
        assert asked() == {"v7"}
    with policy_overrides("http://other/v1", model="v7"):
        assert asked() == {"v1"}


def test_a_langgraph_thread_stays_on_one_version():
    from langchain_core.messages import HumanMessage
    from langchain_core.runnables import RunnableLambda

    from toolorch_integrations.langgraph.versions import RoutedChatPolicy

    router = VersionRouter(lambda: Routes("v1", "v2", 0.5))
    chat = RoutedChatPolicy(model="v1", base_url="http://127.0.0.1:9/v1", router=router)
    ask = RunnableLambda(lambda text: chat._get_request_payload([HumanMessage(text)])["model"])
    for thread in ("a", "b", "c", "d", "e"):
        config: Any = {"configurable": {"thread_id": thread}}
        assert {ask.invoke(f"{number}", config) for number in range(8)} == {Routes("v1", "v2", 0.5).choose(thread)}


# --- the whole way


@functools.cache
def good_world() -> World:
    return world("good", 100)


def good() -> World:
    return good_world().again()


@pytest.mark.parametrize("kind", ["noise", "hacker", "old"])
def test_bad_candidates_never_get_through(kind: str, tmp_path: Path):
    for seed in (100, 101):
        folder = tmp_path / str(seed)
        folder.mkdir()
        assert attempt(kind, seed, folder)[-1].step is Step.STAYED


@pytest.mark.parametrize("kind", ["noise", "hacker", "old"])
def test_the_canary_alone_stops_them_too(kind: str, tmp_path: Path):
    steps = attempt(kind, 100, tmp_path, fooled=["estimate", "evaluation"])
    assert [step.step for step in steps][-2:] == [Step.CANARY, Step.ROLLED_BACK]
    assert steps[-1].reason.startswith("canary: ")


def test_a_good_candidate_is_promoted_and_every_step_is_on_record(tmp_path: Path):
    server = FakeServer()
    told: list[PromotionRecord] = []
    found = promotion(good(), tmp_path, server, tell=told.append)
    assert found.records.routes(INCUMBENT) == Routes(INCUMBENT)
    last = found.begin(CANDIDATE, tmp_path, INCUMBENT)
    steps = found.records.steps(last.promotion)
    assert [step.step for step in steps] == [
        Step.BEGUN, Step.ESTIMATED, Step.PUBLISHED, Step.EVALUATED, Step.CANARY, Step.PROMOTED
    ]  # fmt: skip
    assert [step.number for step in told] == [step.number for step in steps]
    assert [step.share for step in steps] == [0, 0, 0, 0, PLAN.share, 0]
    assert steps[1].evidence["changes"]["reward"]["low"] > 0
    assert steps[-1].evidence["counts"]["candidate"] >= PLAN.least
    assert found.records.routes(INCUMBENT) == Routes(CANDIDATE)
    assert server.versions == {INCUMBENT, CANDIDATE}  # the one before stays loaded, to go back to


def test_routes_follow_the_record(tmp_path: Path):
    records = PromotionRecords(TraceStore.open(tmp_path / "t.db"))
    first = records.append(PromotionRecord("p", Step.BEGUN, "v2", "v1"))
    assert records.routes("v1") == Routes("v1")
    canary = records.append(replace(first, step=Step.CANARY, share=0.2), first)
    assert records.routes("v1") == Routes("v1", "v2", 0.2)
    records.append(replace(canary, step=Step.ROLLED_BACK, share=0.0), canary)
    assert records.routes("v1") == Routes("v1")


def test_two_processes_cannot_take_the_same_step(tmp_path: Path):
    records = PromotionRecords(TraceStore.open(tmp_path / "t.db"))
    first = records.append(PromotionRecord("p", Step.BEGUN, "v2", "v1"))
    records.append(replace(first, step=Step.ESTIMATED), first)
    with pytest.raises(SupersededError, match="another process"):
        records.append(replace(first, step=Step.STAYED), first)
    assert [step.step for step in records.steps("p")] == [Step.BEGUN, Step.ESTIMATED]


# --- bad input


def test_names_and_folders_that_cannot_be_are_refused(tmp_path: Path):
    found = promotion(good(), tmp_path)
    with pytest.raises(PromotionError, match="two names"):
        found.begin(INCUMBENT, tmp_path, INCUMBENT)
    with pytest.raises(PromotionError, match="does not exist"):
        found.begin(CANDIDATE, tmp_path / "nothing", INCUMBENT)
    found.records.append(PromotionRecord("p", Step.BEGUN, "v7", INCUMBENT))
    with pytest.raises(PromotionError, match="v7 is on its way"):
        found.begin(CANDIDATE, tmp_path, INCUMBENT)


def test_a_name_is_used_once(tmp_path: Path):
    found = promotion(world("old", 100), tmp_path)
    assert found.begin(CANDIDATE, tmp_path, INCUMBENT).step is Step.STAYED
    with pytest.raises(PromotionError, match="was a candidate before"):
        found.begin(CANDIDATE, tmp_path, INCUMBENT)


def test_evidence_that_cannot_be_had_stays_with_the_reason(tmp_path: Path):
    def nothing() -> Any:
        raise PromotionError("there are no runs to estimate from")

    found = promotion(good(), tmp_path)
    found.sources = replace(found.sources, estimate=nothing)
    last = found.begin(CANDIDATE, tmp_path, INCUMBENT)
    assert (last.step, last.reason) == (Step.STAYED, "begun, and then: there are no runs to estimate from")


def test_evaluations_of_other_tasks_stay(tmp_path: Path):
    found = promotion(good(), tmp_path)

    def other(version: str) -> list[TaskResult]:
        return [TaskResult(task_id=f"{version}-{n}", solved=True, reward=1.0) for n in range(9)]

    found.sources = replace(found.sources, evaluate=other)
    last = found.begin(CANDIDATE, tmp_path, INCUMBENT)
    assert last.step is Step.STAYED
    assert "no task in common" in last.reason


def test_results_without_a_reward_get_one_under_the_callers_preferences():
    before = [TaskResult(task_id=f"{n}", solved=True, dollars=0.03) for n in range(4)]
    after = [TaskResult(task_id=f"{n}", solved=n > 0, dollars=0.01) for n in range(4)]
    old, new = rewarded(before, after, lambda task: Preferences(cost=0.5))
    assert [result.reward for result in old] == [1.0, 1.0, 1.0, 1.0]
    assert [result.reward for result in new] == [0.0, 1.5, 1.5, 1.5]


# --- faults


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


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


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


# --- live runs from the store


def captured(number: int, version: str, thread: str, started: float, outcome: float | None = 1.0) -> Trace:
    user = {"role": "user", "content": f"request {number}"}
    call = ([1, 2], [3], [-0.5])
    trace = trace_of(f"{number:032x}", [call], [user], ["yes"], version=version, started=started)
    trace.thread_id = thread
    if outcome is not None:
        trace.rewards.append(Reward(trace.id, {"outcome": outcome}, "test"))
    return trace


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TraceStore]:
    with TraceStore.open(tmp_path / "live.db") as opened:
        yield opened


def test_live_runs_are_those_of_conversations_that_began_in_the_canary(store: TraceStore):
    for trace in (
        captured(0, "v1", "old", 10.0),
        captured(1, "v1", "old", 110.0),
        captured(2, "v1", "a", 120.0),
        captured(3, "v2", "b", 130.0, 0.0),
        captured(4, "v9", "c", 140.0),
        captured(5, "v2", "", 150.0, None),
    ):
        store.add(trace)
    found = list(live_runs(store, "v2", "v1")(100.0))
    assert [(run.key, run.candidate) for run in found] == [("a", False), ("b", True), (f"{5:032x}", True)]
    assert [run.outcomes["solved"] for run in found[:2]] == [1.0, 0.0]
    assert all(np.isnan(run.outcomes["reward"]) for run in found)  # nothing to measure it by yet
    assert np.isnan(found[2].outcomes["solved"])  # nothing says so yet
    assert np.isfinite(found[2].outcomes["seconds"])


def test_a_live_runs_reward_is_the_same_at_every_look(store: TraceStore):
    """Measured by the incumbent's runs before the canary, and not by those that come later."""
    for number in range(20):
        store.add(priced(number, "v1", 10.0 + number, 0.01 + 0.001 * number))
    store.add(priced(100, "v1", 120.0, 0.02))
    look = live_runs(store, "v2", "v1", LIVE)
    (first,) = look(100.0)
    store.add(priced(101, "v2", 130.0, 5.0))
    store.add(priced(102, "v2", 140.0, 0.0001))
    again, dear, cheap = look(100.0)
    assert again == first
    assert 1.0 < first.outcomes["reward"] < 1.5
    assert (dear.outcomes["reward"], cheap.outcomes["reward"]) == (1.0, 1.5)
    assert list(live_runs(store, "v2", "v1", LIVE)(100.0)) == [again, dear, cheap]  # after a kill as well


def test_without_runs_before_the_first_look_with_enough_solved_ones_decides(store: TraceStore):
    look = live_runs(store, "v2", "v1", LIVE)
    for number in range(19):
        store.add(priced(number, "v1", 110.0 + number, 0.01 + 0.001 * number))
    assert all(np.isnan(run.outcomes["reward"]) for run in look(100.0))
    store.add(priced(19, "v2", 140.0, 0.04))
    first = list(look(100.0))
    assert all(np.isfinite(run.outcomes["reward"]) for run in first)
    store.add(priced(20, "v2", 150.0, 9.0))
    assert list(look(100.0))[:20] == first


LIVE = TrainSettings(policy="v2", output=Path("v2"), preferences=Preferences(cost=0.5))


def priced(number: int, version: str, started: float, dollars: float) -> Trace:
    """Return a solved run that cost so much."""
    trace = captured(number, version, f"thread {number}", started)
    call = Call(CallKind.SPECIALIST, "expert", dollars=dollars, seconds=0.2, run_id=trace.id)
    trace.calls.append(TraceCall(0, call, started=started))
    return trace


# --- the loop


class Loop:
    """A loop with training and promotion that only write down what they were asked."""

    def __init__(self, store: TraceStore, folder: Path, **more: Any) -> None:
        self.clock, self.trained, self.promoted = Clock(), [], []
        self.said: list[str] = []
        arguments: dict[str, Any] = {"train": self.train, "promote": self.promote, "new_traces": 3, "interval": 60.0}
        self.rounds = Rounds(
            store,
            folder,
            "policy",
            "models/policy",
            tell=self.said.append,
            clock=self.clock,
            sleep=self.clock.sleep,
            **(arguments | more),
        )

    def train(self, **values: Any) -> None:
        self.trained.append(values)
        folder = Path(values["output"])
        folder.mkdir(parents=True)
        (folder / "toolorch.json").write_text("{}")

    def promote(self, version: str, folder: Path) -> PromotionRecord:
        self.promoted.append((version, folder))
        return PromotionRecord("p", Step.STAYED, version, "policy", reason="no better")


def fill(store: TraceStore, number: int, started: float, first: int = 0) -> None:
    for place in range(first, first + number):
        store.add(captured(place, "policy", f"t{place}", started + place))


def test_a_round_waits_trains_and_promotes(store: TraceStore, tmp_path: Path):
    fill(store, 3, 10.0)
    attached: list[float] = []

    def attach(_: TraceStore, since: float) -> int:
        attached.append(since)
        return 3

    loop = Loop(store, tmp_path / "rounds", settings={"method": "replay"}, attach=attach)
    result = loop.rounds.one()
    assert (result.number, result.outcome, result.reason) == (1, "stayed", "no better")
    (values,) = loop.trained
    assert values["policy"] == "models/policy"
    assert values["method"] == "replay"
    assert values["store"] == str(store.file)
    assert loop.promoted == [(result.version, Path(values["output"]))]
    assert attached == [0.0]
    assert loop.rounds.state().number == 2
    assert (tmp_path / "rounds" / LOG).read_text().count("\n") == 1


def test_the_next_round_counts_new_runs_only_and_idles_without(store: TraceStore, tmp_path: Path):
    fill(store, 3, 10.0)
    loop = Loop(store, tmp_path / "rounds")
    loop.rounds.one()
    assert loop.rounds.one().outcome == "idle"
    fill(store, 1, loop.clock() + 1, first=10)
    assert loop.rounds.one().outcome == "stayed"  # fewer than wanted, but the interval is over
    assert len(loop.trained) == 2


def test_training_begins_from_the_version_that_serves(store: TraceStore, tmp_path: Path):
    fill(store, 3, 10.0)
    PromotionRecords(store).append(PromotionRecord("p", Step.PROMOTED, "policy-7", "policy", "rounds/policy-7"))
    loop = Loop(store, tmp_path / "rounds")
    loop.rounds.one()
    assert loop.trained[0]["policy"] == "rounds/policy-7"


def test_a_round_that_fails_says_why_and_the_next_goes_on(store: TraceStore, tmp_path: Path):
    fill(store, 3, 10.0)
    loop = Loop(store, tmp_path / "rounds", train=failing("the loss is NaN"))
    result = loop.rounds.one()
    assert (result.outcome, result.reason) == ("failed", "training: RuntimeError: the loss is NaN")
    fill(store, 3, loop.clock() + 1, first=10)
    again = Loop(store, tmp_path / "rounds")
    again.clock.now = loop.clock.now + 10
    assert again.rounds.one().outcome == "stayed"
    assert (tmp_path / "rounds" / LOG).read_text().count("\n") == 2


def test_rewards_that_could_not_be_attached_are_attached_by_the_next_round(store: TraceStore, tmp_path: Path):
    fill(store, 3, 10.0)
    asked: list[float] = []

    def attach(_: TraceStore, since: float) -> int:
        asked.append(since)
        if len(asked) == 1:
            raise OSError("the verifier is down")
        return 3

    loop = Loop(store, tmp_path / "rounds", attach=attach)
    before = loop.clock()
    first, second = itertools.islice(loop.rounds.run(), 2)
    assert first.reason == "waiting: OSError: the verifier is down"
    assert second.outcome == "stayed"
    assert asked == [0.0, 0.0]
    assert loop.clock() - before == 60.0  # it does not try again at once


def failing(text: str) -> Callable[..., Any]:
    def train(**values: Any) -> None:
        raise RuntimeError(text)

    return train


def test_a_loop_killed_in_training_goes_on_with_the_same_settings(store: TraceStore, tmp_path: Path):
    fill(store, 3, 10.0)
    seen: list[dict[str, Any]] = []

    def killed(**values: Any) -> None:
        seen.append(values)
        raise Killed

    with pytest.raises(Killed):
        Loop(store, tmp_path / "rounds", train=killed).rounds.one()
    loop = Loop(store, tmp_path / "rounds")
    loop.clock.now += 1_000
    assert loop.rounds.one().number == 1
    assert loop.trained == seen


def test_a_loop_killed_in_promotion_does_not_train_again(store: TraceStore, tmp_path: Path):
    fill(store, 3, 10.0)

    def killed(version: str, folder: Path) -> PromotionRecord:
        raise Killed

    first = Loop(store, tmp_path / "rounds", promote=killed)
    with pytest.raises(Killed):
        first.rounds.one()
    loop = Loop(store, tmp_path / "rounds")
    assert loop.rounds.one().version == Path(first.trained[0]["output"]).name
    assert loop.trained == []


def test_a_broken_state_is_named(store: TraceStore, tmp_path: Path):
    loop = Loop(store, tmp_path / "rounds")
    (tmp_path / "rounds" / STATE).write_text("{")
    with pytest.raises(PromotionError, match="remove it"):
        loop.rounds.one()
    with pytest.raises(PromotionError, match="new_traces"):
        Loop(store, tmp_path / "other", new_traces=0)


# --- the command line


def toolorch(*arguments: str, code: int = 0) -> str:
    from toolorch_integrations.cli import app

    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.replace("│", " ").split())


def test_the_history_says_why(store: TraceStore, tmp_path: Path):
    where = str(store.file)
    assert "nothing was promoted yet" in toolorch("promote", "--history", "--store", where)
    PromotionRecords(store).append(PromotionRecord("p", Step.STAYED, "v2", "v1", reason="solved is worse"))
    assert "v2 v1 stayed solved is worse" in toolorch("promote", "--history", "--store", where)
    assert '"step": "stayed"' in toolorch("promote", "--history", "--store", where, "--format", "json")


def test_what_is_missing_is_named(tmp_path: Path):
    assert "--server" in toolorch("promote", code=2)
    assert "--base" in toolorch("promote", "--server", "http://127.0.0.1:9/v1", "--name", "p", code=2)
    common = [
        "promote",
        "--server",
        "http://127.0.0.1:9/v1",
        "--name",
        "p",
        "--base",
        "m",
        "--candidate",
        str(tmp_path),
    ]
    assert "there is no metric 'speed'" in toolorch(*common, "--goal", "speed", code=1)
    assert "margin 'dollars=much'" in toolorch(*common, "--margin", "dollars=much", code=1)
    where = str(tmp_path / "t.db")
    TraceStore.open(where).close()
    assert "no promotion to go on with" in toolorch(*common, "--resume", "--store", where, code=1)
    assert "--server" in toolorch("loop", "--base", "m", code=2)
    loop = ["loop", *common[1:7], "--new-traces", "1"]
    assert "give NAME=VALUE" in toolorch(*loop, "--set", "best", code=2)
    assert "give MODULE:NAME" in toolorch(*loop, "--rewards", "nothing:here", code=2)
    assert "goes with --run" in toolorch(*common, "--verifier", "os:getcwd", code=2)
    assert "--verifier" in toolorch(*common, "--run", "os:getcwd", code=2)
    own = [*common, "--run", "os:getcwd", "--verifier", "os:getcwd"]
    assert "give its tasks with --tasks" in toolorch(*own, "--synthesize", "3", code=2)
    assert "there are no held-out tasks" in toolorch(*own, code=1)


def test_a_served_adapter_is_published_under_the_policys_name(tmp_path: Path):
    from toolorch_serving.promotion import ServedAdapters

    served = ServedAdapters("http://127.0.0.1:9/v1", "policy", "models/policy")
    with pytest.raises(PromotionError, match="must begin with the policy's name: policy-v2"):
        served.publish("v2", tmp_path)
    with pytest.raises(PromotionError, match="holds no adapter"):
        served.publish("policy-v2", tmp_path)


def test_an_adapter_goes_into_a_real_server_and_out_again(
    embedded_server: EmbeddedServer, tiny_policy: Path, tiny_adapter: Path
):
    from toolorch_serving.promotion import ServedAdapters

    version = f"{embedded_server.name}-promoted"
    with ServedAdapters(embedded_server.url, embedded_server.name, tiny_policy) as served:
        assert not served.serves(version)
        published = served.publish(version, tiny_adapter)
        assert published.probe.error < 1e-3
        assert published.probe.told_apart
        assert served.serves(version)
    for closed in (lambda: served.serves(version), lambda: served.publish(version, tiny_adapter)):
        with pytest.raises(RuntimeError, match="closed"):
            closed()
    with ServedAdapters(embedded_server.url, embedded_server.name, tiny_policy) as served:
        assert served.publish(version, tiny_adapter).probe.told_apart  # a loaded version is proven once more
        served.retire(embedded_server.name)  # the bare policy stays, whatever is asked
        served.retire(version)
        served.retire(version)
        assert not served.serves(version)
        assert served.serves(embedded_server.name)


def test_what_the_server_computes_in_is_found_out(
    embedded_server: EmbeddedServer, tiny_policy: Path, tiny_adapter: Path, tmp_path: Path
):
    """The bare policy's own log-probabilities say it; those of another model are no rounding."""
    from tests import tiny_policy as tiny
    from toolorch_rl.weights import BFLOAT16, FLOAT32, Probe, folder_logprobs
    from toolorch_serving.promotion import ServedAdapters

    probe = Probe.random(300)
    with ServedAdapters(embedded_server.url, embedded_server.name, tiny_policy) as served:
        exact = folder_logprobs(tiny_policy)
        assert served._found_precision(probe, exact) is FLOAT32
        rounded = lambda ids: [values + 0.1 for values in exact(ids)]  # noqa: E731
        assert served._found_precision(probe, rounded) is BFLOAT16
    other = tiny.build(tmp_path / "other", lessons=(), seed=5)
    with (
        ServedAdapters(embedded_server.url, embedded_server.name, other) as served,
        pytest.raises(PromotionError, match="is not the policy in"),
    ):
        served.publish(f"{embedded_server.name}-v9", tiny_adapter)


@pytest.mark.slow
def test_a_bfloat16_server_takes_an_adapter(tiny_policy: Path, tiny_adapter: Path):
    from toolorch_rl.weights import FLOAT32, ProbeError
    from toolorch_serving.promotion import ServedAdapters

    with EmbeddedServer(tiny_policy, dtype="bfloat16", progress=False) as server:
        with ServedAdapters(server.url, server.name, tiny_policy) as served:
            found = served.publish(f"{server.name}-v1", tiny_adapter).probe
            assert found.error > FLOAT32.tolerance
            assert found.told_apart
        with (
            ServedAdapters(server.url, server.name, tiny_policy, FLOAT32) as served,
            pytest.raises(ProbeError, match="differ by"),
        ):
            served.publish(f"{server.name}-v2", tiny_adapter)


def test_watching_does_not_block_readers(tmp_path: Path):
    """An app reads its routes while a promotion writes: SQLite in WAL mode, and short transactions."""
    found = promotion(good(), tmp_path)
    reader = PromotionRecords(TraceStore.open(tmp_path / "traces.db"))
    seen: set[str] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(reader.routes(INCUMBENT).candidate)
            stop.wait(0.01)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        found.begin(CANDIDATE, tmp_path, INCUMBENT)
    finally:
        stop.set()
        thread.join(10)
    assert CANDIDATE in seen
