"""Rollouts through the graph, 64 at once with capture, beside raw requests of the same shape.

    python benchmarks/rollouts_langgraph.py [--vllm MODEL]

The server is paced like an 8B model on one GPU that serves 64 requests together: 40 tokens a second for each, 2,560 in
all. It replies with 100 tokens, their ids and log-probabilities, and a tool call on all turns but the last. A rollout
is five turns. Raw requests send the same messages through a bare HTTP client and do nothing else. The share of the raw
tokens a second that the graph keeps is the figure; the bar is 95 %. With --vllm both talk to a real vLLM on this
machine's processors, which graph and engine share, a turn a rollout; there the bar is 60 %.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from langchain_core.tools import tool

from benchmarks.asgi import Receive, Scope, Send, body_of, respond
from toolorch_integrations import Budget
from toolorch_integrations.capture import capture
from toolorch_integrations.langgraph import ChatPolicy, create_orchestrator
from toolorch_integrations.prompt import ORCHESTRATOR_PROMPT

AT_ONCE, ROLLOUTS, TURNS, TOKENS, RATE = 64, 128, 5, 100, 40.0
SYSTEM = "Look keys up."


@tool
def look_up(key: int) -> str:
    """Look a key up."""
    return f"The value of {key} is {key * 7}."


async def paced(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve chat completions at the pace of the module's docstring."""
    if scope["type"] != "http":
        return
    request = json.loads(await body_of(receive))
    await asyncio.sleep(TOKENS / RATE)
    done = sum(message["role"] == "assistant" for message in request["messages"])
    await respond(send, _completion(request, done))


def _completion(request: dict[str, Any], done: int) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": "I look it up." if done < TURNS - 1 else "Done."}
    if done < TURNS - 1:
        function = {"name": "look_up", "arguments": json.dumps({"key": done})}
        message["tool_calls"] = [{"id": f"call-{time.time_ns()}", "type": "function", "function": function}]
    prompt = 400 + done * (TOKENS + 30)
    token = {"token": " word", "logprob": -0.12345, "bytes": [32, 119], "top_logprobs": []}
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": "stop",
        "token_ids": list(range(prompt, prompt + TOKENS)),
        "logprobs": {"content": [token] * TOKENS},
    }
    usage = {"prompt_tokens": prompt, "completion_tokens": TOKENS, "total_tokens": prompt + TOKENS}
    data = {"id": "x", "object": "chat.completion", "created": 1, "model": "paced", "usage": usage}
    return json.dumps({**data, "prompt_token_ids": list(range(prompt)), "choices": [choice]}).encode()


def _serve(port: int) -> None:
    import uvicorn

    uvicorn.run(paced, host="127.0.0.1", port=port, log_level="error", lifespan="off")


@contextlib.contextmanager
def paced_server() -> Iterator[str]:
    """Run the paced server in a process of its own; yield its base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(port,), daemon=True)
    process.start()
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            break
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.join()


async def through_graph(url: str, model: str, turns: int, tokens: int) -> float:
    """Return the tokens a second of rollouts through a captured orchestrator."""
    policy = ChatPolicy(
        model=model, base_url=url, max_tokens=tokens, max_retries=5, timeout=300, extra_body={"ignore_eos": True}
    )
    agent = create_orchestrator(policy, [look_up], budget=Budget(turns=turns), system_prompt=SYSTEM)
    total = 0

    async def rollout(number: int) -> None:
        nonlocal total
        result = await agent.ainvoke({"messages": [("user", f"Look up {number}.")]})
        total += sum(call["output_tokens"] for call in result["ledger"])

    with tempfile.TemporaryDirectory() as folder:
        async with capture(Path(folder) / "traces.db") as session:
            rate = await _timed(rollout, lambda: total)
        assert not session.dropped, session.dropped
    return rate


async def raw(url: str, model: str, turns: int, tokens: int) -> float:
    """Return the tokens a second of the same requests sent by a bare HTTP client."""
    schema = {"type": "object", "properties": {"key": {"type": "integer"}}, "required": ["key"]}
    function = {"name": "look_up", "description": "Look a key up.", "parameters": schema}
    shared = {"model": model, "max_tokens": tokens, "logprobs": True, "return_token_ids": True, "ignore_eos": True}
    total = 0

    async def rollout(number: int) -> None:
        nonlocal total
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": f"{SYSTEM}\n\n{ORCHESTRATOR_PROMPT}"},
            {"role": "user", "content": f"Look up {number}."},
        ]
        for turn in range(turns):
            choice = "none" if turn == turns - 1 else "auto"  # as an orchestrator on the last turn of its budget
            asked = {"messages": messages, "tools": [{"type": "function", "function": function}], "tool_choice": choice}
            request = {**shared, **asked}
            reply = (await client.post(f"{url}/chat/completions", json=request)).raise_for_status().json()
            total += reply["usage"]["completion_tokens"]
            message = reply["choices"][0]["message"]
            if not message.get("tool_calls"):
                break
            messages.append(message)
            messages += [
                {"role": "tool", "tool_call_id": call["id"], "content": "The value is 7."}
                for call in message["tool_calls"]
            ]

    transport = httpx.AsyncHTTPTransport(retries=3, limits=httpx.Limits(max_connections=AT_ONCE))
    async with httpx.AsyncClient(timeout=300, transport=transport) as client:
        return await _timed(rollout, lambda: total)


async def _timed(rollout: Callable[[int], Any], total: Callable[[], int]) -> float:
    """Run all rollouts, so many at once, and return tokens a second."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with gate:
            await rollout(number)

    await rollout(ROLLOUTS)  # modules that are imported at a first request are no part of the comparison
    before, started = total(), time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(ROLLOUTS)))
    return (total() - before) / (time.perf_counter() - started)


def compare(label: str, url: str, model: str, turns: int, tokens: int, bar: float) -> None:
    """Print both figures and the share that the graph keeps."""
    plain = asyncio.run(raw(url, model, turns, tokens))
    graph = asyncio.run(through_graph(url, model, turns, tokens))
    print(f"{label}: raw {plain:7.0f} tokens/s, through the graph {graph:7.0f} tokens/s")
    print(f"{'':{len(label)}}  kept {graph / plain:.1%}    (bar: {bar:.0%})")


def main() -> None:
    """Run against the paced server, and against vLLM if asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm", metavar="MODEL", help="folder of a policy to serve with vLLM")
    parser.add_argument("--vllm-only", action="store_true", help="leave the paced server out")
    options = parser.parse_args()
    if not options.vllm_only:
        with paced_server() as url:
            label = f"paced ({RATE:.0f} tokens/s a request, {RATE * AT_ONCE:.0f} in all)"
            compare(label, url, "paced", TURNS, TOKENS, 0.95)
    if options.vllm:
        from toolorch_serving.policy import policy_server

        with policy_server(options.vllm, engine="vllm", dtype="float32") as server:
            for _ in range(2):  # the first round warms both up
                compare("vLLM on this machine", server.url, server.name, 1, TOKENS, 0.6)


if __name__ == "__main__":
    main()
