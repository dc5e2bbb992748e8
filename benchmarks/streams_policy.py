"""The policy server and the specialist of `gateway_streams.py`: they think of nothing, and take their time.

    python -m benchmarks.streams_policy PORT

Answers come at so many tokens a second, whole or in the pieces of a stream, in vLLM's format with ids and
log-probabilities. The pace stands in the environment, for server and clients alike.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sys
import time
from typing import Any

import orjson

from benchmarks.asgi import Receive, Scope, Send, body_of, respond

TOKENS = int(os.environ.get("STREAMS_TOKENS", "600"))
"""Of a streamed answer. An orchestrator's run has as many and half: a quarter for the call, as many to end with."""
RATE = float(os.environ.get("STREAMS_RATE", "30"))
"""Tokens a second of each answer."""
PIECE = int(os.environ.get("STREAMS_PIECE", "8"))
"""Tokens in a piece of a stream: what vLLM calls its stream interval."""

_WORDS = (__doc__ or "").split()
_NUMBER = re.compile(r"Request (\d+)")


def pieces_of(number: int, turn: int) -> list[str]:
    """Return a streamed answer, in its pieces; server and client know it."""
    generator = random.Random(number * 8 + turn)
    words = [f" {generator.choice(_WORDS)}" for _ in range(max(PIECE, TOKENS))]
    words[0] = f"Answer {number}:"
    return ["".join(words[start : start + PIECE]) for start in range(0, len(words), PIECE)]


def ids_of(text: str) -> list[int]:
    """Return token ids of a text, four bytes each; a prompt is those of its messages, so it grows as vLLM's does."""
    data = text.encode()
    return [int.from_bytes(data[start : start + 4], "big") % 150_000 for start in range(0, len(data), 4)]


async def policy(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer chat completions, as an ASGI app."""
    if scope["type"] != "http":
        return
    body = await body_of(receive)
    if scope["method"] == "GET":
        await _whole(send, {"object": "list", "data": [{"id": "policy", "object": "model"}]})
        return
    request = orjson.loads(body)
    messages = request["messages"]
    texts = [str(message.get("content") or "") for message in messages]
    number = int(next(found for text in texts if (found := _NUMBER.search(text)))[1])
    turn = sum(message["role"] == "assistant" for message in messages)
    prompt = [token for text in texts for token in ids_of(text)]
    if request.get("stream"):
        await _streamed(send, number, turn, prompt)
    elif request.get("tools") and messages[-1]["role"] == "user":
        function = {"name": "expert", "arguments": json.dumps({"task": f"Request {number}: think it over."})}
        calls = [{"id": f"call-{number}", "type": "function", "function": function}]
        await asyncio.sleep(TOKENS / 4 / RATE)
        await _whole(send, _completion(number, turn, prompt, {"content": None, "tool_calls": calls}, TOKENS // 4))
    else:
        share = 1 if request["model"] == "expert" else 4
        await asyncio.sleep(TOKENS / share / RATE)
        text = "".join(pieces_of(number, 0))
        await _whole(send, _completion(number, turn, prompt, {"content": text[: len(text) // share]}, TOKENS // share))


async def _streamed(send: Send, number: int, turn: int, prompt: list[int]) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    head: dict[str, Any] = {"id": f"chatcmpl-{number}-{turn}", "object": "chat.completion.chunk", "created": 1}
    head["model"] = "policy"
    begun, count = time.monotonic(), 0
    pieces = pieces_of(number, turn)
    for place, piece in enumerate(pieces):
        ids = ids_of(piece)
        choice: dict[str, Any] = {"index": 0, "delta": {"content": piece}, "token_ids": ids}
        choice["logprobs"] = {"content": [_logprob(token) for token in ids]}
        choice["finish_reason"] = "stop" if place == len(pieces) - 1 else None
        chunk = {**head, "choices": [choice]} | ({"prompt_token_ids": prompt} if place == 0 else {})
        await send({"type": "http.response.body", "body": b"data: %b\n\n" % orjson.dumps(chunk), "more_body": True})
        count += len(ids)
        await asyncio.sleep(max(0.0, begun + (place + 1) * PIECE / RATE - time.monotonic()))
    usage = {"prompt_tokens": len(prompt), "completion_tokens": count, "total_tokens": len(prompt) + count}
    last = b"data: %b\n\ndata: [DONE]\n\n" % orjson.dumps({**head, "choices": [], "usage": usage})
    await send({"type": "http.response.body", "body": last})


def _completion(number: int, turn: int, prompt: list[int], message: dict[str, Any], tokens: int) -> dict[str, Any]:
    ids = [(number + place) % 150_000 for place in range(tokens)]
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", **message}, "token_ids": ids}
    choice["logprobs"] = {"content": [_logprob(token) for token in ids]}
    choice["finish_reason"] = "tool_calls" if message.get("tool_calls") else "stop"
    usage = {"prompt_tokens": len(prompt), "completion_tokens": tokens, "total_tokens": len(prompt) + tokens}
    named = {"id": f"chatcmpl-{number}-{turn}", "object": "chat.completion", "created": 1, "model": "policy"}
    return {**named, "choices": [choice], "usage": usage, "prompt_token_ids": prompt}


def _logprob(token: int) -> dict[str, Any]:
    return {"token": f" w{token}", "logprob": -(token % 97) / 50, "bytes": [32, 119], "top_logprobs": []}


async def _whole(send: Send, data: dict[str, Any]) -> None:
    await respond(send, orjson.dumps(data))


def main() -> None:
    """Serve."""
    import uvicorn

    served: dict[str, Any] = {"log_level": "warning", "access_log": False, "timeout_keep_alive": 60, "backlog": 4096}
    uvicorn.run(policy, port=int(sys.argv[1]), **served)


if __name__ == "__main__":
    main()
