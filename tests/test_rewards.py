from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import sample_events
from toolorch_integrations import Preferences
from toolorch_integrations.events import PolicyCalled
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.store import TraceStore
from toolorch_integrations.trace import Reward, Trace, TraceCall
from toolorch_rl.rewards import (
    OURS,
    PAPER,
    PRESETS,
    RELEASED_SCRIPT,
    CallCost,
    RewardError,
    Rewards,
    RunFeatures,
    attach,
    credit,
    features_of,
    preset,
    reward,
)
from toolorch_rl.verifiers import Verdict

CHEAP = Preferences(cost=0.5)


def run(
    name: str = "r", solved: bool = True, dollars: float | None = 1.0, seconds: float | None = 1.0, **calls: int
) -> RunFeatures:
    return RunFeatures(name, calls, solved, dollars, seconds)


def scalars(runs: list[RunFeatures], preferences: Any = CHEAP, settings: Any = PAPER) -> list[float]:
    return reward(runs, ["t"] * len(runs), preferences, settings).scalars.tolist()


# The equations, on figures worked out by hand


def test_the_papers_equations_with_the_right_signs():
    runs = [
        run("a", True, 1.0, 10.0, search=2),
        run("b", True, 3.0, 20.0, search=1, coder=1),
        run("c", False, 5.0, 30.0),
    ]
    preferences = Preferences(quality=1.0, cost=0.5, latency=0.25, tools={"coder": 0.2})
    found = reward(runs, ["t"] * 3, preferences)
    assert found.names == ("coder", "search", "outcome", "cost", "latency")
    assert found.vectors.tolist() == [[0, 1, 1, 1, 1], [1, 0.5, 1, 0.5, 0.5], [0, 0, 0, 0, 0]]
    assert found.scalars.tolist() == [1.75, 0.2 + 1 + 0.25 + 0.125, 0.0]
    mean, std = np.mean(found.scalars), np.std(found.scalars)
    np.testing.assert_allclose(found.advantages, (found.scalars - mean) / std)
    assert found.notes == ()


def test_a_tool_that_only_some_runs_called_counts():
    used, unused = run("a", coder=1), run("b")
    likes_coder = Preferences(tools={"coder": 1.0})
    first, second = scalars([used, unused], likes_coder)
    assert first > second


def test_a_constant_feature_counts_nothing():
    found = reward([run("a"), run("b")], ["t", "t"], Preferences(cost=1, latency=1))
    assert found.vectors.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert found.advantages.tolist() == [0, 0]


def test_values_that_differ_by_rounding_are_constant():
    found = reward([run("a", dollars=0.1 + 0.2), run("b", dollars=0.3)], ["t", "t"], CHEAP)
    assert found.scalars.tolist() == [0, 0]


def test_one_run_in_a_group_and_all_wrong_give_no_advantage():
    alone = reward([run(dollars=2)], ["t"], CHEAP)
    assert (alone.scalars.tolist(), alone.advantages.tolist()) == ([0], [0])
    assert reward([run(dollars=2)], ["t"], CHEAP, OURS).scalars.tolist() == [1]
    for settings in PRESETS.values():
        wrong = reward([run("a", False, 1), run("b", False, 2)], ["t", "t"], CHEAP, settings)
        assert (wrong.scalars.tolist(), wrong.advantages.tolist()) == ([0, 0], [0, 0])


def test_unknown_costs_are_absent_and_said_so_and_do_not_spoil_other_groups():
    runs = [run("a", dollars=None), run("b", dollars=9), run("c", dollars=1), run("d", dollars=2)]
    found = reward(runs, ["x", "x", "y", "y"], CHEAP)
    assert found.scalars.tolist() == [0, 0, 0.5, 0]
    assert found.notes == ("group x: dollars of 1 of 2 runs are not known and do not count",)


@pytest.mark.parametrize(
    ("runs", "groups", "why"),
    [
        ([], [], "no runs"),
        ([run()], [], "1 runs, 0 groups"),
        ([run("bad", dollars=float("nan"))], ["t"], "dollars of run bad is nan"),
        ([run("bad", seconds=-1.0)], ["t"], "seconds of run bad is -1"),
    ],
)
def test_what_cannot_be_rewarded_is_named(runs: list[RunFeatures], groups: list[str], why: str):
    with pytest.raises(RewardError, match=why):
        reward(runs, groups, CHEAP)


def test_presets_are_what_the_paper_and_the_script_say():
    assert (RELEASED_SCRIPT.kl, RELEASED_SCRIPT.clip_low, RELEASED_SCRIPT.clip_high) == (1e-4, 0.2, 0.28)
    assert (PAPER.kl, PAPER.clip_low, PAPER.clip_high) == (0, 0.2, 0.2)
    assert PAPER.homogeneous_std == RELEASED_SCRIPT.homogeneous_std == 0.1
    assert preset("ours") is OURS
    with pytest.raises(RewardError, match="choose one of paper, released_script, ours"):
        preset("theirs")


def test_the_released_script_divides_by_the_sample_deviation():
    runs = [run("a", dollars=1), run("b", dollars=2), run("c", dollars=4)]
    ours, theirs = (reward(runs, ["t"] * 3, CHEAP, settings).advantages for settings in (PAPER, RELEASED_SCRIPT))
    np.testing.assert_allclose(theirs, ours * np.sqrt(2 / 3), rtol=1e-4)


def test_ours_measures_cheap_among_solved_runs_and_does_not_stretch_noise():
    gave_up = run("quit", False, 0.0)
    near, far = run("a", dollars=1.00), run("b", dollars=1.02)
    assert scalars([near, far, gave_up], settings=OURS)[0] == pytest.approx(1 + 0.5 * (0.02 / 1.02) / 0.2)
    assert scalars([near, far])[:2] == [0.5, 0]
    apart = [run("a", dollars=1.0), run("b", dollars=2.0)]
    with_quitter = reward([*apart, gave_up], ["t"] * 3, CHEAP, OURS)
    assert with_quitter.vectors[:2, -2].tolist() == [1, 0]
    assert reward([*apart, gave_up], ["t"] * 3, CHEAP).vectors[:2, -2].tolist() == [0.5, 0]


# Properties

amounts = st.one_of(st.floats(0, 1e6, allow_subnormal=False).filter(lambda v: v == 0 or v > 1e-6))
features = st.builds(
    run,
    solved=st.booleans(),
    dollars=amounts,
    seconds=amounts,
    search=st.integers(0, 5),
    coder=st.integers(0, 5),
)
groups_of_runs = st.lists(features, min_size=1, max_size=8)
weights = st.floats(0, 1)
any_preferences = st.builds(
    lambda quality, cost, latency, search, coder: Preferences(
        quality=quality, cost=cost, latency=latency, tools={"search": search, "coder": coder}
    ),
    weights, weights, weights, weights, weights,
)  # fmt: skip
any_preset = st.sampled_from(list(PRESETS.values()))


@given(groups_of_runs, any_preferences, any_preset, st.randoms())
def test_the_order_of_runs_never_matters(runs: list[RunFeatures], preferences: Preferences, settings: Any, random: Any):
    order = random.sample(range(len(runs)), len(runs))
    straight = reward(runs, ["t"] * len(runs), preferences, settings)
    mixed = reward([runs[place] for place in order], ["t"] * len(runs), preferences, settings)
    np.testing.assert_array_equal(mixed.scalars, straight.scalars[order])
    np.testing.assert_allclose(mixed.advantages, straight.advantages[order], rtol=1e-6, atol=1e-6)


@given(groups_of_runs, any_preferences, any_preset, st.sampled_from([2.0**-10, 0.25, 8.0, 2.0**20]))
def test_neither_the_currency_nor_the_unit_of_time_matters(
    runs: list[RunFeatures], preferences: Preferences, settings: Any, factor: float
):
    scaled = [replace(item, dollars=item.dollars * factor, seconds=item.seconds * factor) for item in runs]  # type: ignore[operator]
    keys = ["t"] * len(runs)
    before, after = (reward(items, keys, preferences, settings) for items in (runs, scaled))
    np.testing.assert_allclose(after.scalars, before.scalars, rtol=1e-9, atol=1e-9)


@given(groups_of_runs, st.integers(0, 7), st.integers(0, 7), any_preferences, any_preset)
def test_of_two_solved_runs_that_differ_only_in_cost_the_cheaper_never_earns_less(
    runs: list[RunFeatures], first: int, second: int, preferences: Preferences, settings: Any
):
    one, two = runs[first % len(runs)], runs[second % len(runs)]
    pair = [replace(one, solved=True), replace(one, solved=True, dollars=two.dollars, seconds=two.seconds)]
    found = scalars([*runs, *pair], preferences, settings)[-2:]
    for quick, slow in ((0, 1), (1, 0)):
        less = pair[quick].dollars <= pair[slow].dollars and pair[quick].seconds <= pair[slow].seconds  # type: ignore[operator]
        assert not less or found[quick] >= found[slow] - 1e-12


@given(groups_of_runs, any_preferences, any_preset)
def test_a_solved_run_never_earns_less_than_one_that_is_not(
    runs: list[RunFeatures], preferences: Preferences, settings: Any
):
    found = reward(runs, ["t"] * len(runs), preferences, settings)
    for item, value in zip(runs, found.scalars.tolist(), strict=True):
        assert value >= 0 if item.solved else value == 0
    assert ((found.vectors >= 0) & (found.vectors <= 1)).all()


@given(st.lists(groups_of_runs, min_size=1, max_size=4), any_preferences, any_preset)
def test_groups_do_not_touch_each_other(many: list[list[RunFeatures]], preferences: Preferences, settings: Any):
    runs = [item for group in many for item in group]
    keys = [number for number, group in enumerate(many) for _ in group]
    together = reward(runs, keys, preferences, settings)
    apart = [reward(group, ["t"] * len(group), preferences, settings) for group in many]
    np.testing.assert_array_equal(together.scalars, np.concatenate([found.scalars for found in apart]))
    np.testing.assert_allclose(together.advantages, np.concatenate([found.advantages for found in apart]))


@given(groups_of_runs, any_preferences)
def test_counting_a_call_as_zero_is_the_same_as_leaving_it_out(runs: list[RunFeatures], preferences: Preferences):
    sparse = [replace(item, calls={name: count for name, count in item.calls.items() if count}) for item in runs]
    assert scalars(sparse, preferences) == scalars(runs, preferences)


@given(
    st.lists(st.tuples(st.booleans(), st.lists(st.tuples(amounts, amounts), max_size=5)), min_size=1, max_size=5),
    any_preferences,
    any_preset,
)
def test_the_credits_of_a_runs_calls_add_up_to_its_features(
    runs: list[tuple[bool, list[tuple[float, float]]]], preferences: Preferences, settings: Any
):
    made = []
    for number, (solved, spent) in enumerate(runs):
        costs = tuple(
            CallCost("c", CallKind.TOOL, dollars, seconds, place) for place, (dollars, seconds) in enumerate(spent)
        )
        totals = sum(cost.dollars for cost in costs), sum(cost.seconds for cost in costs)
        made.append(RunFeatures(str(number), {}, solved, *totals, costs))
    rewards = reward(made, ["t"] * len(made), preferences, settings)
    for row, found in enumerate(credit(rewards)):
        weighed = (rewards.vectors[row, -2:] * rewards.weights[row, -2:]).sum() if made[row].solved else 0.0
        total = found.base + sum(entry.cost + entry.latency for entry in found.calls)
        assert total == pytest.approx(weighed, abs=1e-9 * max(1.0, found.base))
        assert all(entry.cost <= 0 and entry.latency <= 0 for entry in found.calls)
        assert sum(found.by_node().values()) == pytest.approx(total - found.base, abs=1e-9 * max(1.0, found.base))


# From captured traces


def captured(trace_id: str = "a" * 32, **call: Any) -> Trace:
    """A run of two policy calls (0.5 s and $0.001 each) and one call."""
    trace = Trace(id=trace_id)
    for event in sample_events.conversation(trace_id):
        if isinstance(event, PolicyCalled):
            trace.graph.add_policy_call(event)
        else:
            made = replace(event.call, **call)
            trace.add_call(TraceCall(0, made, trace.graph.asker("c0"), result=event.result))
    return trace


def test_features_of_a_trace_charge_every_call_the_last_one_included():
    found = features_of(captured(), solved=True)
    assert found.calls == {"add": 1}
    assert found.dollars == pytest.approx(0.001 + 0.01 + 0.001)
    assert found.seconds == pytest.approx(0.5 + 0.1 + 0.5)
    assert sum(cost.dollars for cost in found.costs) == found.dollars
    asked = next(cost for cost in found.costs if cost.kind is CallKind.TOOL)
    policy = [cost for cost in found.costs if cost.kind is CallKind.POLICY]
    assert asked.node == policy[0].node != policy[1].node
    assert policy[-1].dollars == 0.001


def test_calls_that_were_never_made_are_charged_but_not_counted():
    for status in (CallStatus.UNKNOWN, CallStatus.MALFORMED, CallStatus.REFUSED, CallStatus.BUDGET):
        found = features_of(captured(status=status, dollars=0.0), solved=True)
        assert found.calls == {}
        assert found.dollars == pytest.approx(0.002)
    assert features_of(captured(status=CallStatus.ERROR), solved=True).calls == {"add": 1}


def test_time_that_calls_spend_side_by_side_counts_once_and_is_shared():
    trace = Trace(id="t")
    now = 1_800_000_000.0
    for number, (began, length) in enumerate([(0, 4), (1, 3), (4, 1), (9, 1)]):
        call = Call(CallKind.TOOL, "t", seconds=length, call_id=f"c{number}")
        trace.add_call(TraceCall(number, call, started=now + began))
    found = features_of(trace, solved=True)
    assert found.seconds == 6
    assert [cost.seconds for cost in found.costs] == [2.5, 1.5, 1, 1]


def test_a_run_without_prices_does_not_know_its_dollars_unless_its_catalogue_has_some():
    trace = Trace(id="t", catalog_hash="h")
    trace.add_call(TraceCall(0, Call(CallKind.TOOL, "free")))
    assert features_of(trace, solved=True).dollars is None
    assert features_of(trace, solved=True).seconds is None
    trace.snapshots = {"h": [{"alias": "free", "name": "free", "price": {"input": 0.0}}]}
    assert features_of(trace, solved=True).dollars is None
    trace.snapshots = {"h": [{"alias": "free", "name": "free"}, {"name": "coder", "price": {"output": 2.0}}]}
    assert features_of(trace, solved=True).dollars == 0


def test_the_outcome_comes_from_a_verdict_or_from_the_newest_reward_of_the_trace():
    trace = captured()
    assert features_of(trace, Verdict(0.4, False, "")).solved is False
    with pytest.raises(RewardError, match=f"trace {trace.id} has no outcome"):
        features_of(trace)
    trace.rewards = [Reward(trace.id, {"outcome": 1.0}, created=2), Reward(trace.id, {"outcome": 0.0}, created=1)]
    assert features_of(trace).solved is True


def test_rewards_are_attached_to_their_traces_and_replaced_the_next_time(tmp_path: Path):
    traces = [captured("a" * 32), captured("b" * 32, dollars=0.5)]

    def rewards(first: bool) -> Rewards:
        runs = [features_of(trace, solved) for trace, solved in zip(traces, (first, True), strict=True)]
        return reward([*runs], ["task"] * 2, Preferences(cost=1))

    with TraceStore.open(tmp_path / "traces.db") as store:
        for trace in traces:
            store.add(trace)
        attach(store, rewards(True), "exact")
        attach(store, rewards(False), "exact")
        attach(store, rewards(True), "judge")
        by_verifier = {entry.verifier: entry.values for entry in store.trace("a" * 32).rewards}
        assert by_verifier == {
            "exact": {"outcome": 0.0, "cost": 1.0, "latency": 0.0, "calls:add": 0.0},
            "judge": {"outcome": 1.0, "cost": 1.0, "latency": 0.0, "calls:add": 0.0},
        }
        assert features_of(store.trace("b" * 32)).solved
