"""The load of the capturing proxy's benchmark: a policy server that answers at once, and clients that ask it.

    python benchmarks/proxy_load.py serve PORT ready|built
    python benchmarks/proxy_load.py gateway PORT UPSTREAM STORE
    python benchmarks/proxy_load.py ask URL CLIENTS SECONDS FIRST_NUMBER [CALLS]

A conversation has ten calls with a tool result between each two, as an agent's run has. The first prompt has 2,000 ids
and each later one more; every answer has 150 sampled ids with log-probabilities, all in vLLM's format. What the
clients send is made beforehand, so that as little as possible of the machine goes to them. What the server answers is
made beforehand too (`ready`: no server that computes anything is as quick), or is built for each request by FastAPI,
as vLLM's own front does (`built`).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import sys
import time
from functools import cache
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from benchmarks.asgi import Receive, Scope, Send, body_of, respond

CALLS = 10
SAMPLED_IDS, RESULT_IDS = 150, 25
FIRST_IDS = int(os.environ.get("PROXY_LOAD_FIRST", "2000"))
"""Ids of a conversation's first prompt; all processes of a run have to agree."""
KINDS = 16
"""Different conversations; what tells two of the same kind apart is the number in the user's first message."""

PROSE = " ".join((__doc__ or "").split())


def text(generator: random.Random, tokens: int) -> str:
    """Return prose that a tokeniser would turn into about so many ids: four characters each."""
    start = generator.randrange(len(PROSE))
    return (PROSE[start:] + PROSE * (4 * tokens // len(PROSE) + 1))[: 4 * tokens]


def call_id(kind: int, turn: int) -> str:
    """Return the id of a turn's tool call, before the conversation's number."""
    return f"chatcmpl-tool-{kind:02x}{turn:02x}"


@cache
def replies(kind: int) -> list[dict[str, Any]]:
    """Return the assistant messages of a kind of conversation; the last asks for nothing."""
    generator = random.Random(kind)
    found = []
    for turn in range(CALLS):
        message: dict[str, Any] = {"role": "assistant", "content": text(generator, 80)}
        if turn < CALLS - 1:
            function = {"name": "search", "arguments": json.dumps({"query": text(generator, 50)})}
            message["tool_calls"] = [{"id": call_id(kind, turn) + "@", "type": "function", "function": function}]
        found.append(message)
    return found


@cache
def requests(kind: int) -> list[tuple[bytes, ...]]:
    """Return the bodies of a kind's requests, cut where the conversation's number belongs."""
    generator = random.Random(-kind - 1)
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": text(generator, FIRST_IDS // 2)},
        {"role": "user", "content": f"Request @ of kind {kind}: " + text(generator, FIRST_IDS // 2)},
    ]
    bodies = []
    for reply in replies(kind):
        body = {"model": "policy", "messages": messages, "temperature": 0.7, "max_tokens": 1024}
        exact = {"logprobs": True, "return_token_ids": True}
        bodies.append(tuple(json.dumps(body | exact).encode().split(b"@")))
        messages.append(reply)
        if "tool_calls" in reply:
            result = {
                "role": "tool",
                "tool_call_id": reply["tool_calls"][0]["id"],
                "content": text(generator, RESULT_IDS),
            }
            messages.append(result)
    return bodies


@cache
def answers(kind: int) -> list[dict[str, Any]]:
    """Return a kind's answers."""
    generator = random.Random(kind)
    prompt = [generator.randrange(150_000) for _ in range(FIRST_IDS)]
    bodies = []
    for turn, message in enumerate(replies(kind)):
        ids = [generator.randrange(150_000) for _ in range(SAMPLED_IDS)]
        content = [
            {"token": f" w{token}", "logprob": -generator.expovariate(2.0), "bytes": [32, 119], "top_logprobs": []}
            for token in ids
        ]
        choice = {"index": 0, "message": message, "logprobs": {"content": content}, "token_ids": ids}
        choice["finish_reason"] = "tool_calls" if "tool_calls" in message else "stop"
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(ids), "total_tokens": len(prompt) + len(ids)}
        body = {"id": f"chatcmpl-{kind}-{turn}-@", "object": "chat.completion", "created": 1, "model": "policy"}
        body |= {"choices": [choice], "usage": usage, "prompt_token_ids": prompt}
        bodies.append(body)
        prompt = [*prompt, *ids, *(generator.randrange(150_000) for _ in range(RESULT_IDS))]
    return bodies


@cache
def answer_bytes(kind: int) -> list[tuple[bytes, ...]]:
    """Return the bodies of a kind's answers, cut where the conversation's number belongs."""
    return [tuple(json.dumps(body, separators=(",", ":")).encode().split(b"@")) for body in answers(kind)]


def asked(body: bytes) -> tuple[str, int, int]:
    """Return number, kind and turn of the conversation that a request goes on with."""
    import orjson

    messages = orjson.loads(body)["messages"]
    _, number, _, _, kind, _ = messages[1]["content"].split(" ", 5)
    return number, int(kind[:-1]), (len(messages) - 2) // 2


def built_policy() -> FastAPI:
    """Return a policy server that builds each answer, as servers of FastAPI do."""
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "policy", "object": "model"}]}

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> JSONResponse:
        number, kind, turn = asked(await request.body())
        answer = answers(kind)[turn]
        (choice,) = answer["choices"]
        message = choice["message"]
        if "tool_calls" in message:
            calls = [{**call, "id": call["id"].replace("@", number)} for call in message["tool_calls"]]
            message = {**message, "tool_calls": calls}
        own = {"id": answer["id"].replace("@", number), "choices": [{**choice, "message": message}]}
        return JSONResponse({**answer, **own})

    return app


async def policy(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer chat completions with what was made beforehand, as an ASGI app."""
    if scope["type"] != "http":
        return
    body = await body_of(receive)
    if scope["method"] == "GET":
        answer = b'{"object":"list","data":[{"id":"policy","object":"model"}]}'
    else:
        number, kind, turn = asked(body)
        answer = number.encode().join(answer_bytes(kind)[turn])
    await respond(send, answer)


async def ask(url: str, clients: int, seconds: float, first: int, most: int | None = None) -> dict[str, float]:
    """Hold conversations for so many seconds (or calls); return the figures."""
    import aiohttp

    times: list[float] = []
    number = first
    answered = 0
    connector = aiohttp.TCPConnector(limit=clients)
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def client() -> None:
            nonlocal number, answered
            while time.perf_counter() < end and (most is None or answered < most):
                number += 1
                mine, kind = str(number).encode(), number % KINDS
                for body in requests(kind):
                    begun = time.perf_counter()
                    async with session.post(url, data=mine.join(body)) as response:
                        answer = await response.read()
                        if response.status != 200 or not answer.endswith(b"}"):
                            raise SystemExit(f"{response.status}: {answer[:300]!r}")
                    times.append(time.perf_counter() - begun)
                    answered += 1
                    if len(times) > 100_000:
                        del times[:50_000]

        for kind in range(KINDS):
            requests(kind)
        begun = time.perf_counter()
        end = begun + seconds
        await asyncio.gather(*(client() for _ in range(clients)))
        took = time.perf_counter() - begun
    return {"rate": answered / took, "median": statistics.median(times) * 1e3, "calls": answered, "last": number}


def main() -> None:
    """Serve, or ask."""
    import uvicorn
    import uvloop

    served: dict[str, Any] = {"log_level": "warning", "access_log": False, "timeout_keep_alive": 60}
    if sys.argv[1] == "serve":
        for kind in range(KINDS):
            answer_bytes(kind)
        uvicorn.run(policy if sys.argv[3] == "ready" else built_policy(), port=int(sys.argv[2]), **served)
    elif sys.argv[1] == "gateway":
        from toolorch_serving.gateway.proxy import capturing_proxy_app

        uvicorn.run(capturing_proxy_app(sys.argv[3], sys.argv[4]), port=int(sys.argv[2]), **served)
    else:
        url, clients, seconds, first = sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
        most = int(sys.argv[6]) if len(sys.argv) > 6 else None
        print(json.dumps(uvloop.run(ask(url, clients, seconds, first, most))))


if __name__ == "__main__":
    main()
