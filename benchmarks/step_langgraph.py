"""What a step of the orchestrator costs beside a step of a bare `create_agent`, with the same scripted model.

    python benchmarks/step_langgraph.py

A step is one model call and one tool call, with a model that answers at once: the hardest case. All agents run the same
ten steps in turn, many times; the figures are medians of one run, and the bar is a ratio of 1.15. Beside it stands what
LangChain itself takes for any middleware that wraps model and tool calls and does nothing else, and what a deadline
adds, which puts synchronous model calls into a thread that can be given up.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool

from toolorch_integrations import Budget
from toolorch_integrations.langgraph import create_orchestrator

STEPS = 10
ROUNDS = 100


class Scripted(BaseChatModel):
    """Calls the tool so many times, then answers."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        """Accept tools as a served model does."""
        return self.bind(tools=tools, **options)

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        done = sum(isinstance(message, ToolMessage) for message in messages)
        call = {"name": "add", "args": {"a": done, "b": 1}, "id": f"call-{done}", "type": "tool_call"}
        reply = AIMessage("", tool_calls=[call]) if done < STEPS else AIMessage(f"It is {done}.")
        return ChatResult(generations=[ChatGeneration(message=reply)])


class Nothing(AgentMiddleware):
    """Wraps model and tool calls and passes them on."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        """Pass a model call on."""
        return handler(request)

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        """Pass a tool call on."""
        return handler(request)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def main() -> None:
    """Print the milliseconds of a step of each, and their ratio."""
    shared: dict[str, Any] = {"system_prompt": "Add."}
    agents = {
        "create_agent": create_agent(Scripted(), [add], **shared),
        "  with a middleware that does nothing": create_agent(Scripted(), [add], middleware=[Nothing()], **shared),
        "create_orchestrator": create_orchestrator(Scripted(), [add], budget=Budget(turns=50, dollars=1.0), **shared),
        "  with a deadline": create_orchestrator(
            Scripted(), [add], budget=Budget(turns=50, dollars=1.0, seconds=60), **shared
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in agents}
    for agent in agents.values():
        for _ in range(5):
            agent.invoke({"messages": [("user", "Go.")]})
    gc.disable()
    order = list(agents.items())
    for _ in range(ROUNDS):
        random.shuffle(order)  # the first of a round finds cold caches
        for name, agent in order:
            started = time.perf_counter()
            agent.invoke({"messages": [("user", "Go.")]})
            times[name].append((time.perf_counter() - started) / STEPS)
        gc.collect()
    for name, measured in times.items():
        ratio = statistics.median(one / base for one, base in zip(measured, times["create_agent"], strict=True))
        print(f"{name:<40}{statistics.median(measured) * 1000:8.2f} ms a step{ratio:8.2f} times")
    print("bar for create_orchestrator: 1.15 times")


if __name__ == "__main__":
    main()
