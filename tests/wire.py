"""What a policy server really sent: every completion on the wire, read apart from the code under test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Wire:
    """Records prompt ids and sampled ids of each response, by response id."""

    completions: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)

    def read(self, body: bytes) -> None:
        for data in _payloads(body):
            if "choices" not in data:
                continue
            prompt, sampled = self.completions.setdefault(data["id"], ([], []))
            prompt += data.get("prompt_token_ids") or []
            for choice in data["choices"]:
                sampled += choice.get("token_ids") or []

    def client(self) -> httpx.Client:
        return httpx.Client(transport=_Recorder(self), timeout=120)

    def async_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=_AsyncRecorder(self), timeout=120)


def _payloads(body: bytes) -> Iterator[dict[str, Any]]:
    if not body.startswith(b"data:"):
        yield json.loads(body)
        return
    for line in body.decode().splitlines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


class _Recorder(httpx.BaseTransport):
    def __init__(self, wire: Wire) -> None:
        self.wire, self.inner = wire, httpx.HTTPTransport(retries=3)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self.inner.handle_request(request)
        body = response.read()
        if response.status_code == 200:
            self.wire.read(body)
        return httpx.Response(response.status_code, headers=_plain(response), content=body, request=request)


class _AsyncRecorder(httpx.AsyncBaseTransport):
    def __init__(self, wire: Wire) -> None:
        self.wire, self.inner = wire, httpx.AsyncHTTPTransport(retries=3)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self.inner.handle_async_request(request)
        body = await response.aread()
        if response.status_code == 200:
            self.wire.read(body)
        return httpx.Response(response.status_code, headers=_plain(response), content=body, request=request)


def _plain(response: httpx.Response) -> list[tuple[str, str]]:
    dropped = ("content-encoding", "content-length", "transfer-encoding")
    return [(key, value) for key, value in response.headers.items() if key.lower() not in dropped]
