"""The loop of training and promotion: when a round begins, and what a killed one leaves behind."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulated_promotion import Clock
from tests.promotion_world import Killed, captured
from toolorch_integrations.store import TraceStore
from toolorch_serving.promotion import PromotionError, PromotionRecord, PromotionRecords, Step
from toolorch_serving.promotion.rounds import LOG, STATE, Rounds


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


def failing(text: str) -> Callable[..., Any]:
    def train(**values: Any) -> None:
        raise RuntimeError(text)

    return train


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
    assert values["held_back"] == 0.25  # what the estimate rests on
    assert values["store"] == str(store.file)
    assert loop.promoted == [(result.version, Path(values["output"]))]
    assert attached == [0.0]
    assert loop.rounds.state().number == 2
    assert (tmp_path / "rounds" / LOG).read_text().count("\n") == 1


def test_how_much_is_held_back_is_set(store: TraceStore, tmp_path: Path):
    fill(store, 3, 10.0)
    loop = Loop(store, tmp_path / "rounds", held_back=0.4)
    loop.rounds.one()
    assert loop.trained[0]["held_back"] == 0.4


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
