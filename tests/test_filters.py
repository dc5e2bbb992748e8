from __future__ import annotations

from typing import Any

import pytest

from toolorch_integrations import Preferences
from toolorch_integrations.events import PolicyCalled, TraceStatus
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.trace import Trace, TraceCall
from toolorch_rl.filtered import Filtered
from toolorch_rl.filters import FILTERS, drop_homogeneous, drop_unanswered, drop_unparsed, unknown_filter
from toolorch_rl.online.settings import OnlineSettings
from toolorch_rl.rewards import OURS, RunFeatures, reward
from toolorch_rl.rollouts import RolloutError

USER = {"role": "user", "content": "Add."}


def trace(
    name: str, content: str = "4", status: TraceStatus = TraceStatus.ANSWERED, answer: str = "4", **call: Any
) -> Trace:
    made = Trace(id=name, status=status, answer=answer)
    made.graph.add_policy_call(PolicyCalled(name, [USER], {"role": "assistant", "content": content}, **call))
    return made


def dropped(found: Filtered[Any]) -> dict[str, str]:
    return {entry.run: entry.reason for entry in found.dropped}


def test_runs_with_calls_that_did_not_parse_are_dropped():
    malformed = trace("malformed")
    malformed.add_call(TraceCall(0, Call(CallKind.TOOL, "add", CallStatus.MALFORMED)))
    failed = trace("failed")
    failed.add_call(TraceCall(0, Call(CallKind.TOOL, "add", CallStatus.ERROR)))
    summary = trace("summary", "<tool_call> is a mark", is_policy=False)
    traces = [
        trace("fine"),
        trace("broken", invalid_tool_calls=[{"name": "add"}]),
        failed,
        trace("text", 'I will <tool_call>{"name": '),
        malformed,
        summary,
    ]
    found = drop_unparsed(traces)
    assert [item.id for item in found.kept] == ["fine", "failed", "summary"]
    assert found.places == [0, 2, 5]
    assert dropped(found) == {
        "broken": "a tool call could not be parsed",
        "text": "a tool call was left in the text",
        "malformed": "the arguments of a call did not fit",
    }
    assert found.text().startswith("kept 3 of 6; 1 format: ")


def test_runs_without_an_answer_of_their_own_are_dropped():
    traces = [
        trace("fine"),
        trace("empty", answer=" \n"),
        trace("budget", status=TraceStatus.BUDGET),
        trace("error", status=TraceStatus.ERROR),
        trace("waits", status=TraceStatus.INTERRUPTED),
        trace("runs", status=TraceStatus.RUNNING),
        Trace(id="fallback", status=TraceStatus.ANSWERED, answer="Somebody else's words."),
    ]
    found = drop_unanswered(traces)
    assert [item.id for item in found.kept] == ["fine"]
    assert {entry.filter for entry in found.dropped} == {"output"}
    assert dropped(found)["empty"] == "the answer is empty"
    assert dropped(found)["budget"] == "the budget ended before the policy answered"
    assert dropped(found)["fallback"] == "the policy said nothing in it"


def test_groups_whose_runs_are_all_alike_are_dropped():
    def run(name: str, dollars: float, solved: bool = True) -> RunFeatures:
        return RunFeatures(name, {}, solved, dollars, None)

    runs = [run("a", 1), run("b", 2), run("c", 1), run("d", 1), run("e", 1, False), run("f", 2, False), run("g", 1)]
    rewards = reward(runs, ["x", "x", "y", "y", "z", "z", "alone"], Preferences(cost=1))
    found = drop_homogeneous(rewards)
    assert found.kept == found.places == [0, 1]
    assert sorted(dropped(found)) == ["c", "d", "e", "f", "g"]
    assert "under 0.1" in found.dropped[0].reason


@pytest.mark.parametrize(("cost", "kept"), [(0.19, []), (0.21, [0, 1])])
def test_the_limit_is_a_standard_deviation_of_a_tenth(cost: float, kept: list[int]):
    runs = [RunFeatures("a", {}, True, 1.0, None), RunFeatures("b", {}, True, 3.0, None)]
    assert drop_homogeneous(reward(runs, ["x", "x"], Preferences(cost=cost), OURS), OURS).kept == kept


def test_a_filter_that_there_is_not_is_refused_by_name():
    assert unknown_filter(FILTERS) is None
    with pytest.raises(
        RolloutError, match="filters: there is no filter 'quallity'; choose among format, output, quality"
    ):
        OnlineSettings(filters=("output", "quallity"))
