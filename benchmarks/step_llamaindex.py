"""What a step of the orchestrator costs beside a FunctionAgent's, and what capture adds to a policy call.

    python benchmarks/step_llamaindex.py

A step is one LLM call and one tool call. Both agents run the same ten steps in turn with the same scripted LLM, many
times, whole and streamed; the figures are medians of one run, and the bar is a ratio of 1.15. Capture is measured on
replies that are already decoded, of 2,000 prompt ids and 150 completion ids with log-probabilities; its bar is 0.2 ms.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ChatResponseAsyncGen, MessageRole
from llama_index_instrumentation import get_dispatcher

from toolorch_integrations import Budget
from toolorch_integrations.capture import CaptureSession, capture
from toolorch_integrations.llamaindex import OrchestratorAgent, PolicyLLM
from toolorch_integrations.llamaindex.completion import response_of

STEPS, ROUNDS = 10, 40
PROMPT, COMPLETION, CALLS = 2000, 150, 400
BAR_RATIO, BAR_MILLISECONDS = 1.15, 0.2


class Scripted(PolicyLLM):
    """Calls the tool so many times, then answers; nothing goes over a wire."""

    def _reply(self, messages: Sequence[ChatMessage]) -> ChatResponse:
        done = sum(message.role == MessageRole.TOOL for message in messages)
        message: dict[str, Any] = {"content": f"It is {done}."}
        if done < STEPS:
            function = {"name": "add", "arguments": f'{{"a": {done}, "b": 1}}'}
            message = {"content": None, "tool_calls": [{"id": f"call-{done}", "function": function}]}
        return response_of(self, {"id": "x", "model": "policy", "choices": [{"message": message}]})

    async def _achat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponse:
        return self._reply(messages)

    async def _astream_chat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponseAsyncGen:
        async def responses() -> ChatResponseAsyncGen:
            yield self._reply(messages)

        return responses()


class Decoded(PolicyLLM):
    """Gives a reply that is there already, as a policy server would have sent it."""

    def _chat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponse:
        token = {"token": " word", "logprob": -0.123456, "bytes": [32, 119, 111, 114, 100], "top_logprobs": []}
        choice = {
            "message": {"content": "word " * COMPLETION},
            "token_ids": list(range(COMPLETION)),
            "logprobs": {"content": [dict(token) for _ in range(COMPLETION)]},
        }
        return response_of(self, {"id": "x", "prompt_token_ids": list(range(PROMPT)), "choices": [choice]})


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def steps(streaming: bool) -> None:
    """Print the milliseconds of a step of each agent, and their ratio."""
    options: dict[str, Any] = {
        "tools": [add],
        "llm": Scripted("policy", "http://127.0.0.1:9/v1"),
        "system_prompt": "Add.",
        "streaming": streaming,
    }
    agents = {
        "FunctionAgent": FunctionAgent(**options),
        "OrchestratorAgent": OrchestratorAgent(budget=Budget(turns=50, dollars=1.0, seconds=60), **options),
    }
    times: dict[str, list[float]] = {name: [] for name in agents}
    for agent in agents.values():
        for _ in range(3):
            await agent.run(user_msg="Go.")
    gc.disable()
    for _ in range(ROUNDS):
        for name, agent in agents.items():
            started = time.perf_counter()
            await agent.run(user_msg="Go.")
            times[name].append((time.perf_counter() - started) / STEPS)
        gc.collect()
    print("streamed" if streaming else "whole")
    for name, measured in times.items():
        print(f"  {name:<20}{statistics.median(measured) * 1000:8.2f} ms a step")
    ratios = [b / a for a, b in zip(times["FunctionAgent"], times["OrchestratorAgent"], strict=True)]
    print(f"  {'ratio, run by run':<20}{statistics.median(ratios):8.2f}    (bar: {BAR_RATIO})")


def capture_adds(folder: Path) -> tuple[float, float]:
    """Return the median milliseconds of a call without and with capture."""
    llm, messages = Decoded("policy", "http://127.0.0.1:9/v1"), [ChatMessage("word " * 200)]

    def timed() -> float:
        started = time.perf_counter()
        llm.chat(messages)
        return (time.perf_counter() - started) * 1000

    @get_dispatcher().span
    def run(session: CaptureSession | None) -> list[float]:
        """Make calls within one run, as an agent does; a writer works between them, as while a policy samples."""
        llm.chat(messages)
        times = []
        for _ in range(20):
            if session is not None:
                session.flush()
            times.append(timed())
        return times

    plain: list[float] = []
    captured: list[float] = []
    run(None)
    gc.disable()
    for _ in range(CALLS // 20):
        plain += run(None)
        with capture(folder / "added.db") as session:
            captured += run(session)
        gc.collect()
    return statistics.median(plain), statistics.median(captured)


def main() -> None:
    """Print the figures beside their bars."""
    for streaming in (False, True):
        asyncio.run(steps(streaming))
    with tempfile.TemporaryDirectory() as name:
        plain, captured = capture_adds(Path(name))
    print("a policy call, reply decoded already")
    print(f"  {plain:.3f} ms, captured {captured:.3f} ms")
    print(f"  capture adds {captured - plain:.3f} ms    (bar: {BAR_MILLISECONDS} ms)")


if __name__ == "__main__":
    main()
