"""Clients that stop reading: they are cut off, hold no place, and do not keep the gateway from ending."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.gateway_runs import ask
from tests.gateway_world import Echo, Serving, client_of, gateway
from tests.test_gateway_chat import serving
from tests.waiting import auntil, until
from toolorch_serving.gateway import app as gateway_app
from toolorch_serving.gateway import sse
from toolorch_serving.gateway.answer import ClientGoneError
from toolorch_serving.gateway.app import Gateway
from toolorch_serving.gateway.state import GatewayState

CHAT = "/v1/chat/completions"
SOON = 30.0
"""Seconds within which anything ends that ends at all."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_app, "_REFUSAL_SECONDS", 0.05)
    monkeypatch.setattr(gateway_app, "_CUTTING_SECONDS", 0.2)


class Unread:
    """A client that reads the head of its answer and its first piece, and nothing after: uvicorn waits for it."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    async def send(self, message: Any) -> None:
        if len(self.got) == 2:
            await asyncio.get_running_loop().create_future()
        self.got.append(message)

    async def receive(self) -> Any:
        if self.got:
            await asyncio.get_running_loop().create_future()
        return {"type": "http.request", "body": b'{"model": "small"}'}

    async def ask(self, app: Gateway, path: str = CHAT) -> None:
        headers = [(b"host", b"127.0.0.1")]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "server": ("127.0.0.1", 80)}
        await app(scope, self.receive, self.send)


class Stubborn:
    """A proxy that does not end when it is told to, until it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.told = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any, body: bytes) -> None:
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.told.set()


def with_proxy(proxy: Any) -> Any:
    def add(state: GatewayState) -> None:
        state.proxy = proxy

    return add


async def test_a_client_that_stops_reading_is_cut_off_and_its_place_is_free(tmp_path: Path) -> None:
    server = {"request_seconds": 0.2, "requests_at_once": 1}
    with gateway(tmp_path, with_proxy(echo := Echo(9)), server=server) as app, client_of(app) as client:
        async with asyncio.timeout(SOON):
            await Unread().ask(app)
            assert echo.cancelled.is_set()
            assert app.state.metrics.running == 0
            echo.pieces = 1
            assert (await client.post(CHAT, json={"model": "small"})).status_code == 200
        assert b'toolorch_requests_total{route="/v1/chat/completions",status="499"} 1.0' in (
            app.state.metrics.exposition()
        )


async def test_it_does_not_hold_up_the_drain(tmp_path: Path) -> None:
    with gateway(tmp_path, with_proxy(echo := Echo(9))) as app:
        async with asyncio.timeout(SOON):
            asking = asyncio.create_task(Unread().ask(app))
            await auntil(echo.streaming.is_set)
            await app.drain(0.05)
            await asking
        assert app.state.metrics.running == 0


async def test_the_drain_ends_with_requests_that_do_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stubborn = Stubborn()
    server = {"request_seconds": 0.1}
    with gateway(tmp_path, with_proxy(stubborn), server=server) as app:
        async with asyncio.timeout(SOON):
            asking = asyncio.create_task(Unread().ask(app))
            await stubborn.told.wait()  # its time is over already: there is nothing to bring forward
            await app.drain(0.05)
            assert "1 requests did not end when they were cut off" in caplog.text
            stubborn.let_go.set()
            await asking


async def test_an_orchestrators_reader_that_stops_is_gone_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "SEND_SECONDS", 0.2)
    with serving(tmp_path, "langgraph", ["Done."]) as one:
        run = one.state.runners["shop"].run(ask())

        class Left:
            async def __aexit__(self, *_: object) -> None:
                await run.aclose()

        async def events() -> Any:
            for _ in range(9):
                yield sse.event({})

        client = Unread()
        client.got.append("the request")
        response = sse.RunResponse(one.state, Left(), events())  # type: ignore[arg-type]
        answering = response({"type": "http", "method": "POST"}, client.receive, client.send)
        with pytest.raises(ClientGoneError):
            await asyncio.wait_for(answering, SOON)
        assert run.ended is None  # it was never begun, and its conversation is free
        await one.state.runners["shop"].run(ask(thread_id=run.thread_id)).aclose()


def test_over_real_http_its_connection_is_closed_and_the_gateway_ends(tmp_path: Path) -> None:
    echo, server = Echo(3), {"request_seconds": 0.3, "drain_seconds": 0.1}

    async def large(scope: Any, receive: Any, send: Any, body: bytes) -> None:
        async def stuffed(message: Any) -> None:
            if message["type"] == "http.response.body" and message["body"]:
                message["body"] = b"data: %b\n\n" % (b"x" * 2**23)
            await send(message)

        await echo(scope, receive, stuffed, body)  # type: ignore[arg-type]

    with gateway(tmp_path, with_proxy(large), server=server) as app, Serving(app) as serving:
        host, port = serving.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            body = b'{"model": "small"}'
            head = b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), len(body))
            connection.sendall(head + body)
            assert echo.streaming.wait(60)
            until(lambda: app.state.metrics.running == 0)
            serving.drain()
            serving.thread.join(60)
            assert not serving.thread.is_alive()
