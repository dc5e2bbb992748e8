"""The capturing proxy over real HTTP: what passes, what is captured, and what happens when something breaks."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from tests.gateway_world import bearer, client_of, gateway, sha256
from toolorch_integrations.entry import Price
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.ledger import CallStatus
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.store import TraceStore, TraceWrite
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_integrations.trace import Trace, TraceHeader
from toolorch_integrations.versions import Routes, VersionRouter
from toolorch_serving.gateway.errors import ConflictError
from toolorch_serving.gateway.proxy import Claims, ProxySettings, capturing_proxy_app
from toolorch_serving.gateway.proxy.conversations import Conversations

RUN: list[Reply | str] = [
    Reply(calls=[("search", {"query": "tents"})]),
    Reply(calls=[("price", {"id": 7})]),
    "Two tents.",
]
USER = [{"role": "user", "content": "Which tents are there?"}]


class Served:
    """A proxy that listens, and the store behind it."""

    def __init__(self, port: int, recorder: Recorder) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.recorder = recorder

    def ask(self, body: dict[str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
        return httpx.post(
            f"{self.url}/chat/completions", json={"model": "scripted"} | body, headers=headers, timeout=30
        )

    def traces(self) -> list[Trace]:
        assert self.recorder.flush()
        return sorted(self.recorder.store.full_traces(), key=lambda trace: trace.started)

    def trace(self) -> Trace:
        (trace,) = self.traces()
        return trace


@contextmanager
def listening(app: Any) -> Iterator[int]:
    config = uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def proxied(url: str, store: Path, timeout: float = 20.0, **settings: Any) -> Iterator[Served]:
    recorder = Recorder(store / "traces.db")
    recorder.store.prepare()
    app = capturing_proxy_app(url, recorder, settings=ProxySettings(**settings), timeout=timeout)
    with listening(app) as port:
        yield Served(port, recorder)
    recorder.close()


@asynccontextmanager
async def raw_upstream(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server that says on the socket whatever a test wants."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:"))
    return head + await reader.readexactly(length)


def run(served: Served, request: str = "Which tents are there?", stream: bool = False) -> list[dict[str, Any]]:
    """A whole agent run, as an app makes it with OpenAI's client; returns the messages."""
    message: Any
    client = openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)
    messages: list[Any] = [{"role": "user", "content": request}]
    tools: Any = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("search", "price")]
    while True:
        if stream:
            with client.chat.completions.stream(model="scripted", messages=messages, tools=tools) as events:
                message = events.get_final_completion().choices[0].message
        else:
            message = (
                client.chat.completions.create(model="scripted", messages=messages, tools=tools).choices[0].message
            )
        messages.append(message.model_dump(exclude_none=True, exclude={"parsed"}))
        if not message.tool_calls:
            return messages
        messages += [
            {"role": "tool", "tool_call_id": call.id, "content": f"found {call.function.name}"}
            for call in message.tool_calls
        ]


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_is_one_trace_with_one_exact_path(tmp_path: Path, stream: bool) -> None:
    with (
        ScriptedPolicy(RUN) as policy,
        proxied(policy.url, tmp_path, app="shop", price=Price(input=1, output=2)) as served,
    ):
        run(served, stream=stream)
        trace = served.trace()
        requests = policy.requests
    assert (trace.status, trace.exact, trace.answer) == (TraceStatus.ANSWERED, True, "Two tents.")
    assert (trace.app, trace.request) == ("shop", "Which tents are there?")
    (path,) = trace.paths()
    last = policy.completion(requests[-1], Reply("Two tents."))
    assert path.token_ids.tolist() == last["prompt_token_ids"] + last["choices"][0]["token_ids"]
    assert [node.role for node in path.nodes] == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert path.sampled.sum() == trace.totals.output_tokens > 0
    wanted = [entry["logprob"] for entry in last["choices"][0]["logprobs"]["content"]]
    assert path.nodes[-1].logprobs is not None
    assert path.nodes[-1].logprobs.tolist() == pytest.approx(wanted)
    assert [(entry.call.name, entry.result) for entry in trace.calls] == [
        ("search", "found search"),
        ("price", "found price"),
    ]
    assert trace.calls[0].arguments is None or trace.calls[0].arguments == {"query": "tents"}
    totals = trace.totals
    assert (totals.turns, totals.calls) == (3, 2)
    assert totals.dollars == pytest.approx((totals.input_tokens + 2 * totals.output_tokens) / 1e6)


def test_ids_are_asked_for_and_what_the_client_wrote_stays_as_it_is(tmp_path: Path) -> None:
    with ScriptedPolicy(["Hello."]) as policy, proxied(policy.url, tmp_path) as served:
        answer = served.ask({"messages": USER, "temperature": 0.5, "logprobs": False})
        request = policy.requests[0]
        trace = served.trace()
    assert request == {"model": "scripted", "messages": USER, "temperature": 0.5} | {
        "logprobs": True,
        "return_token_ids": True,
    }
    assert answer.headers["x-toolorch-trace"] == trace.id
    assert trace.exact
    node = trace.graph.nodes[-1]
    assert node.turn is not None
    assert node.turn.sampling == {"temperature": 0.5}


def test_the_apps_own_capture_and_the_proxys_store_the_same_ids(tmp_path: Path) -> None:
    from toolorch_integrations.capture import capture
    from toolorch_integrations.langgraph import ChatPolicy

    with ScriptedPolicy(["Hello."]) as policy, proxied(policy.url, tmp_path) as served:
        TraceStore(tmp_path / "own.db").prepare()
        with capture(tmp_path / "own.db") as session:
            ChatPolicy(model="scripted", base_url=served.url).invoke("Which tents are there?")
            session.flush()
            (own,) = TraceStore(tmp_path / "own.db").full_traces()
        (theirs,) = served.trace().paths()
    (path,) = own.paths()
    assert path.token_ids.tolist() == theirs.token_ids.tolist()
    assert path.logprobs.tolist() == pytest.approx(theirs.logprobs.tolist(), nan_ok=True)
    assert path.messages == theirs.messages


def test_rollouts_of_one_prompt_are_told_apart_by_their_answers(tmp_path: Path) -> None:
    with ScriptedPolicy(RUN) as policy, proxied(policy.url, tmp_path) as served:
        threads = [threading.Thread(target=run, args=(served,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        traces = served.traces()
    assert len(traces) == 8
    for trace in traces:
        assert trace.totals.turns == 3
        assert len(list(trace.paths())) == 1


def test_another_history_is_another_trace_and_a_forked_one_another_path(tmp_path: Path) -> None:
    with ScriptedPolicy(RUN) as policy, proxied(policy.url, tmp_path) as served:
        first = run(served)
        run(served, "Something else?")
        again = [*first[:2], {**first[2], "content": "found nothing"}]
        served.ask({"messages": again})
        traces = served.traces()
    assert [len(list(trace.paths())) for trace in traces] == [2, 1]


def test_the_client_may_name_the_trace_or_the_conversation(tmp_path: Path) -> None:
    mine = "0123456789abcdef0123456789abcdef"
    with ScriptedPolicy(["Hello."]) as policy, proxied(policy.url, tmp_path) as served:
        for text in ("one", "two"):
            served.ask({"messages": [{"role": "user", "content": text}]}, {"X-Toolorch-Trace": mine})
            served.ask({"messages": [{"role": "user", "content": text}]}, {"X-Toolorch-Thread": "chat 1"})
        wrong = served.ask({"messages": USER}, {"x-toolorch-trace": "mine"})
        traces = {trace.thread_id: trace for trace in served.traces()}
        sent = policy.requests
    assert traces[""].id == mine
    assert set(traces) == {"", "chat 1"}
    assert [len(list(trace.paths())) for trace in traces.values()] == [2, 2]
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "x-toolorch-trace")
    assert len(sent) == 4


def test_a_trace_that_another_caller_began_is_refused() -> None:
    conversations, user = Conversations(), [{"role": "user", "content": "Hello"}]
    named = conversations.begin("ann", "small", user, trace_id="0" * 32)
    guessed = conversations.begin("ann", "small", user)
    assert conversations.begin("ann", "large", user, trace_id="0" * 32).conversation is named.conversation
    for asked in (named, guessed):
        with pytest.raises(ConflictError, match="another caller began") as refused:
            conversations.begin("bob", "small", user, trace_id=asked.conversation.trace_id)
        assert (refused.value.param, refused.value.body["error"]["code"]) == ("x-toolorch-trace", "trace_taken")
    other = conversations.begin("bob", "small", user, thread_id="chat 1").conversation
    assert other is not conversations.begin("ann", "small", user, thread_id="chat 1").conversation


async def test_over_http_a_key_cannot_write_into_anothers_trace(tmp_path: Path) -> None:
    keys = [{"name": name, "sha256": sha256(name)} for name in ("ann", "bob")]
    with ScriptedPolicy(["Hello."]) as policy:
        sections: dict[str, Any] = {"policy": {"url": policy.url, "model": "scripted"}, "keys": keys}
        with gateway(tmp_path, None, **sections) as app, client_of(app) as client:
            for name, status in (("ann", 200), ("bob", 409), ("ann", 200)):
                answer = await client.post(
                    "/v1/chat/completions",
                    json={"model": "scripted", "messages": USER},
                    headers={**bearer(name), "x-toolorch-trace": "a" * 32},
                )
                assert answer.status_code == status
            assert len(policy.requests) == 2


async def test_a_gateway_that_was_started_again_knows_whose_a_trace_is(tmp_path: Path) -> None:
    keys = [{"name": name, "sha256": sha256(name)} for name in ("ann", "bob")]
    orchestrators = "b" * 32
    with TraceStore.open(tmp_path / "traces.db") as store, ScriptedPolicy(["Hello."]) as policy:
        store.write([TraceWrite(TraceHeader(id=orchestrators, status=TraceStatus.ANSWERED))])
        sections: dict[str, Any] = {"policy": {"url": policy.url, "model": "scripted"}, "keys": keys}

        async def ask(client: httpx.AsyncClient, name: str, trace_id: str) -> int:
            headers = {**bearer(name), "x-toolorch-trace": trace_id}
            body = {"model": "scripted", "messages": USER}
            return (await client.post("/v1/chat/completions", json=body, headers=headers)).status_code

        with gateway(tmp_path, None, **sections) as app, client_of(app) as client:
            assert await ask(client, "ann", "a" * 32) == 200
        with gateway(tmp_path, None, **sections) as app, client_of(app) as client:
            found = [await ask(client, *named) for named in (("bob", "a" * 32), ("ann", "a" * 32), ("bob", "c" * 32))]
            assert found == [409, 200, 200]
            assert [await ask(client, name, orchestrators) for name in ("ann", "bob")] == [409, 409]
        assert store.trace("a" * 32).metadata == {"caller": "ann"}
        assert store.trace("a" * 32).totals.turns == 2
        assert store.trace(orchestrators).totals.turns == 0


async def test_a_store_that_does_not_answer_holds_no_call_up_and_is_let_be_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolorch_serving.gateway.proxy.claims._SECONDS", 0.05)
    asked: list[str] = []
    hung = threading.Event()

    def hang(_: TraceStore, trace_id: str) -> TraceHeader:
        asked.append(trace_id)
        hung.wait(30)
        return TraceHeader(id=trace_id, metadata={"caller": "ann"})

    monkeypatch.setattr(TraceStore, "header", hang)
    claims = Claims(TraceStore(tmp_path / "traces.db"))
    await claims.check("a" * 32, "bob")
    await claims.check("b" * 32, "bob")
    assert asked == ["a" * 32]
    hung.set()
    other = Claims(TraceStore(tmp_path / "traces.db"))
    monkeypatch.setattr("toolorch_serving.gateway.proxy.claims._SECONDS", 30.0)
    await other.check("a" * 32, "ann")
    with pytest.raises(ConflictError, match="another caller began"):
        await other.check("a" * 32, "bob")


def test_several_choices_are_siblings_that_count_the_prompt_once(tmp_path: Path) -> None:
    def two(body: dict[str, Any]) -> dict[str, Any]:
        head = {"id": "x", "model": "policy", "prompt_token_ids": [1, 2, 3]}
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": word},
                "token_ids": [index + 10],
                "logprobs": {"content": [{"logprob": -0.5}]},
                "finish_reason": "stop",
            }
            for index, word in enumerate(("yes", "no"))
        ]
        return {**head, "choices": choices, "usage": {"prompt_tokens": 3, "completion_tokens": 2}}

    reply = Reply(body=json.dumps(two({})))
    with ScriptedPolicy([reply]) as policy, proxied(policy.url, tmp_path) as served:
        served.ask({"messages": USER, "n": 2})
        trace = served.trace()
    assert [path.token_ids.tolist() for path in trace.paths()] == [[1, 2, 3, 10], [1, 2, 3, 11]]
    assert (trace.totals.input_tokens, trace.totals.output_tokens) == (3, 2)
    turn = trace.graph.nodes[-1].turn
    assert turn is not None
    assert turn.sampling == {"n": 2}


def test_text_completions_are_captured_too(tmp_path: Path) -> None:
    choice = {"index": 0, "text": " world", "token_ids": [4, 5], "prompt_token_ids": [1, 2], "finish_reason": "stop"}
    choice["logprobs"] = {"token_logprobs": [-0.1, -0.2], "tokens": [" wor", "ld"]}
    reply = Reply(body=json.dumps({"id": "x", "model": "policy", "choices": [choice], "usage": {}}))
    with ScriptedPolicy(lambda _: reply) as policy, proxied(policy.url, tmp_path) as served:
        httpx.post(f"{served.url}/completions", json={"model": "policy", "prompt": "Hello"}).raise_for_status()
        assert policy.requests[0]["logprobs"] == 0
        (path,) = served.trace().paths()
    assert path.token_ids.tolist() == [1, 2, 4, 5]
    assert path.logprobs[2:].tolist() == pytest.approx([-0.1, -0.2])


def test_a_server_that_refuses_ids_is_asked_without_them_and_the_trace_says_so(tmp_path: Path) -> None:
    def script(request: Any) -> Reply:
        if "return_token_ids" in request:
            return Reply("Unrecognized request argument supplied: return_token_ids", status=400)
        return Reply("Hello.")

    with ScriptedPolicy(script) as policy, proxied(policy.url, tmp_path) as served:
        assert served.ask({"messages": USER}).json()["choices"][0]["message"]["content"] == "Hello."
        served.ask({"messages": [{"role": "user", "content": "Again"}]})
        traces = served.traces()
        sent = ["return_token_ids" in request for request in policy.requests]
    assert sent == [True, False, False]
    assert [trace.exact for trace in traces] == [False, False]


def test_errors_pass_as_they_are_and_a_retry_goes_on_with_the_trace(tmp_path: Path) -> None:
    replies = iter([Reply("context is full", status=400), Reply("Hello.")])
    with ScriptedPolicy(lambda _: next(replies)) as policy, proxied(policy.url, tmp_path) as served:
        refused = served.ask({"messages": USER})
        failed = served.trace()
        served.ask({"messages": USER})
        trace = served.trace()
    assert (refused.status_code, refused.json()["error"]["message"]) == (400, "context is full")
    assert (failed.status, failed.error) == (TraceStatus.ERROR, "HTTP 400: context is full")
    assert failed.calls[0].call.status is CallStatus.ERROR
    assert (trace.status, trace.error, trace.answer) == (TraceStatus.ANSWERED, "", "Hello.")


def test_what_is_no_completion_passes_and_is_said(tmp_path: Path) -> None:
    nonsense = Reply(body="<html>busy</html>", status=200)
    with ScriptedPolicy([nonsense]) as policy, proxied(policy.url, tmp_path) as served:
        assert served.ask({"messages": USER}).text == "<html>busy</html>"
        trace = served.trace()
    assert trace.status is TraceStatus.ERROR
    assert "<html>busy</html>" in trace.error


def test_a_body_that_is_no_json_is_for_the_server_to_refuse(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        writer.write(b"HTTP/1.1 422 X\r\ncontent-length: 3\r\nx-seen: %d\r\n\r\nbad" % request.count(b"{not json"))
        await writer.drain()

    async def main() -> httpx.Response:
        async with raw_upstream(answer) as url:
            with proxied(url, tmp_path) as served:
                async with httpx.AsyncClient() as client:
                    answered = await client.post(f"{served.url}/chat/completions", content=b"{not json")
                assert served.traces() == []
                return answered

    answered = asyncio.run(main())
    assert (answered.status_code, answered.text, answered.headers["x-seen"]) == (422, "bad", "1")


def test_other_paths_pass_uncaptured(tmp_path: Path) -> None:
    with ScriptedPolicy(["x"]) as policy, proxied(policy.url, tmp_path) as served:
        assert httpx.get(f"{served.url}/models").json()["data"][0]["id"] == "scripted"
        assert served.traces() == []


def test_headers_of_one_connection_stay_there_and_keys_are_kept_apart(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-Kept: 2\r\n\r\n{}"
        )
        await writer.drain()

    async def main() -> httpx.Response:
        async with raw_upstream(answer) as url:
            with proxied(url, tmp_path, key="server's") as served:
                async with httpx.AsyncClient() as client:
                    headers = {"Authorization": "Bearer client's", "X-Request-Id": "7", "TE": "trailers"}
                    headers |= {"x-toolorch-thread": "t", "Connection": "keep-alive, X-Own", "X-Own": "1"}
                    return await client.post(
                        f"{served.url}/chat/completions?a=b", json={"messages": USER}, headers=headers
                    )

    answered = asyncio.run(main())
    head = seen[0].split(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"post /v1/chat/completions?a=b http/1.1")
    assert b"authorization: bearer server's" in head
    assert b"x-request-id: 7" in head
    assert not [name for name in (b"client's", b"x-own", b"\r\nte:", b"x-toolorch", b"accept-encoding") if name in head]
    assert answered.headers["x-kept"] == "2"
    assert "x-hop" not in answered.headers


def test_a_server_that_is_down_is_named_with_the_fix(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with proxied(url, tmp_path) as served:
        answer = served.ask({"messages": USER})
        trace = served.trace()
    assert answer.status_code == 502
    assert url in answer.json()["error"]["message"]
    assert "toolorch serve policy" in answer.json()["error"]["message"]
    assert (trace.status, answer.headers["x-toolorch-trace"]) == (TraceStatus.ERROR, trace.id)


def test_a_silent_server_is_given_up(tmp_path: Path) -> None:
    with ScriptedPolicy([Reply("late", delay=5)]) as policy, proxied(policy.url, tmp_path, timeout=0.3) as served:
        answer = served.ask({"messages": USER})
        trace = served.trace()
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert trace.calls[0].call.status is CallStatus.TIMEOUT


def test_a_restarted_server_costs_one_retry_and_no_request(tmp_path: Path) -> None:
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while True:
            await read_request(reader)
            asked += 1
            if asked == 2:  # The second request of the kept connection finds a server that ends.
                return
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n" + b'{"choices":[]}')
            await writer.drain()

    async def main() -> list[int]:
        async with raw_upstream(answer) as url:
            with proxied(url, tmp_path) as served:
                async with httpx.AsyncClient() as client:
                    return [
                        (await client.post(f"{served.url}/chat/completions", json={"messages": USER})).status_code
                        for _ in range(2)
                    ]

    assert asyncio.run(main()) == [200, 200]
    assert asked == 3


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: dict[str, Any]) -> bytes:
    event = b"data: %b\n\n" % json.dumps(data).encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


def piece(number: int, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": f"w{number} "}, "token_ids": [number], "finish_reason": finish}
    choice["logprobs"] = {"content": [{"logprob": -1.0}]}
    head = {"prompt_token_ids": [1, 2]} if number == 0 else {}
    return chunk({"id": "x", "model": "policy", "choices": [choice]} | head)


def test_a_stream_that_the_server_cuts_off_is_kept_marked_and_not_trained_on(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STREAM_HEAD + piece(0) + piece(1))
        await writer.drain()

    async def main() -> tuple[str, Trace]:
        async with raw_upstream(answer) as url:
            with proxied(url, tmp_path) as served:
                async with httpx.AsyncClient() as client:
                    body = {"messages": USER, "stream": True}
                    got = await client.post(f"{served.url}/chat/completions", json=body)
                return got.text, await asyncio.to_thread(served.trace)

    text, trace = asyncio.run(main())
    assert "w1" in text
    assert json.loads(text.strip().splitlines()[-1][6:])["error"]["code"] == "upstream_broke_off"
    assert trace.status is TraceStatus.INTERRUPTED
    node = next(node for node in trace.graph.nodes if node.turn is not None)
    assert node.turn is not None
    assert (node.token_ids.tolist(), node.turn.finish_reason, node.turn.is_policy) == ([0, 1], "cut_off", False)
    assert "broke off" in trace.calls[0].call.error


def test_pieces_pass_at_once_and_a_client_that_leaves_ends_the_servers_work(tmp_path: Path) -> None:
    ended = asyncio.Event()
    released = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STREAM_HEAD + piece(0))
        await writer.drain()
        await released.wait()  # What the client has by then did not wait for more.
        writer.write(piece(1))
        await writer.drain()
        assert await reader.read() == b""
        ended.set()

    async def main() -> Trace:
        async with raw_upstream(answer) as url:
            with proxied(url, tmp_path) as served:
                async with httpx.AsyncClient() as client:
                    body = {"messages": USER, "stream": True}
                    async with client.stream("POST", f"{served.url}/chat/completions", json=body) as got:
                        lines = got.aiter_lines()
                        assert "w0" in await anext(lines)
                        released.set()
                        while "w1" not in await anext(lines):
                            pass
                async with asyncio.timeout(10):
                    await ended.wait()
                return await asyncio.to_thread(served.trace)

    trace = asyncio.run(main())
    assert (trace.status, trace.error) == (
        TraceStatus.INTERRUPTED,
        "the client went away before its answer was whole",
    )
    assert trace.graph.nodes[-1].token_ids.tolist() == [0, 1]


def test_streams_follow_each_other_on_one_connection(tmp_path: Path) -> None:
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await read_request(reader)
            writer.write(STREAM_HEAD + piece(0, "stop") + b"e\r\ndata: [DONE]\n\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.005)  # The end of the body often comes in a packet of its own.
            writer.write(b"0\r\n\r\n")
            await writer.drain()

    async def main() -> list[Trace]:
        async with raw_upstream(answer) as url:
            with proxied(url, tmp_path) as served:
                async with httpx.AsyncClient() as client:
                    for number in range(3):
                        body = {"messages": [{"role": "user", "content": str(number)}], "stream": True}
                        got = await client.post(f"{served.url}/chat/completions", json=body)
                        assert got.text.endswith("data: [DONE]\n\n")
                return await asyncio.to_thread(served.traces)

    traces = asyncio.run(main())
    assert connections == 1
    assert [trace.status for trace in traces] == [TraceStatus.ANSWERED] * 3


def test_an_answer_over_the_limit_passes_and_its_trace_says_so(tmp_path: Path) -> None:
    with ScriptedPolicy(["word " * 5000]) as policy, proxied(policy.url, tmp_path, kept_bytes=10_000) as served:
        answer = served.ask({"messages": USER})
        trace = served.trace()
    assert answer.json()["choices"][0]["message"]["content"] == "word " * 5000
    assert trace.status is TraceStatus.ERROR
    assert "over the 10000 bytes" in trace.error


def test_large_answers_in_one_piece_pass_whole(tmp_path: Path) -> None:
    text = "x" * 6_000_000
    reply = Reply(body=json.dumps({"choices": [], "pad": text}))
    with ScriptedPolicy([reply]) as policy, proxied(policy.url, tmp_path) as served:
        assert served.ask({"messages": USER}).json()["pad"] == text


def test_conversations_of_the_policy_are_routed_among_its_versions(tmp_path: Path) -> None:
    router = VersionRouter(lambda: Routes("v1", "v2", 0.5))
    with ScriptedPolicy(RUN) as policy, proxied(policy.url, tmp_path, policy="scripted", router=router) as served:
        for number in range(16):
            run(served, f"Question {number}")
        served.ask({"model": "v7", "messages": USER})
        models = [(request["messages"][0]["content"], request["model"]) for request in policy.requests]
    by_question: dict[str, set[str]] = {}
    for question, model in models:
        by_question.setdefault(question, set()).add(model)
    assert by_question.pop(USER[0]["content"]) == {"v7"}
    assert all(len(versions) == 1 for versions in by_question.values())
    assert set.union(*by_question.values()) == {"v1", "v2"}
