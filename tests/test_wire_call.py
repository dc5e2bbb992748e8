"""Calls as raw bytes: whatever an endpoint writes, decoding gives events or says why not, and never raises."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolorch_integrations.events import CallEnded, PolicyCalled, TraceEnded, TraceStatus
from toolorch_integrations.testing import Reply, ScriptedPolicy, _chunks
from toolorch_integrations.wire_answer import read_answer
from toolorch_integrations.wire_call import CUT_OFF, WireCall, WireFacts

REQUEST = {"messages": [{"role": "user", "content": "What is 2 + 2?"}], "return_token_ids": True, "logprobs": True}
MUTATIONS = 10_000
PIECES = [b"null", b"{}", b"[]", b"\n\n", b'"', b"-1", b"1e999", b"\xff"]
FIELDS = [
    "messages",
    "role",
    "content",
    "tool_calls",
    "function",
    "id",
    "choices",
    "message",
    "delta",
    "usage",
    "index",
    "prompt",
    "n",
    "token_ids",
    "logprobs",
    "error",
    "prompt_token_ids",
    "tool_call_id",
    "text",
]


def answered(reply: Reply, *, stream: bool) -> bytes:
    """What a server sends, byte for byte."""
    policy = ScriptedPolicy([reply])
    completion = policy.completion(REQUEST, reply)
    policy._server.server_close()
    if not stream:
        return json.dumps(completion).encode()
    lines = [json.dumps(chunk) for chunk in _chunks(completion, include_usage=True)]
    return "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()


REPLIES = [
    Reply("Four."),
    Reply("", calls=[("add", {"a": 2, "b": 2}), ("check", '{"broken')], reasoning="I add."),
]


@pytest.mark.parametrize("reply", REPLIES, ids=["text", "calls"])
def test_a_stream_and_an_answer_in_one_piece_mean_the_same(reply: Reply) -> None:
    whole, streamed = (read_answer(answered(reply, stream=stream), stream=stream) for stream in (False, True))
    assert whole.choices.keys() == streamed.choices.keys()
    one, other = whole.choices[0], streamed.choices[0]
    assert (one.message, one.finish_reason, one.logprobs) == (other.message, other.finish_reason, other.logprobs)
    assert np.array_equal(one.token_ids, other.token_ids)  # type: ignore[arg-type]
    assert np.array_equal(one.prompt_token_ids, other.prompt_token_ids)  # type: ignore[arg-type]
    assert one.token_ids is not None
    assert whole.usage == streamed.usage
    assert whole.whole
    assert streamed.whole


def test_choices_of_a_stream_may_come_mixed() -> None:
    def chunk(index: int, word: str, finish: str | None = None) -> str:
        choice = {"index": index, "delta": {"content": word}, "token_ids": [ord(word[0])], "finish_reason": finish}
        return f"data: {json.dumps({'id': 'x', 'choices': [choice]})}\r\n\r\n"

    body = chunk(1, "b") + chunk(0, "a") + ": a comment\n\n" + chunk(0, "c", "stop") + chunk(1, "d", "length")
    answer = read_answer(body.encode(), stream=True)
    assert {index: choice.message["content"] for index, choice in answer.choices.items()} == {0: "ac", 1: "bd"}
    assert answer.whole


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reply", REPLIES, ids=["text", "calls"])
def test_whatever_happens_to_an_answer_decoding_never_raises(reply: Reply, stream: bool) -> None:
    body = answered(reply, stream=stream)
    generator = random.Random(7)
    for _ in range(MUTATIONS // 4):
        damaged = bytearray(body)
        for _ in range(generator.randrange(1, 4)):
            place = generator.randrange(len(damaged))
            kind = generator.randrange(4)
            if kind == 0:
                damaged[place] = generator.randrange(256)
            elif kind == 1:
                del damaged[place : place + generator.randrange(1, 30)]
            elif kind == 2:
                del damaged[place:]
            else:
                damaged[place:place] = generator.choice(
                    [b"null", b"{}", b"[]", b"\n\n", b'"', b"-1", b"1e999", b"\xff"]
                )
            damaged = damaged or bytearray(b" ")
        events = list(
            WireCall(WireFacts("a" * 32, stream=stream), json.dumps(REQUEST).encode(), bytes(damaged)).events()
        )
        assert isinstance(events[1], PolicyCalled | TraceEnded)


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@given(request=json_values, response=json_values, stream=st.booleans())
def test_any_json_is_survived(request: Any, response: Any, stream: bool) -> None:
    body = json.dumps(response).encode()
    call = WireCall(
        WireFacts("a" * 32, stream=stream), json.dumps(request).encode(), b"data: " + body if stream else body
    )
    assert list(call.events())


def test_packing_keeps_every_byte_and_later_facts_are_left_out() -> None:
    call = WireCall(WireFacts("a" * 32, thread_id="\N{SNOWMAN}", failure="why"), b"\x00request", b"\xffresponse")
    assert WireCall.unpack(call.pack()) == call
    packed = call.pack().replace(b'"thread_id"', b'"a_fact_xx"')
    assert WireCall.unpack(packed).facts.thread_id == ""
    for broken in (b"", b"\x01\x02", b"\xff" * 40):
        with pytest.raises(ValueError, match="no call"):
            WireCall.unpack(broken)


def test_a_stream_that_ends_early_is_marked() -> None:
    body = answered(Reply("Four."), stream=True)
    cut = body[: body.index(b"[DONE]") // 2]
    *_, sampled, failed, ended = WireCall(WireFacts("a" * 32, stream=True), json.dumps(REQUEST).encode(), cut).events()
    assert isinstance(sampled, PolicyCalled)
    assert (sampled.finish_reason, sampled.is_policy) == (CUT_OFF, False)
    assert isinstance(failed, PolicyCalled)
    assert failed.reply is None
    assert isinstance(ended, TraceEnded)
    assert ended.status is TraceStatus.INTERRUPTED


def test_only_results_behind_the_newest_answer_are_calls_that_ended() -> None:
    def asks(number: int) -> dict[str, Any]:
        function = {"name": f"tool{number}", "arguments": "{}"}
        return {"role": "assistant", "content": None, "tool_calls": [{"id": f"c{number}", "function": function}]}

    def result(number: int) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": f"c{number}", "content": [{"type": "text", "text": f"result {number}"}]}

    messages = [*REQUEST["messages"], asks(1), result(1), asks(2), result(2), result(9)]  # type: ignore[misc]
    body = answered(Reply("Four."), stream=False)
    facts = WireFacts("a" * 32, started=10.0, waited=2.0)
    events = list(WireCall(facts, json.dumps({"messages": messages}).encode(), body).events())
    (call,) = [event for event in events if isinstance(event, CallEnded)]
    assert (call.call.name, call.call.call_id, call.result, call.started) == ("tool2", "c2", "result 2", 8.0)
    facts.repeated = True
    repeated = WireCall(facts, json.dumps({"messages": messages}).encode(), body).events()
    assert not [event for event in repeated if isinstance(event, CallEnded)]
