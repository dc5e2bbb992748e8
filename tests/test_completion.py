from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable

import pytest

from tests.doubles import ASK, raw_server, read_request, unused_port
from toolorch_integrations import Endpoint, EndpointError, MissingVariableError
from toolorch_integrations.completion import Completion, acomplete, complete, estimate_tokens
from toolorch_integrations.testing import Reply, ScriptedPolicy

Ask = Callable[..., Completion]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    if request.param == "sync":
        return complete
    return lambda *arguments: asyncio.run(acomplete(*arguments))


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolorch_integrations.completion.random.random", lambda: -0.5)


def endpoint(server: ScriptedPolicy | str, **fields: object) -> Endpoint:
    url = server if isinstance(server, str) else server.url
    return Endpoint.model_validate({"url": url, "model": "expert", "timeout": 5.0, **fields})


def test_an_answer_with_its_tokens(ask: Ask):
    with ScriptedPolicy(["Four."], model="expert-v2") as server:
        completion = ask(endpoint(server, temperature=0.5, max_tokens=77), ASK)
    sent = server.requests[0]
    assert (completion.text, completion.model, completion.attempts) == ("Four.", "expert-v2", 1)
    assert completion.input_tokens == len("<|user|>What is 2 + 2?<|end|><|assistant|>")
    assert completion.output_tokens == len("Four.<|end|>")
    assert 0 < completion.seconds < 5
    assert sent == {"model": "expert", "messages": ASK, "max_tokens": 77, "temperature": 0.5}


def test_the_servers_own_temperature_is_left_alone(ask: Ask):
    with ScriptedPolicy(["Four."]) as server:
        ask(endpoint(server), ASK)
    assert "temperature" not in server.requests[0]


def test_key_and_headers_are_sent(ask: Ask, monkeypatch: pytest.MonkeyPatch):
    seen: list[bytes] = []

    def answer(connection: socket.socket, _: int) -> None:
        seen.append(connection.recv(65536))

    monkeypatch.setenv("EXPERT_KEY", "abc")
    with raw_server(answer) as url, pytest.raises(EndpointError):
        ask(endpoint(url, key_variable="EXPERT_KEY", headers={"X-Team": "blue"}), ASK, 0)
    assert b"authorization: bearer abc" in seen[0].lower()
    assert b"x-team: blue" in seen[0].lower()
    assert b"post /v1/chat/completions " in seen[0].lower()


def test_a_missing_key_names_its_variable_before_anything_is_sent(ask: Ask, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("EXPERT_KEY", raising=False)
    with ScriptedPolicy(["Four."]) as server, pytest.raises(MissingVariableError, match="EXPERT_KEY"):
        ask(endpoint(server, key_variable="EXPERT_KEY"), ASK)
    assert server.requests == []


def test_an_endpoint_that_is_down(ask: Ask):
    url = f"http://127.0.0.1:{unused_port()}/v1"
    with pytest.raises(EndpointError, match=f"{url} cannot be reached") as raised:
        ask(endpoint(url), ASK)
    assert raised.value.retryable


@pytest.mark.parametrize("url", ["127.0.0.1:80/v1", "http://127.0.0.1:port/v1", "ftp://127.0.0.1/v1"])
def test_what_is_no_url_is_said_at_once(ask: Ask, url: str):
    with pytest.raises(EndpointError, match="`url`") as raised:
        ask(endpoint(url), ASK)
    assert not raised.value.retryable


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_passing_failure_is_tried_again(ask: Ask, status: int):
    replies = iter([Reply("busy", status=status), Reply("busy", status=status), Reply("Four.")])
    with ScriptedPolicy(lambda _: next(replies)) as server:
        completion = ask(endpoint(server), ASK, 2)
    assert (completion.text, completion.attempts, len(server.requests)) == ("Four.", 3, 3)


def test_retries_are_bounded(ask: Ask):
    with ScriptedPolicy([Reply("overloaded", status=503)]) as server:
        with pytest.raises(EndpointError, match=r"answered 503 for model 'expert'.*overloaded") as raised:
            ask(endpoint(server), ASK, 2)
        assert raised.value.retryable
        assert len(server.requests) == 3


@pytest.mark.parametrize("status", [301, 400, 401, 404, 422])
def test_a_refusal_is_not_tried_again(ask: Ask, status: int):
    with ScriptedPolicy([Reply("no such model", status=status)]) as server:
        with pytest.raises(EndpointError, match=rf"answered {status}.*no such model") as raised:
            ask(endpoint(server), ASK, 2)
        assert not raised.value.retryable
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>502</html>",
        "null",
        "[]",
        '"text"',
        "{}",
        '{"choices": []}',
        '{"choices": null}',
        '{"choices": [{"message": "text"}]}',
        '{"choices": [{"message": {"content": 5}}]}',
        '{"choices": [{"message": {"content": "a"}}], "usage": [1]}',
        '{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": "many"}}',
        '{"error": "overloaded"}',
    ],
)
def test_nonsense_is_an_error_that_shows_it(ask: Ask, body: str):
    with ScriptedPolicy([Reply(body=body)]) as server, pytest.raises(EndpointError, match="no chat completion"):
        ask(endpoint(server), ASK)


def test_bytes_that_are_no_text_are_nonsense_too(ask: Ask):
    def answer(connection: socket.socket, _: int) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\xff\xfe\x00\x80")

    with raw_server(answer) as url, pytest.raises(EndpointError, match="no chat completion"):
        ask(endpoint(url), ASK, 0)


@pytest.mark.parametrize(
    ("content", "text"),
    [("", ""), (None, ""), ([{"type": "text", "text": "Fo"}, {"type": "text", "text": "ur."}], "Four.")],
)
def test_contents_that_servers_really_send(ask: Ask, content: object, text: str):
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}], "usage": None})
    with ScriptedPolicy([Reply(body=body)]) as server:
        completion = ask(endpoint(server), ASK)
    assert completion.text == text
    assert completion.model == "expert"
    assert completion.input_tokens == estimate_tokens(ASK)  # nobody has counted them
    assert completion.output_tokens == len(text) // 4 + 1


def test_a_slow_endpoint_is_given_up_and_not_asked_again(ask: Ask):
    with ScriptedPolicy([Reply("late", delay=2.0)]) as server:
        with pytest.raises(EndpointError, match=r"did not answer within 1 s") as raised:
            ask(endpoint(server, timeout=1.0), ASK, 5)
        assert raised.value.retryable
        assert len(server.requests) == 1


def test_an_endpoint_that_answers_in_drops_is_given_up(ask: Ask):
    ended = threading.Event()

    def answer(connection: socket.socket, _: int) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not ended.wait(0.05):
            connection.sendall(b" ")

    with raw_server(answer) as url:
        with pytest.raises(EndpointError, match="did not answer within"):
            ask(endpoint(url, timeout=0.3), ASK, 0)
        ended.set()


def test_a_connection_that_was_closed_in_between_is_no_failure(ask: Ask):
    body = json.dumps({"choices": [{"message": {"content": "Four."}}]}).encode()

    def answer(connection: socket.socket, number: int) -> None:
        read_request(connection)
        if number == 0:  # as a server does that has just given up a connection kept alive
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    with raw_server(answer) as url:
        completion = ask(endpoint(url), ASK, 1)
    assert (completion.text, completion.attempts) == ("Four.", 2)


def test_connections_are_kept_and_shared_by_threads():
    connections: list[int] = []
    body = json.dumps({"choices": [{"message": {"content": "Four."}}]}).encode()

    def answer(connection: socket.socket, number: int) -> None:
        connections.append(number)
        while read_request(connection):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    with raw_server(answer) as url:
        for _ in range(3):
            thread = threading.Thread(target=complete, args=(endpoint(url), ASK))
            thread.start()
            thread.join()
    assert connections == [0]


def test_every_event_loop_has_connections_of_its_own():
    with ScriptedPolicy(["Four."]) as server:
        for _ in range(3):
            assert asyncio.run(acomplete(endpoint(server), ASK)).text == "Four."


async def test_calls_on_one_loop_overlap():
    together = threading.Barrier(8, timeout=60)

    def reply(_: object) -> Reply:
        together.wait()  # nobody is answered before all have asked
        return Reply("Four.")

    with ScriptedPolicy(reply) as server:
        completions = await asyncio.gather(*(acomplete(endpoint(server), ASK) for _ in range(8)))
    assert {completion.text for completion in completions} == {"Four."}


async def test_a_cancelled_call_ends_at_once():
    asked, release = threading.Event(), threading.Event()

    def reply(_: object) -> Reply:
        asked.set()
        release.wait(10)
        return Reply("late")

    with ScriptedPolicy(reply) as server:
        task = asyncio.create_task(acomplete(endpoint(server), ASK, 5))
        await asyncio.to_thread(asked.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()
    assert len(server.requests) <= 1
