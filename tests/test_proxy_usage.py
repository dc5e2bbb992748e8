"""What a call through the proxy costs, and the usage that clients who stream did not ask for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway_world import Serving, bearer, gateway, sha256
from tests.test_proxy import USER, proxied
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_serving.gateway.proxy.extras import IDS, USAGE, Extras, refused_in
from toolorch_serving.gateway.proxy.peek import estimated_usage, usage_in
from toolorch_serving.gateway.proxy.usage_event import UsageEvent

CHAT = "/v1/chat/completions"
USAGE_EVENT = b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
FILTERS = b'data: {"choices":[],"prompt_filter_results":[{}],"usage":null}\n\n'
PIECE = b'data: {"choices":[{"delta":{"content":"no \\"choices\\":[] here"}}],"usage":null}\n\n'
NESTED = b'data: {"choices":[{"index":0,"own":{"choices":[]}}],"usage":{"prompt_tokens":1}}\n\n'
KEPT = FILTERS + PIECE + NESTED + b": ping\n\n"
DONE = b"data: [DONE]\n\n"


def filtered(pieces: Iterator[bytes]) -> bytes:
    usage = UsageEvent()
    return b"".join([*map(usage.without, pieces), usage.rest()])


@pytest.mark.parametrize("line", [b"\n", b"\r\n"])
def test_the_usage_is_taken_out_wherever_the_stream_is_cut(line: bytes) -> None:
    whole, wanted = ((KEPT + usage + DONE).replace(b"\n", line) for usage in (USAGE_EVENT, b""))
    for place in range(len(whole) + 1):
        assert filtered(iter((whole[:place], whole[place:]))) == wanted
    assert filtered(whole[place : place + 1] for place in range(len(whole))) == wanted


def test_whole_events_pass_at_once_and_what_never_ends_is_not_lost() -> None:
    usage = UsageEvent()
    assert usage.without(PIECE) == PIECE
    assert usage.without(PIECE + b"data: {") == PIECE
    assert usage.without(b'"cut') == b""
    assert usage.rest() == b'data: {"cut'
    long = b"data: " + b"x" * 2**17
    assert UsageEvent().without(long) == long


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"include_usage": True}])
def test_a_stream_has_its_usage_only_where_the_client_asked_for_it(
    tmp_path: Path, options: dict[str, Any] | None
) -> None:
    body = {"model": "scripted", "messages": USER, "stream": True, "logprobs": True, "return_token_ids": True}
    if options is not None:
        body["stream_options"] = options
    with ScriptedPolicy(["Two tents, and a lamp."]) as policy, proxied(policy.url, tmp_path) as served:
        direct = httpx.post(f"{policy.url}/chat/completions", json=body).text
        through = served.ask(body).text
        trace = served.trace()
        assert policy.requests[1] == body | {"stream_options": {"include_usage": True}}
    assert [event["choices"] for event in _events(through)] == [event["choices"] for event in _events(direct)]
    assert any("usage" in event for event in _events(through)) is (options == {"include_usage": True})
    assert trace.exact
    assert trace.totals.output_tokens > 0


@pytest.mark.parametrize("knows", ["usage", "ids", "nothing"])
@pytest.mark.parametrize("stream", [True, False])
def test_no_call_is_free(tmp_path: Path, knows: str, stream: bool) -> None:
    def script(request: Any) -> Reply:
        if knows != "usage" and "stream_options" in request:
            return Reply("unknown argument: stream_options", status=400)
        if knows == "nothing" and "return_token_ids" in request:
            return Reply("unknown argument: return_token_ids", status=400)
        return Reply("Two tents, and a lamp.")

    keys = [{"name": "app", "sha256": sha256("app"), "dollars_per_day": 1.0}]
    with ScriptedPolicy(script) as policy:
        prices = {"url": policy.url, "model": "scripted", "price": {"input": 100.0, "output": 10_000.0}}
        sections: dict[str, Any] = {"policy": prices, "keys": keys}
        with gateway(tmp_path, None, **sections) as app, Serving(app) as serving:
            body = {"model": "scripted", "messages": USER, "stream": stream, "top_logprobs": 5}
            answer = httpx.post(serving.url + CHAT, json=body, headers=bearer("app"), timeout=60)
            spent = app.state.limits.spending.today("app")
        last = policy.requests[-1]
    assert "Two" in answer.text
    usage = policy.completion(last, Reply("Two tents, and a lamp."))["usage"]
    exact = (usage["prompt_tokens"] * 100 + usage["completion_tokens"] * 10_000) / 1e6
    assert spent == pytest.approx(exact) if knows != "nothing" or not stream else 0.0 < spent < 3 * exact


def test_a_refused_call_costs_nothing(tmp_path: Path) -> None:
    with ScriptedPolicy([Reply("context is full", status=400)]) as policy:
        prices = {"url": policy.url, "model": "scripted", "price": {"call": 0.5}}
        with gateway(tmp_path, None, policy=prices) as app, Serving(app) as serving:
            assert httpx.post(serving.url + CHAT, json={"model": "scripted", "messages": USER}).status_code == 400
            assert app.state.limits.spending.today("anonymous") == 0.0


def test_tokens_are_counted_by_their_ids_where_no_usage_is_reported() -> None:
    entry = {"token": "a", "logprob": -1.0, "top_logprobs": [{"token": "b", "logprob": -2.0}] * 5}
    chat = [
        {"prompt_token_ids": [1, 2, 3], "choices": [{"delta": {}}], "usage": None},
        {"choices": [{"delta": {"content": "a"}, "token_ids": [7, 8], "logprobs": {"content": [entry, entry]}}]},
        {"choices": [{"delta": {}, "token_ids": [], "finish_reason": "stop"}]},
    ]
    assert usage_in(_stream(chat)) == (3, 2)
    text = [
        {"choices": [{"index": 0, "text": "a", "prompt_token_ids": [1, 2], "token_ids": [5]}]},
        {"choices": [{"index": 1, "text": "b", "prompt_token_ids": [1, 2], "token_ids": [6, 7]}]},
        {"choices": [{"index": 2, "text": "c", "prompt_token_ids": [3], "token_ids": [8]}]},
    ]
    assert usage_in(_stream(text)) == (3, 4)
    assert usage_in(b'{"choices":[]}') == (0, 0)


def test_what_nobody_reports_is_estimated() -> None:
    request = b"x" * 400
    whole = json.dumps({"choices": [{"message": {"content": "four" * 10}}]}).encode()
    assert estimated_usage(request, whole, len(whole)) == (100, 10)
    pieces = _stream([{"choices": [{"delta": {"content": "a"}}]}] * 9 + [{"choices": [{"delta": {"content": ""}}]}])
    assert estimated_usage(request, pieces, len(pieces)) == (100, 9)
    assert estimated_usage(request, b"", 4_000) == (100, 1_000)


def test_only_a_refusal_of_the_extras_themselves_is_remembered(tmp_path: Path) -> None:
    def script(request: Any) -> Reply:
        return Reply("logprobs must be at most 20", status=400) if request["top_logprobs"] > 20 else Reply("Hello.")

    with ScriptedPolicy(script) as policy, proxied(policy.url, tmp_path) as served:
        assert served.ask({"messages": USER, "top_logprobs": 99}).status_code == 400
        assert served.ask({"messages": USER, "top_logprobs": 2}).status_code == 200
        assert policy.requests[-1]["return_token_ids"] is True


def test_refusals_are_read_and_kept_by_model() -> None:
    assert refused_in(400, b"no stream_options here", {IDS, USAGE}) == {USAGE}
    assert refused_in(422, b"return_token_ids: extra field", {USAGE}) == frozenset()
    assert refused_in(500, b"logprobs", {IDS}) == frozenset()
    extras = Extras("http://server", exact=True)
    extras.remember("old", {IDS}, b"no")
    assert (extras.of("old"), extras.of("new")) == ({USAGE}, {IDS, USAGE})
    assert Extras("http://server", exact=False).of("new") == {USAGE}


def _stream(events: list[dict[str, Any]]) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events) + DONE


def _events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
