"""The policy gradient: its loss, and the weights, advantages and order of what it is taken over."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.routing_world import (
    Runs,
    material,
    settings_of,
    stored,
    two_turns,
)
from toolorch_integrations.preferences import Preferences
from toolorch_rl.training import TrainingError, train
from toolorch_rl.training.baseline import leave_one_out
from toolorch_rl.training.loss import LossSettings, Tokens, policy_loss

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_gradient_is_that_of_truncated_importance_weights_and_stops_at_the_clip() -> None:
    behaviour = torch.tensor([-1.0, -1.0, -5.0, -1.0, -1.0])
    logprobs = torch.tensor([-1.0, -0.5, -1.0, -3.0, -0.2], requires_grad=True)
    advantages = torch.tensor([2.0, 1.0, 1.0, -1.0, -1.0])
    weights = torch.full((5,), 0.2)
    tokens = Tokens(logprobs, behaviour, advantages, weights, torch.zeros(5))

    loss, sums = policy_loss(tokens, LossSettings(clip_low=0.5, clip_high=9.0, truncate=10.0))
    loss.backward()

    ratio = (logprobs.detach() - behaviour).exp()
    slope = torch.tensor([ratio[0], ratio[1], 0.0, 0.0, ratio[4]])  # the third is over the clip, the fourth under it
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, -weights * advantages * slope)
    assert float(sums["clipped"]) == pytest.approx(0.4)
    assert float(sums["truncated"]) == pytest.approx(0.2)

    logprobs.grad = None
    policy_loss(tokens, LossSettings(clip_low=1.0, clip_high=float("inf"), truncate=10.0))[0].backward()
    torch.testing.assert_close(logprobs.grad, -weights * advantages * ratio.clamp(max=10.0))


def test_regression_weighs_what_was_sampled_by_the_exponential_of_its_advantage() -> None:
    behaviour = torch.tensor([-1.0, -1.0, -5.0])
    logprobs = torch.tensor([-1.0, -0.5, -1.0], requires_grad=True)
    advantages = torch.tensor([0.5, -0.5, 2.0])
    weights = torch.full((3,), 0.25)
    tokens = Tokens(logprobs, behaviour, advantages, weights, torch.zeros(3))

    settings = LossSettings(clip_low=1.0, clip_high=float("inf"), truncate=10.0, regression=0.5)
    policy_loss(tokens, settings)[0].backward()

    expected = torch.tensor([np.e, 1 / np.e, 10.0])  # the last is truncated; how far the policy has moved is no matter
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, -weights * expected)


def test_regression_is_for_replay_only(router: Path, tmp_path: Path, router_store: str) -> None:
    with pytest.raises(TrainingError, match=r"regression: it is for replay, not for sft"):
        settings_of(router, tmp_path / "out", router_store, method="sft", regression=0.3)


def test_the_first_step_of_replay_finds_the_probabilities_that_were_captured(
    router: Path, tmp_path: Path, router_store: str
) -> None:
    out = tmp_path / "out"
    train(settings_of(router, out, router_store, steps=2))

    first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])

    assert first["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert first["ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert first["staleness"] == 0.0


def test_ratios_are_of_the_temperature_that_sampled(router: Path, tmp_path: Path) -> None:
    url = stored(tmp_path / "t.db", Runs(router, temperature=0.7).traces(8))
    out = tmp_path / "out"
    train(settings_of(router, out, url, steps=1))

    first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])

    assert first["ratio_max"] == pytest.approx(1.0, abs=1e-4)


def test_each_rollout_weighs_the_same_however_long_it_is(router: Path, router_runs: Runs, tmp_path: Path) -> None:
    traces = [*two_turns(router_runs), *router_runs.traces(4, seed=99, requests=("both",))]
    for number, trace in enumerate(traces[3:]):
        trace.rewards[0].values["outcome"] = float(number < 2)
    made = material(settings_of(router, tmp_path / "a", stored(tmp_path / "t.db", traces), batch=99))

    examples = made.source.next_batch(0, "policy-1")

    sums: dict[str, float] = {}
    for example in examples:
        sums[example.row.trace_id] = sums.get(example.row.trace_id, 0.0) + float(example.weights.sum())
    assert set(sums) == {trace.id for trace in traces}
    assert all(total == pytest.approx(1.0) for total in sums.values())


def test_a_source_gives_each_run_once_a_pass_and_goes_by_the_step(
    router: Path, router_store: str, tmp_path: Path
) -> None:
    settings = settings_of(router, tmp_path / "a", router_store, batch=10)
    one, other = material(settings).source, material(settings).source

    given = [[example.row.trace_id for example in one.next_batch(step, "")] for step in range(24)]

    passes = np.array([name for batch in given for name in batch]).reshape(5, 48)
    assert all(len(set(turn)) == 48 for turn in passes)
    assert list(passes[0]) != list(passes[1])
    assert [example.row.trace_id for example in other.next_batch(17, "")] == given[17]


def test_leave_one_out_is_what_a_ridge_without_the_run_predicts() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(400, 3))
    rewards = features @ np.array([1.0, -2.0, 0.0]) + 3 + draw.normal(size=400) * 0.1

    expected = leave_one_out(features, rewards)

    assert np.abs(expected - rewards).mean() < 0.2
    changed = rewards.copy()
    changed[7] += 5.0
    # Its own reward is not in it; only the scale of the penalty may have changed.
    assert leave_one_out(features, changed)[7] == pytest.approx(expected[7], abs=0.02)


def test_a_call_is_charged_to_the_turns_that_could_help_it(router: Path, router_runs: Runs, tmp_path: Path) -> None:
    from toolorch_integrations.ledger import Call, CallKind
    from toolorch_integrations.trace import TraceCall

    traces = two_turns(router_runs)
    for trace, dollars in zip(traces, (1.0, 0.6, 0.2), strict=True):
        trace.rewards[0].values["outcome"] = 1.0
        first = next(node.index for node in trace.graph.nodes if node.sampled)
        trace.calls.append(TraceCall(0, Call(CallKind.TOOL, "search", dollars=dollars), first, started=1000.5))
    url = stored(tmp_path / "t.db", traces)
    wanted = {"preferences": Preferences(cost=1.0), "batch": 3}

    by_run = material(settings_of(router, tmp_path / "a", url, **wanted)).source.next_batch(0, "")
    by_call = material(settings_of(router, tmp_path / "b", url, credit="call", **wanted)).source.next_batch(0, "")

    gained = []
    for trace in traces:
        whole, split = (next(e for e in batch if e.row.trace_id == trace.id) for batch in (by_run, by_call))
        trained = split.row.trained
        turns = np.unique(split.row.nodes[trained])
        early, late = [split.advantages[(split.row.nodes == node) & trained][0] for node in turns]
        assert early == pytest.approx(whole.advantages[trained][0])  # it made the call
        gained.append(late - early)  # it could not help it
    # Each in proportion to its dollars, that of the run with an advantage of 0 too.
    assert np.allclose(gained, gained[0] * np.array([1.0, 0.6, 0.2]), rtol=1e-4)
    assert gained[0] > 0
