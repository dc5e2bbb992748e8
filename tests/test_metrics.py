from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolorch_integrations import Preferences
from toolorch_integrations.ledger import CallStatus
from toolorch_rl.conversation import Conversation, Step, from_messages
from toolorch_rl.metrics import (
    METRICS,
    Estimate,
    MeasuredRun,
    MetricsError,
    bootstrap,
    chain_scores,
    measure,
    preference_score,
    routing,
    wilson,
)
from toolorch_rl.quality import check, rules_of
from toolorch_rl.rewards import RewardError, RunFeatures
from toolorch_rl.synthesis import conversation, synthesize
from toolorch_rl.tasks import Task


@dataclass(frozen=True)
class Golden:
    id: str
    name: str
    arguments: Mapping[str, Any]
    sources: Mapping[str, str] = field(default_factory=dict)


# Create a project, then two tasks in it in one turn.
CHAIN = [
    [Golden("g1", "create_project", {"name": "Apollo"})],
    [
        Golden("g2", "create_task", {"project_id": "P7", "title": "Rocket"}, {"project_id": "g1:id"}),
        Golden("g3", "create_task", {"project_id": "P7", "title": "Fuel"}, {"project_id": "g1:id"}),
    ],
]


def run(*calls: tuple[Any, ...], answer: str = "Apollo has the tasks Rocket and Fuel.") -> Conversation:
    """Return a conversation of (turn, name, arguments, result, status)."""
    steps = [Step(place, call[0], call[1], call[2], *call[3:]) for place, call in enumerate(calls)]
    return Conversation("run", tuple(steps), answer)


def project(key: str = "P7", turn: int = 0) -> tuple[Any, ...]:
    return (turn, "create_project", {"name": "apollo"}, {"id": key})


def task(turn: int, title: str, key: str = "P7", status: CallStatus = CallStatus.OK) -> tuple[Any, ...]:
    return (turn, "create_task", {"project_id": key, "title": title}, {"id": f"T-{title}"}, status)


# Chains


def test_the_golden_way_scores_full_marks():
    found = chain_scores(CHAIN, run(project(), task(1, "Fuel"), task(1, "Rocket")))
    assert found.completed is True
    assert (found.dependent, found.dependent_right, found.dependent_missing) == (2, 2, 0)
    assert (found.opportunities, found.opportunities_taken) == (1, 1)
    assert (found.independent, found.serialised) == (1, 0)


def test_ids_that_the_runs_own_database_made_up_are_right():
    assert chain_scores(CHAIN, run(project("X1"), task(1, "Rocket", "X1"), task(1, "Fuel", "X1"))).completed
    found = chain_scores(CHAIN, run(project("X1"), task(1, "Rocket", "X1"), task(1, "Fuel", "X2")))
    assert (found.completed, found.dependent, found.dependent_right) == (False, 2, 1)


def test_a_chain_that_stops_half_way_is_not_completed_and_its_missing_calls_are_no_wrong_ids():
    found = chain_scores(CHAIN, run(project(), task(1, "Rocket")))
    assert found.completed is False
    assert (found.dependent, found.dependent_right, found.dependent_missing) == (1, 1, 1)
    assert (found.opportunities_taken, found.independent) == (0, 0)


def test_independent_calls_made_one_after_another_are_serialised():
    found = chain_scores(CHAIN, run(project(), task(1, "Rocket"), task(2, "Fuel")))
    assert found.completed is True
    assert (found.opportunities_taken, found.independent, found.serialised) == (0, 1, 1)


@pytest.mark.parametrize(
    "calls",
    [
        (project(), task(1, "Rocket"), task(1, "Fuel"), task(1, "Ladder")),
        (project(), task(1, "Rocket"), task(1, "Fuel", status=CallStatus.ERROR)),
        (project(), task(1, "Rocket"), task(1, "Fuel"), (2, "delete_project", {"project_id": "P7"}, {"id": "P7"})),
        (project(), task(1, "Rocket"), (1, "create_task", {"project_id": "P7", "title": "Fuel", "done": True}, {})),
    ],
)
def test_a_chain_with_another_change_a_failure_or_another_argument_is_not_completed(calls: tuple[Any, ...]):
    assert chain_scores(CHAIN, run(*calls)).completed is False


def test_a_retry_and_further_look_ups_do_no_harm_and_an_answer_is_needed():
    calls = [(0, "list_projects", {}, {"projects": []}), project(turn=1), task(2, "Rocket")]
    calls += [task(2, "Fuel", status=CallStatus.ERROR), task(3, "Fuel")]
    assert chain_scores(CHAIN, run(*calls)).completed is True
    assert chain_scores(CHAIN, run(*calls, answer=" ")).completed is False


def test_how_an_id_was_looked_up_does_not_matter_but_what_was_asked_for_does():
    golden = [
        [Golden("g1", "list_tasks", {"done": False})],
        [Golden("g2", "complete_task", {"task_id": "T2"}, {"task_id": "g1:tasks[1].id"})],
        [Golden("g3", "get_task", {"task_id": "T2"}, {"task_id": "g1:tasks[1].id"})],
    ]
    listed = (0, "list_tasks", {"done": False}, {"tasks": [{"id": "A"}, {"id": "B"}]})
    searched = (0, "search_tasks", {"query": "Fuel"}, {"tasks": [{"id": "T2"}]})

    def rest(key: str) -> list[tuple[Any, ...]]:
        return [(1, "complete_task", {"task_id": key}, {}), (2, "get_task", {"task_id": key}, {"id": key})]

    assert chain_scores(golden, run(searched, *rest("T2"))).completed is True
    assert chain_scores(golden, run(listed, *rest("B"))).completed is True
    assert chain_scores(golden, run(listed, *rest("A"))).completed is False
    assert chain_scores(golden, run(listed, *rest("B")[:1])).completed is False


def test_a_call_that_a_person_refused_counts_as_made():
    golden = [[Golden("g1", "get_task", {"task_id": "T"})], [Golden("g2", "delete_task", {"task_id": "T"})]]
    refused = (1, "delete_task", {"task_id": "T"}, "The user refused", CallStatus.REFUSED)
    assert chain_scores(golden, run((0, "get_task", {"task_id": "T"}, {"id": "T"}), refused)).completed is True


def test_what_a_person_says_no_to_need_not_be_made_and_must_not_go_through():
    golden = [[Golden("g1", "get_task", {"task_id": "T"})], [Golden("g2", "delete_task", {"task_id": "T"})]]
    looked, deleted = (0, "get_task", {"task_id": "T"}, {"id": "T"}), (1, "delete_task", {"task_id": "T"}, {})
    assert chain_scores(golden, run(looked)).completed is False
    assert chain_scores(golden, run(looked), ["g2"]).completed is True
    assert chain_scores(golden, run(looked, deleted), ["g2"]).completed is False


def test_a_single_golden_turn_is_no_chain():
    assert chain_scores(CHAIN[1:], run(task(0, "Rocket"), task(0, "Fuel"))).completed is None


# Estimates


def test_wilson_is_the_textbooks():
    found = wilson(8, 10)
    assert (found.value, found.method, found.count) == (0.8, "wilson", 10)
    assert (found.low, found.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 0).value is None


def test_the_bootstrap_finds_the_spread_of_a_mean():
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = bootstrap(values.tolist())
    assert found.method == "bootstrap"
    assert found.value == pytest.approx(values.mean())
    assert found.low is not None
    assert found.high is not None
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)
    assert bootstrap(values.tolist()) == found, "the same data give the same interval"


def test_calls_of_one_run_are_not_independent():
    together = bootstrap([10, 0] * 20, [10, 10] * 20, share=True)
    apart = bootstrap([1, 0] * 200, [1, 1] * 200, share=True)
    assert together.value == apart.value == 0.5
    assert together.high - together.low > 2 * (apart.high - apart.low)  # type: ignore[operator]


def test_a_bootstrap_without_spread_does_not_pretend_to_be_sure():
    perfect = bootstrap([3, 2, 4], [3, 2, 4], share=True)
    assert (perfect.value, perfect.high, perfect.method, perfect.count) == (1, 1, "wilson", 3)
    assert perfect.low == pytest.approx(wilson(3, 3).low)
    assert bootstrap([2.0]) == Estimate(2.0, count=1)
    assert bootstrap([1], [0], note="nothing to count").note == "nothing to count"
    assert bootstrap([], note="nobody").text() == "- (nobody)"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20))
def test_a_share_lies_in_its_interval_and_both_in_zero_to_one(pairs: list[tuple[int, int]]):
    parts, wholes = [min(pair) for pair in pairs], [max(pair) for pair in pairs]
    found = bootstrap(parts, wholes, share=True)
    if sum(wholes):
        assert found.value == pytest.approx(sum(parts) / sum(wholes))
        assert found.low is not None
        assert found.high is not None
        assert 0 <= found.low <= found.high <= 1
    else:
        assert found.value is None


# The preference score


def features(name: str = "r", solved: bool = True, cents: float = 0, minutes: float = 0, **calls: int) -> RunFeatures:
    return RunFeatures(name, calls, solved, cents / 100, minutes * 60)


def test_equations_5_and_6_on_figures_worked_out_by_hand():
    wanted = Preferences(quality=1, cost=0.5, latency=0.25, tools={"search": 0.8, "coder": 1})
    base = features("base", False, cents=30, minutes=20, search=2)
    policy = features("policy", True, cents=10, minutes=0.5, search=3, coder=1)
    (score,), mean = preference_score([policy], [base], [wanted])
    assert score == pytest.approx(0.8 * 3 / 2 + 1 * 1 / 1 + 1 * 1 / 1 + 0.5 * 30 / 10 + 0.25 * 20 / 1)
    assert mean.value == score
    assert preference_score([features(solved=False, coder=9)], [base], [wanted])[0] == [0]


@given(st.floats(1, 1e3), st.floats(1, 1e3), st.floats(0, 1))
def test_a_cheaper_run_never_scores_less(one: float, other: float, weight: float):
    base = features("base", cents=50)
    scores, _ = preference_score(
        [features(cents=min(one, other)), features(cents=max(one, other))], [base] * 2, [Preferences(cost=weight)] * 2
    )
    assert scores[0] >= scores[1]


def test_a_preference_score_needs_what_the_preferences_weigh():
    unknown = RunFeatures("r7", {}, True, None, None)
    scores, mean = preference_score([unknown] * 3, [unknown] * 3, [Preferences()] * 3)
    assert (scores, mean.value) == ([1, 1, 1], 1)
    with pytest.raises(RewardError, match="weigh dollars, and those of run r7 are not known"):
        preference_score([unknown], [features()], [Preferences(cost=1)])
    with pytest.raises(RewardError, match="1 runs, 0 baselines"):
        preference_score([unknown], [], [Preferences()])
    with pytest.raises(RewardError, match="units must be positive"):
        preference_score([unknown], [unknown], [Preferences()], dollar_unit=0)


# Routing


def test_shares_and_entropy_of_calls():
    counts: list[Mapping[str, int]] = [{"coder": 2}, {"coder": 1, "search": 1}, {"search": 1, "mathematician": 1}, {}]
    found = routing(counts, ["coder", "search", "mathematician", "generalist"])
    assert {name: share.value for name, share in found.shares.items()} == {
        "coder": 0.5,
        "search": pytest.approx(1 / 3),
        "mathematician": pytest.approx(1 / 6),
        "generalist": 0,
    }
    assert next(iter(found.shares)) == "coder"
    assert found.entropy.value == pytest.approx(1 / 2 + math.log2(3) / 3 + math.log2(6) / 6)
    assert found.most == 2
    assert not found.collapsed
    assert found.entropy.count == 3


def test_a_policy_that_calls_only_one_has_collapsed_when_the_data_are_enough_to_say_so():
    assert routing([{"big": 1}] * 100, ["big", "small"]).collapsed
    assert routing([{"big": 1}] * 100, ["big", "small"]).entropy.value == 0
    assert not routing([{"big": 1}] * 3, ["big", "small"]).collapsed
    assert not routing([{"big": 1}] * 100).collapsed, "there was no other choice"
    assert not routing([{"big": 3, "small": 1}] * 100).collapsed


def test_routing_without_calls_says_so():
    found = routing([{}, {}], ["coder"])
    assert (found.entropy.value, found.entropy.note) == (None, "no run has a call")
    assert found.shares["coder"].value is None
    assert routing([]).entropy.note == "there are no runs"


# The table


def measured(solved: bool | None, pattern: str, domain: str, seen: Conversation | None, **more: Any) -> MeasuredRun:
    golden: Sequence[Any] | None = more.pop("golden", CHAIN)
    return MeasuredRun("r", pattern, domain, solved, golden, conversation=seen, **more)


def test_the_table_has_all_metrics_by_pattern_and_domain():
    good = run(project(), task(1, "Rocket"), task(1, "Fuel"))
    slow = run(project(), task(1, "Rocket"), task(2, "Fuel"), answer="Done.")
    runs = [
        measured(True, "chain", "work", good, features=features(cents=100, minutes=1)),
        measured(True, "chain", "home", good, features=features(cents=300, minutes=1)),
        measured(False, "loop", "work", slow, features=RunFeatures("r", {}, False, None, 60.0)),
    ]
    table = measure(runs)
    assert set(table.groups) == {"all", "pattern chain", "pattern loop", "domain work", "domain home"}
    assert {name: found.value for name, found in table.groups["all"].items()} == {
        "solved": pytest.approx(2 / 3),
        "chain_completion": 1,
        "dependency_accuracy": 1,
        "parallel_recognition": pytest.approx(2 / 3),
        "over_serialisation": pytest.approx(1 / 3),
        "synthesis_quality": pytest.approx(2 / 3),
        "dollars": 2,
        "seconds": 60,
    }
    assert table["dollars"].count == 2
    assert table.groups["pattern loop"]["over_serialisation"].value == 1
    assert table.groups["domain work"]["parallel_recognition"].value == 0.5
    loaded = json.loads(table.to_json())
    assert loaded["all"]["chain_completion"]["method"] == "wilson"
    assert set(loaded["all"]) == set(METRICS)


def test_a_metric_that_the_data_cannot_give_says_so():
    bare = measure([measured(None, "", "", None, golden=None)])
    assert list(bare.groups) == ["all"]
    assert {name: found.note for name, found in bare.groups["all"].items()} == {
        "solved": "no run says whether it solved its task: run a verifier",
        "chain_completion": "no run has a conversation",
        "dependency_accuracy": "no run has a conversation",
        "parallel_recognition": "no run has a conversation",
        "over_serialisation": "no run has a conversation",
        "synthesis_quality": "no run has a conversation",
        "dollars": "dollars are not known of any run",
        "seconds": "seconds are not known of any run",
    }
    assert all(found.value is None for found in bare.groups["all"].values())
    single = [[Golden("g", "get_task", {"task_id": "T"})]]
    table = measure([measured(True, "single", "", run((0, "get_task", {"task_id": "T"}, {"id": "T"})), golden=single)])
    assert table["chain_completion"].note == "no task has two golden turns"
    assert table["parallel_recognition"].note == "no task has parallel golden calls"
    assert table["dependency_accuracy"].note == "no call that depends on a result was made"
    assert measure([measured(True, "", "", run(), golden=None)])["chain_completion"].note.startswith(
        "no run has golden"
    )
    assert measure([], ["solved", "seconds"])["seconds"].value is None
    with pytest.raises(MetricsError, match="there is no metric 'speed'; choose among solved"):
        measure([], ["speed"])


# Synthesised tasks


def row_of(task: Task) -> Conversation:
    row = conversation(task)
    approved = [entry["tool_call_id"] for entry in row["confirmations"] if entry["decision"] == "approve"]
    aliases = task.full_catalog().view(task.catalog, task.request).aliases
    return from_messages(row["messages"], name=task.id, confirmed=approved, aliases=aliases)


def test_golden_runs_of_synthesised_tasks_pass_every_check_and_score_full_marks():
    runs = []
    for task in list(synthesize(11, 600))[::6]:
        seen = row_of(task)
        report = check(seen, **rules_of(task.schema_of_environment))
        assert report.passed, f"{task.id}: {report.text()}"
        runs.append(MeasuredRun.of(task, seen, True))
    table = measure(runs)
    values = {name: table[name].value for name in METRICS if name not in ("dollars", "seconds")}
    assert values.pop("over_serialisation") == 0
    assert values == dict.fromkeys(values, 1)
    assert len([group for group in table.groups if group.startswith("pattern")]) == 7
