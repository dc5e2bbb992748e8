from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolorch_integrations.events import Message, PolicyCalled
from toolorch_integrations.graph import TraceGraph
from toolorch_integrations.node import Node

SYSTEM: Message = {"role": "system", "content": "Be brief."}
USER: Message = {"role": "user", "content": "Add 2 and 2."}


def call(messages: list[Message], prompt: list[int] | None, reply: Message | None, ids: list[int] | None = None):
    logprobs = None if ids is None else [-0.5 - index for index in range(len(ids))]
    return PolicyCalled("t", messages, reply, prompt, ids, logprobs, model="policy-1")


def asks(call_id: str, arguments: str = '{"a": 1}', **more: object) -> Message:
    function = {"name": "add", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": call_id, "type": "function", "function": function}], **more}


def says(text: str, **more: object) -> Message:
    return {"role": "assistant", "content": text, **more}


def tool(call_id: str, content: str = "4") -> Message:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def stored_ids(graph: TraceGraph) -> int:
    return sum(len(node.ids) for node in graph.nodes) // 4


def test_a_growing_conversation_is_one_path_that_holds_each_id_once():
    graph = TraceGraph()
    first = graph.add_policy_call(call([SYSTEM, USER], [1, 2, 3], asks("c1"), [4, 5]))
    second = graph.add_policy_call(call([SYSTEM, USER, asks("c1"), tool("c1")], [1, 2, 3, 4, 5, 6, 7], says("4"), [8]))
    assert first is not None
    assert second is not None
    (path,) = graph.paths()
    assert path.token_ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert path.sampled.tolist() == [False, False, False, True, True, False, False, True]
    assert path.logprobs[path.sampled].tolist() == [-0.5, -1.5, -0.5]
    assert np.isnan(path.logprobs[~path.sampled]).all()
    assert path.spans == [(0, 0), (0, 3), (3, 5), (5, 7), (7, 8)]
    assert path.exact
    assert [message["role"] for message in path.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert graph.asker("c1") == first.index
    assert stored_ids(graph) == 8


def test_the_ids_of_several_new_messages_sit_on_the_last():
    graph = TraceGraph()
    graph.add_policy_call(call([SYSTEM, USER], [1, 2, 3], says("a"), [4]))
    assert [node.token_ids.tolist() for node in graph.nodes] == [[], [1, 2, 3], [4]]


def test_an_identical_prompt_branches_at_its_end():
    graph = TraceGraph()
    one = graph.add_policy_call(call([USER], [1, 2], says("a"), [3]))
    two = graph.add_policy_call(call([USER], [1, 2], says("a"), [3]))
    assert one is not None
    assert two is not None
    assert one.parent == two.parent == 0
    assert one.index != two.index
    assert len(list(graph.paths())) == 2


def test_a_prompt_that_goes_on_after_one_of_two_equal_replies_finds_the_deeper_one():
    graph = TraceGraph()
    graph.add_policy_call(call([USER], [1], says("a"), [2]))
    graph.add_policy_call(call([USER], [1], says("a"), [2, 3]))
    graph.add_policy_call(call([USER, says("a"), USER], [1, 2, 3, 4], says("b"), [5]))
    assert sorted(path.token_ids.tolist() for path in graph.paths()) == [[1, 2], [1, 2, 3, 4, 5]]


def test_drift_makes_another_path_and_both_keep_their_own_ids():
    graph = TraceGraph()
    graph.add_policy_call(call([USER], [1, 2], says("ab"), [30, 31]))
    # The reply comes back tokenised in another way.
    drifted = graph.add_policy_call(call([USER, says("ab"), USER], [1, 2, 32, 9], says("c"), [5]))
    assert drifted is not None
    prompt, sampled = graph.call_ids(drifted.index)
    assert prompt.tolist() == [1, 2, 32, 9]
    assert sampled.tolist() == [5]
    first, second = graph.paths()
    assert first.token_ids.tolist() == [1, 2, 30, 31]
    assert second.sampled.tolist() == [False, False, False, False, True]


def test_a_message_rewritten_with_the_same_ids_stays_on_the_path_and_both_wordings_are_kept():
    graph = TraceGraph()
    first = graph.add_policy_call(call([USER], [1, 2], says("4", reasoning="easy"), [3, 4]))
    second = graph.add_policy_call(call([USER, says("4"), USER], [1, 2, 3, 4, 5], says("ok"), [6]))
    third = graph.add_policy_call(
        call([USER, says("4"), USER, says("ok"), USER], [1, 2, 3, 4, 5, 6, 7], says("end"), [8])
    )
    assert first is not None
    assert second is not None
    assert third is not None
    (path,) = graph.paths()
    assert path.sampled.tolist() == [False, False, True, True, False, True, False, True]
    assert graph.nodes[first.index].message == says("4", reasoning="easy")
    assert graph.messages_to(third.index)[1] == says("4")
    assert second.turn is not None
    assert third.turn is not None
    assert second.turn.rewrites == {first.index: says("4")}
    assert third.turn.rewrites == {}, "what the path knows already is not repeated"


def test_arguments_in_another_layout_are_the_same_message():
    graph = TraceGraph()
    graph.add_policy_call(call([USER], [1], asks("c", '{"a": 1, "b": 2}', content=None), [2]))
    again = graph.add_policy_call(
        call([USER, asks("c", '{"b":2,"a":1}', content=""), tool("c")], [1, 2, 3], says("4"), [4])
    )
    assert again is not None
    assert again.turn is not None
    assert again.turn.rewrites == {}
    assert len(list(graph.paths())) == 1


def test_a_rewritten_history_is_another_path():
    graph = TraceGraph()
    graph.add_policy_call(call([SYSTEM, USER], [1, 2], says("a"), [3]))
    other = {"role": "user", "content": "Add 3 and 3."}
    graph.add_policy_call(call([SYSTEM, other], [1, 9], says("b"), [4]))
    assert sorted(path.token_ids.tolist() for path in graph.paths()) == [[1, 2, 3], [1, 9, 4]]


def test_more_ids_for_the_same_messages_do_not_split_a_node():
    graph = TraceGraph()
    graph.add_policy_call(call([SYSTEM, USER], [1, 2], says("a"), [3]))
    graph.add_policy_call(call([SYSTEM, USER], [1, 2, 7], says("b"), [4]))
    assert sorted(path.token_ids.tolist() for path in graph.paths()) == [[1, 2, 3], [1, 2, 7, 4]]


def test_a_prompt_without_messages_keeps_its_ids():
    graph = TraceGraph()
    node = graph.add_policy_call(call([], [1, 2], says("a"), [3]))
    assert node is not None
    assert graph.call_ids(node.index)[0].tolist() == [1, 2]


def test_without_ids_messages_decide_and_the_path_is_inexact():
    graph = TraceGraph()
    graph.add_policy_call(call([USER], None, asks("c1", reasoning="I should add."), None))
    graph.add_policy_call(call([USER, asks("c1"), tool("c1")], None, says("4"), None))
    (path,) = graph.paths()
    assert not path.exact
    assert [node.sampled for node in path.nodes] == [False, True, False, True]


def test_a_failed_call_adds_its_messages_and_no_path_of_the_exact_calls_changes():
    graph = TraceGraph()
    failed = graph.add_policy_call(call([SYSTEM, USER], None, None))
    assert failed is not None
    assert failed.role == "user"
    node = graph.add_policy_call(call([SYSTEM, USER], [1, 2], says("a"), [3]))
    assert node is not None
    assert graph.path(node.index).exact
    assert graph.path(node.index).token_ids.tolist() == [1, 2, 3]


def test_logprobs_of_another_length_are_left_out():
    graph = TraceGraph()
    odd = PolicyCalled("t", [USER], says("a"), [1], [2, 3], [-0.1])
    node = graph.add_policy_call(odd)
    assert node is not None
    assert node.logprobs is None
    assert node.token_ids.tolist() == [2, 3]


@pytest.mark.parametrize("ids", [[-1], [2**32]])
def test_ids_that_do_not_fit_are_refused_and_nothing_is_added(ids: list[int]):
    graph = TraceGraph()
    with pytest.raises(ValueError, match="32 bits"):
        graph.add_policy_call(call([USER], ids, says("a"), [1]))
    with pytest.raises(ValueError, match="32 bits"):
        graph.add_policy_call(call([USER], [1], says("a"), ids))
    assert len(graph) == 0


def test_the_largest_id_survives():
    graph = TraceGraph()
    node = graph.add_policy_call(call([USER], [2**32 - 1], says("a"), [0]))
    assert node is not None
    assert graph.call_ids(node.index)[0].tolist() == [2**32 - 1]


def test_a_later_change_of_the_apps_message_does_not_reach_the_graph():
    graph = TraceGraph()
    message = {"role": "user", "content": [{"type": "text", "text": "before"}]}
    graph.add_policy_call(call([message], [1], says("a"), [2]))
    message["content"][0]["text"] = "after"  # type: ignore[index]
    assert graph.nodes[0].message["content"] == [{"type": "text", "text": "before"}]


def test_append_refuses_nodes_out_of_order():
    with pytest.raises(ValueError, match="does not follow"):
        TraceGraph().append(Node(1, 0, USER))


def test_a_growing_conversation_grows_linearly():
    graph = TraceGraph()
    messages: list[Message] = [SYSTEM, USER]
    prompt = list(range(500))
    for turn in range(50):
        graph.add_policy_call(call(messages, prompt, asks(f"c{turn}"), [turn] * 10))
        messages = [*messages, asks(f"c{turn}"), tool(f"c{turn}")]
        prompt = [*prompt, *[turn] * 10, 7, 7]
    assert stored_ids(graph) == 500 + 50 * 10 + 49 * 2
    assert len(graph) == 2 + 50 + 49


# Any run: each call extends one of the earlier calls or starts anew, and the app or the server may change things.


@dataclass
class Run:
    """Calls made so far: prompt messages, prompt ids, reply and sampled ids."""

    calls: list[tuple[list[Message], list[int], Message, list[int]]] = field(default_factory=list)


small_ids = st.lists(st.integers(0, 3), max_size=4)
texts = st.sampled_from(["a", "b", ""])
roles = st.sampled_from(["user", "tool", "system", "assistant"])
message_lists = st.lists(st.builds(lambda role, text: {"role": role, "content": text}, roles, texts), max_size=3)
changes = st.sampled_from(["extend", "extend", "extend", "repeat", "new", "drift", "rewrite", "cut", "more ids"])


@st.composite
def runs(draw: st.DrawFn) -> Run:
    run = Run()
    for _ in range(draw(st.integers(1, 8))):
        change = draw(changes) if run.calls else "new"
        if change == "new":
            messages, prompt = draw(message_lists), draw(small_ids)
        else:
            old_messages, old_prompt, old_reply, old_ids = draw(st.sampled_from(run.calls))
            messages, prompt = list(old_messages), list(old_prompt)
            if change not in ("repeat", "more ids"):
                messages, prompt = [*messages, old_reply, *draw(message_lists)], prompt + old_ids + draw(small_ids)
            if change == "more ids":
                prompt += draw(small_ids)
            if change == "drift" and prompt:
                prompt[draw(st.integers(0, len(prompt) - 1))] = draw(st.integers(4, 6))
            if change == "rewrite" and messages:
                place = draw(st.integers(0, len(messages) - 1))
                messages[place] = {**messages[place], "content": "rewritten"}
            if change == "cut":
                messages, prompt = messages[: draw(st.integers(0, 3))], prompt[: draw(st.integers(0, 6))]
        run.calls.append((messages, prompt, {"role": "assistant", "content": draw(texts)}, draw(small_ids)))
    return run


@settings(max_examples=300, deadline=None)
@given(runs())
def test_every_path_gives_back_exactly_what_its_call_saw_and_sampled(run: Run):
    graph = TraceGraph()
    nodes = [graph.add_policy_call(PolicyCalled("t", m, r, p, i, [-1.0] * len(i))) for m, p, r, i in run.calls]
    for node, (messages, prompt, reply, ids) in zip(nodes, run.calls, strict=True):
        assert node is not None
        seen, sampled = graph.call_ids(node.index)
        assert seen.tolist() == prompt
        assert sampled.tolist() == ids
        if messages:
            assert graph.messages_to(node.index) == [*messages, reply]
        path = graph.path(node.index)
        assert path.exact
        assert path.token_ids.tolist() == prompt + ids
        assert path.sampled[len(prompt) :].all()
    on_paths = {node.index for path in graph.paths() for node in path.nodes}
    assert on_paths == set(range(len(graph)))
