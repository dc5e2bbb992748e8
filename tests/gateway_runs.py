"""An orchestrator of either framework for tests of the gateway: a shop with a destructive tool and two specialists."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.doubles import chat_policy, specialist
from toolorch_integrations import Budget, Catalog, Endpoint, Price, Tool
from toolorch_integrations.langgraph import create_orchestrator
from toolorch_integrations.llamaindex import OrchestratorAgent, PolicyLLM
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_serving.gateway.orchestrators import as_runner
from toolorch_serving.gateway.runner import FaceRunner, RunRequest, RunStream
from toolorch_serving.gateway.threads import Threads

FACES = ("langgraph", "llamaindex")
DELETE_TWO = Reply(calls=[("look", {"number": 1}), ("delete_order", {"number": 1}), ("delete_order", {"number": 2})])


@dataclass
class Shop:
    """Tools that note what was done."""

    done: list[str] = field(default_factory=list)

    def delete_order(self, number: int) -> str:
        """Delete an order."""
        self.done.append(f"delete {number}")
        return f"deleted {number}"

    def look(self, number: int) -> str:
        """Look at an order."""
        self.done.append(f"look {number}")
        return f"order {number}"

    @property
    def tools(self) -> list[Callable[..., str]]:
        return [self.delete_order, self.look]


def orchestrator(
    face: str,
    policy: ScriptedPolicy,
    experts: ScriptedPolicy,
    shop: Shop,
    key_variable: str | None = None,
    **options: Any,
) -> Any:
    """Return an orchestrator whose look costs 1 cent, and whose expert is played by a scripted server."""
    catalog = Catalog([Tool(name="look", price=Price(call=0.01)), Tool(name="delete_order")])
    endpoint = Endpoint(url=experts.url, model="expert", timeout=30.0, key_variable=key_variable)
    given: dict[str, Any] = {
        "specialists": [specialist(experts, endpoint=endpoint)],
        "catalog": catalog,
        "budget": Budget(turns=8),
        **options,
    }
    if face == "langgraph":
        return create_orchestrator(chat_policy(policy, price=Price(input=1.0)), shop.tools, **given)
    llm = PolicyLLM(policy.model, policy.url, max_retries=0, price=Price(input=1.0))
    return OrchestratorAgent(tools=shop.tools, llm=llm, name="shop", **given)


def runner_for(face: str, *args: Any, threads: Threads | None = None, **options: Any) -> FaceRunner:
    """Return a runner named `shop`."""
    found = as_runner("shop", orchestrator(face, *args, **options), threads if threads is not None else Threads())
    assert isinstance(found, FaceRunner)
    return found


def ask(text: str = "Clean up.", **fields: Any) -> RunRequest:
    """Return a request of a caller named `me`."""
    return RunRequest(messages=[{"role": "user", "content": text}], owner="me", **fields)


async def events_of(stream: RunStream) -> list[dict[str, Any]]:
    """Return all events of a run."""
    try:
        return [event async for event in stream]
    finally:
        await stream.aclose()


async def ended(stream: RunStream) -> dict[str, Any]:
    """Return how a run ended."""
    return (await events_of(stream))[-1]


class Held:
    """A script's reply that is held back until it is let go, and says when it was asked for."""

    def __init__(self, reply: str = "Expert's word.") -> None:
        self.reply = reply
        self.asked = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, _: Any) -> str:
        self.asked.set()
        self.let_go.wait(30)
        return self.reply

    async def begun(self) -> None:
        """Wait until the reply was asked for."""
        assert await asyncio.to_thread(self.asked.wait, 30)
