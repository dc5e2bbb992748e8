"""The second act of `make demo`, with small counts: captured, trained, estimated, decided, swapped in, asked again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from examples.routing.demo import NAME, POLICY, VERSION, Counts, Outcome, run
from examples.routing.demo_view import estimate_check, table
from examples.routing.requests import KINDS
from examples.routing.specialists import SPECIALISTS
from toolorch_integrations.store import TraceStore
from toolorch_rl.estimate import EstimateReport, Interval
from toolorch_serving.promotion import Criteria, Proof, Stage, StageProof, Verdict

COUNTS = Counts(captured=16, held_back=16, repetitions=6, fresh=16, epochs=3.0)
ANYTHING = Criteria(protected={}, proofs={Stage.ESTIMATE: StageProof(goal=Proof.NOT_REFUTED)})
"""So few runs prove nothing: here the new version is to be swapped in all the same."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def outcome(work: Path) -> Iterator[Outcome]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run(POLICY, "embedded", work, COUNTS, ANYTHING)
    torch.set_num_threads(threads)


def test_the_policy_begins_with_every_specialist(outcome: Outcome, work: Path) -> None:
    with TraceStore.open(f"sqlite:///{work / 'traces.db'}") as store:
        traces = list(store.full_traces())
    assert len(traces) == COUNTS.captured * COUNTS.repetitions
    assert {trace.policy_versions[0] for trace in traces} == {NAME}
    assert all(trace.exact and trace.rewards for trace in traces)
    # It samples: now and then it calls somebody whom there is not.
    assert {entry.call.name for trace in traces for entry in trace.calls} >= {one.name for one in SPECIALISTS}
    assert len({str(trace.metadata["task"]) for trace in traces}) == COUNTS.captured == 2 * len(KINDS)


def test_the_gate_decides_by_the_estimate_on_other_runs(outcome: Outcome, work: Path) -> None:
    assert outcome.estimate.runs == COUNTS.held_back * COUNTS.repetitions
    assert outcome.estimate.metrics["solved"].logged is not None
    assert outcome.decision.reason
    assert (work / VERSION / "toolorch.json").is_file()


def test_fresh_requests_are_answered_by_the_new_version(outcome: Outcome) -> None:
    assert outcome.decision.verdict is Verdict.PASS, outcome.decision.reason
    assert outcome.published is not None
    assert outcome.after is not None
    assert outcome.published.name == f"{NAME}-{VERSION}"
    assert outcome.answered_by == {f"{NAME}-{VERSION}"}
    assert outcome.published.probe.told_apart
    assert outcome.after.reward_share.value is not None


def test_the_table_shows_before_estimate_and_after(outcome: Outcome) -> None:
    assert outcome.after is not None
    shown = table("t", [outcome.after], [], before=outcome.before, estimate=outcome.estimate)
    wide = Console(width=200)
    with wide.capture() as said:
        wide.print(shown)
    for part in (f"{NAME}, before", "what the estimate said", f"{NAME}-{VERSION}"):
        assert part in said.get()


def test_an_estimate_that_was_wrong_or_could_not_say_is_called_so(outcome: Outcome) -> None:
    def estimated(interval: Interval | None, reason: str = "") -> EstimateReport:
        metrics = dict(outcome.estimate.metrics)
        metrics["solved"] = replace(metrics["solved"], estimate=interval, reason=reason)
        return replace(outcome.estimate, metrics=metrics)

    worth = outcome.before
    value = worth.solved.value
    assert value is not None
    assert "inside" in next(estimate_check(worth, estimated(Interval(value, value - 0.1, value + 0.1))))
    assert "outside" in next(estimate_check(worth, estimated(Interval(0.0, -1.0, -0.5))))
    assert "too few" in next(estimate_check(worth, estimated(None, "too few runs")))
