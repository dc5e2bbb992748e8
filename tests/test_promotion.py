"""Promotion: better candidates serve, others do not, and whatever happens there is a reason on record."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulated_promotion import CANDIDATE, INCUMBENT, PLAN, FakeServer, attempt, promotion, world
from tests.promotion_world import good
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.store import TraceStore
from toolorch_integrations.versions import Routes
from toolorch_rl.evaluation import TaskResult
from toolorch_serving.promotion import PromotionError, PromotionRecord, PromotionRecords, Step
from toolorch_serving.promotion.evidence import rewarded
from toolorch_serving.promotion.records import SupersededError


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
