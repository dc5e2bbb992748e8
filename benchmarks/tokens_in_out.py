"""Turns a second by token ids against those by chat completions, on the same server and the same conversations.

Prints one ratio: tokens in, tokens out costs three requests more a turn (render, parse), and saves reading what has
drifted anew. `python -m benchmarks.tokens_in_out http://127.0.0.1:8000/v1 NAME`
"""

from __future__ import annotations

import argparse
import asyncio
import time

import httpx

from toolorch_integrations.tokens import AsyncTokenTransport

TURNS, ANSWER = 5, 32


async def _conversations(url: str, model: str, number: int, *, tokens: bool) -> float:
    limits = httpx.Limits(max_keepalive_connections=256, keepalive_expiry=4)
    transport = AsyncTokenTransport() if tokens else httpx.AsyncHTTPTransport(limits=limits)

    async def one(client: httpx.AsyncClient, index: int) -> None:
        messages = [{"role": "user", "content": f"Task {index}: " + "tell me about the weather in Tokyo. " * 20}]
        options = {"max_tokens": ANSWER, "ignore_eos": True, "seed": index, "logprobs": True, "return_token_ids": True}
        for turn in range(TURNS):
            body = {"model": model, "messages": messages, **options}
            reply = (await client.post(f"{url}/chat/completions", json=body)).raise_for_status().json()
            content = reply["choices"][0]["message"]["content"] or ""
            messages += [{"role": "assistant", "content": content}, {"role": "user", "content": f"Go on ({turn})."}]

    async with httpx.AsyncClient(transport=transport, timeout=300) as client:
        started = time.perf_counter()
        await asyncio.gather(*(one(client, index) for index in range(number)))
        return number * TURNS / (time.perf_counter() - started)


async def main() -> None:
    """Measure both in turn, three times, and print the best of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--conversations", type=int, default=32)
    given = parser.parse_args()
    best = {False: 0.0, True: 0.0}
    for _ in range(3):
        for tokens in best:
            rate = await _conversations(given.url, given.model, given.conversations, tokens=tokens)
            best[tokens] = max(best[tokens], rate)
    print(f"chat completions: {best[False]:.1f} turns/s; token ids: {best[True]:.1f} turns/s")
    print(f"ratio: {best[True] / best[False]:.2f}")


if __name__ == "__main__":
    asyncio.run(main())
