"""What tests of the gateway share: a gateway in this process or on a real port, and a policy server of a few lines."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import orjson

from tests.waiting import auntil
from toolorch_serving.gateway.answer import Answer
from toolorch_serving.gateway.app import Gateway
from toolorch_serving.gateway.config import GatewayConfig
from toolorch_serving.gateway.opening import open_state
from toolorch_serving.gateway.serving import GatewayServer
from toolorch_serving.gateway.state import GatewayState

Add = Callable[[GatewayState], None]


def nothing(_: GatewayState) -> None:
    """Add neither runner nor proxy."""


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@contextmanager
def gateway(folder: Path, add: Add | None = nothing, **sections: Any) -> Iterator[Gateway]:
    """A gateway on a store in a folder, with a port of its own; `add` None: with the parts that are configured."""
    sections["server"] = {"port": 0, **sections.get("server", {})}
    sections.setdefault("store", {"url": str(folder / "traces.db")})
    with open_state(GatewayConfig(**sections), add) as state:
        yield Gateway(state)


@contextmanager
def client_of(app: Gateway, **options: Any) -> Iterator[httpx.AsyncClient]:
    """A client in this process."""
    yield httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", **options)


class Serving:
    """A gateway that a thread serves over real HTTP."""

    def __init__(self, app: Gateway) -> None:
        self.server = GatewayServer(app)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> Serving:
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)
        self.url = self.server.url
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(30)

    def drain(self) -> None:
        """As the first SIGTERM does."""
        self.server.handle_exit(signal.SIGTERM, None)


class Echo:
    """A proxy that streams what it is told to, and notes who asked. Held, it streams on once `go_on` is set."""

    def __init__(self, pieces: int = 3, pause: float = 0.0, dollars: float = 0.0, *, held: bool = False) -> None:
        self.pieces, self.pause, self.dollars = pieces, pause, dollars
        self.go_on = threading.Event()
        if not held:
            self.go_on.set()
        self.seen: list[tuple[str, bytes]] = []
        self.streaming = threading.Event()
        self.cancelled = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Answer, body: bytes) -> None:
        self.seen.append((scope["toolorch.caller"].name, body))
        scope["toolorch.permit"].spent(self.dollars)
        headers = [(b"content-type", b"text/event-stream")]
        try:
            if self.pieces == 0:
                await asyncio.sleep(self.pause)
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for number in range(self.pieces):
                await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
                self.streaming.set()
                await asyncio.sleep(self.pause)
                await auntil(self.go_on.is_set)
            await send({"type": "http.response.body", "body": b""})
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def completion(model: str) -> dict[str, Any]:
    """What a policy server answers, exactly."""
    entries = [{"token": f"w{token} ", "logprob": -0.5, "bytes": None, "top_logprobs": []} for token in (5, 7)]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "w5"},
        "finish_reason": "stop",
        "token_ids": [5, 7],
        "logprobs": {"content": entries},
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    named = {"id": "r", "object": "chat.completion", "created": 1, "model": model}
    return {**named, "choices": [choice], "usage": usage, "prompt_token_ids": [1, 2, 7]}


class PolicyServer:
    """A policy server that says little, lists its models and knows its tokens: id 7 is `<end>`, 5 is `w5 `."""

    def __init__(self, models: list[str], *, detokenize: bool = True) -> None:
        self.models, self.requests = models, list[str]()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer({"object": "list", "data": [{"id": name, "object": "model"} for name in outer.models]})

            def do_POST(self) -> None:
                body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.requests.append(self.path)
                if self.path == "/v1/chat/completions":
                    self.answer(completion(body["model"]))
                elif self.path == "/v1/unload_lora_adapter":
                    outer.models.remove(body["lora_name"])
                    self.answer({})
                elif detokenize:
                    self.answer({"prompt": "".join("<end>" if one == 7 else f"w{one} " for one in body["tokens"])})
                else:
                    self.answer({"detail": "Not Found"}, 404)

            def answer(self, body: Any, status: int = 200) -> None:
                data = orjson.dumps(body)
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> PolicyServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
