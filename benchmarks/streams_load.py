"""The load of `gateway_streams.py`: streaming clients.

    python -m benchmarks.streams_load URL JSON        JSON: the fields of `Load`

Half of them stream a policy through the capturing proxy, in conversations of three requests; the others ask an
orchestrator, which asks the policy, a specialist and the policy again. Some leave in the middle of a stream, some read
slowly. What they were told is printed as JSON, for the comparison with the store.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from benchmarks.streams_policy import pieces_of

KEY = "streams"
TURNS = 3
"""Requests of a conversation through the proxy."""
WARM = "warm"
"""What is printed when as many requests have ended as there are clients."""

_SLOW_BYTES, _SLOW_SECONDS = 2048, 0.8
_PATIENCE = 120.0
"""Seconds after which a client counts a silent answer as hanging."""


@dataclass(frozen=True)
class Load:
    """What clients do.

    Attributes:
        clients: How many there are.
        seconds: After which they begin nothing new.
        think: Mean seconds between two requests of a client.
        ramp: Seconds within which the clients come.
        leaving: Share of the requests whose client goes away in the middle.
        slow: Share of the clients that read slowly.
        first: Number of the first request.
        lasting: Whether a client goes on after an error.
    """

    clients: int
    seconds: float
    think: float = 5.0
    ramp: float = 5.0
    leaving: float = 0.05
    slow: float = 0.05
    first: int = 0
    lasting: bool = True


class AnswerError(Exception):
    """An answer was not what it should be."""


@dataclass
class Told:
    """What the clients were told.

    Attributes:
        finished: Traces by id: how many of their requests came to their end.
        orchestrated: Those of them that are an orchestrator's.
        fallen_back: Those in which the specialist answered in the policy's place, as that was down.
        left: Traces whose client went away.
        broken: Traces of requests that ended with an error, where they were known.
        errors: In words, with the seconds that it took.
        first_bytes: Seconds to the first byte of each answer.
        requests: That came to their end.
        received: Bytes.
        open_seconds: Of all streams together.
    """

    finished: dict[str, int] = field(default_factory=dict)
    orchestrated: list[str] = field(default_factory=list)
    fallen_back: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    errors: list[tuple[str, float]] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)
    requests: int = 0
    received: int = 0
    open_seconds: float = 0.0


class Client:
    """One client, which asks, reads and thinks."""

    def __init__(self, url: str, load: Load, told: Told, session: aiohttp.ClientSession, number: int) -> None:
        self._url = url
        self._load = load
        self._told = told
        self._session = session
        self._orchestrated = number % 2 == 1
        self._slow = session.connector is not None and session.connector.limit == 1
        self._generator = random.Random(number)
        self._number = load.first + number
        self._trace = ""

    async def run(self, end: float) -> None:
        """Ask until the time is over."""
        await asyncio.sleep(self._generator.random() * self._load.ramp)
        while time.monotonic() < end:
            begun = time.monotonic()
            self._trace = ""
            try:
                await (self._orchestrator() if self._orchestrated else self._conversation(end))
            except (AnswerError, aiohttp.ClientError, OSError, TimeoutError) as error:
                words = str(error) if isinstance(error, AnswerError) else f"{type(error).__name__}: {error}"
                self._told.errors.append((words[:300], time.monotonic() - begun))
                self._told.broken += [self._trace] if self._trace else []
                if not self._load.lasting:
                    return
            await self._think()
            self._number += self._load.clients

    async def _think(self) -> None:
        await asyncio.sleep(self._load.think * self._generator.uniform(0.5, 1.5))

    async def _conversation(self, end: float) -> None:
        """Three requests through the proxy, each with the answers before."""
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Request {self._number}?"}]
        for turn in range(TURNS):
            if turn:
                await self._think()
                if time.monotonic() >= end:
                    return
            pieces = pieces_of(self._number, turn)
            answer = await self._stream("policy", messages, len(pieces))
            if answer is None:
                return
            named = answer.count(b'"id":"chatcmpl-%d-%d"' % (self._number, turn))
            if named != len(pieces) + 1:
                raise AnswerError(f"{named} of {len(pieces) + 1} pieces came")
            self._told.finished[self._trace] = self._told.finished.get(self._trace, 0) + 1
            messages.append({"role": "assistant", "content": "".join(pieces)})
            messages.append({"role": "user", "content": "And then?"})

    async def _orchestrator(self) -> None:
        messages = [{"role": "user", "content": f"Request {self._number}?"}]
        answer = await self._stream("orchestrator", messages, 4)
        if answer is None:
            return
        if b"Answer %d:" % self._number not in answer:
            raise AnswerError(f"the answer is another one: {answer[-300:]!r}")
        self._told.finished[self._trace] = 1
        kind = self._told.fallen_back if b'"type":"fallback"' in answer else self._told.orchestrated
        kind.append(self._trace)

    async def _stream(self, model: str, messages: list[dict[str, str]], pieces: int) -> bytes | None:
        """Return a whole stream; None where the client went away before its end."""
        told = self._told
        leaves = self._generator.random() < self._load.leaving
        body = {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
        begun = time.monotonic()
        taken = bytearray()
        async with self._session.post(self._url, data=orjson.dumps(body)) as response:
            self._trace = response.headers.get("x-toolorch-trace", "")
            if response.status != 200:
                raise AnswerError(f"{response.status}: {(await response.read())[:300].decode()}")
            while piece := await self._piece(response):
                if not taken:
                    told.first_bytes.append(time.monotonic() - begun)
                taken += piece
                if leaves and self._trace_in(taken) and taken.count(b"\n\n") > pieces // 2:
                    response.close()
                    told.left.append(self._trace_in(taken))
                    return None
        told.requests += 1
        if told.requests == self._load.clients:
            print(WARM, flush=True)
        told.received += len(taken)
        told.open_seconds += time.monotonic() - begun
        self._trace = self._trace_in(taken)
        if b'{"error":' in taken or b"\n\ndata: [DONE]\n\n" not in taken[-300:]:
            raise AnswerError(f"the stream ended with {bytes(taken[-300:]).decode()}")
        return bytes(taken)

    async def _piece(self, response: aiohttp.ClientResponse) -> bytes:
        if not self._slow:
            return await response.content.readany()
        await asyncio.sleep(_SLOW_SECONDS)
        return await response.content.read(_SLOW_BYTES)

    def _trace_in(self, taken: bytearray) -> str:
        """Return the trace: of a header, or of an orchestrator's first event."""
        if not self._trace and (found := re.search(rb'"trace_id":"(\w+)"', taken)):
            self._trace = found[1].decode()
        return self._trace


def _narrow(address: Any) -> socket.socket:
    """Return a socket that takes little before it is read: the sender feels a slow reader."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BYTES)
    made.setblocking(False)
    return made


async def ask(url: str, load: Load) -> Told:
    """Have the clients ask; returns what they were told."""
    told = Told()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    patience = aiohttp.ClientTimeout(total=None, sock_read=_PATIENCE)
    slow = round(load.clients * load.slow)
    # An idle connection is not used after three seconds: the server closes it after five.
    wide = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3), headers=headers, timeout=patience
    )
    narrow = [
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, force_close=True, socket_factory=_narrow),
            headers=headers,
            timeout=patience,
            read_bufsize=_SLOW_BYTES,
        )
        for _ in range(slow)
    ]
    try:
        end = time.monotonic() + load.seconds
        clients = [
            Client(url, load, told, narrow[number] if number < slow else wide, number) for number in range(load.clients)
        ]
        await asyncio.gather(*(client.run(end) for client in clients))
    finally:
        for session in (wide, *narrow):
            await session.close()
    return told


def main() -> None:
    """Ask."""
    import uvloop

    print(orjson.dumps(uvloop.run(ask(sys.argv[1], Load(**json.loads(sys.argv[2]))))).decode())


if __name__ == "__main__":
    main()
