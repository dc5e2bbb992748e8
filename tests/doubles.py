"""Little peers for tests: raw TCP servers, ports that nobody listens on, and shorthands for scripted policies."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
from langchain_core.messages import BaseMessage

from toolorch_integrations import Endpoint, Price, Specialist
from toolorch_integrations.langgraph import ChatPolicy
from toolorch_integrations.testing import ScriptedPolicy

ASK = [{"role": "user", "content": "What is 2 + 2?"}]


def unused_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@contextlib.contextmanager
def raw_server(answer: Callable[[socket.socket, int], None]) -> Iterator[str]:
    """Serve each connection by `answer(connection, number)`, in a thread of its own; yield the base URL."""
    server = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def handle(connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):
            answer(connection, number)

    def accept() -> None:
        number = 0
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                threads.append(threading.Thread(target=handle, args=(connection, number), daemon=True))
                threads[-1].start()
                number += 1

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        acceptor.join()


def read_request(connection: socket.socket) -> bytes:
    """Read one HTTP request with a body."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)
    return body


def chat_policy(server: ScriptedPolicy, **fields: Any) -> ChatPolicy:
    """Return a chat model for a scripted policy, without retries of its own."""
    # Loading the certificates that nobody here needs takes longer than a whole run.
    clients = {"http_client": httpx.Client(verify=False), "http_async_client": httpx.AsyncClient(verify=False)}
    return ChatPolicy(**{"model": server.model, "base_url": server.url, "max_retries": 0, **clients, **fields})


def app_of(policy: ScriptedPolicy) -> Callable[[dict[str, str]], Awaitable[str]]:
    """Return an app that asks a scripted policy once, with the task's text."""
    model = chat_policy(policy)

    async def app(task: dict[str, str]) -> str:
        return str((await model.ainvoke(task["text"])).text)

    return app


def specialist(server: ScriptedPolicy | str, name: str = "expert", **fields: Any) -> Specialist:
    """Return a specialist that a scripted server plays: $1 and $2 per million tokens, no retries."""
    url = server if isinstance(server, str) else server.url
    endpoint = fields.pop("endpoint", None) or Endpoint(url=url, model=name, timeout=fields.pop("answer_within", 5.0))
    given = {"description": f"Knows as {name}.", "price": Price(input=1, output=2), "retries": 0, **fields}
    return Specialist(name=name, endpoint=endpoint, **given)


def texts(messages: list[BaseMessage]) -> list[tuple[str, str]]:
    """Return type and text of messages."""
    return [(message.type, message.text) for message in messages]
