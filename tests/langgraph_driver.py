"""Drives the LangGraph face through a scenario."""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from tests.scenarios import TOOLS, Scenario
from toolorch_integrations import Catalog, Price, Specialist, Tool
from toolorch_integrations.langgraph import ChatPolicy, create_orchestrator

PRICE = Price(input=1.0, output=2.0)


async def run_langgraph(
    scenario: Scenario, url: str, specialists: list[Specialist], *, priced: str = "policy"
) -> tuple[str, list[dict[str, Any]]]:
    """Return the answer and the ledger's calls; the price of tokens is said by the `policy` or the `agent`."""
    agent = create_orchestrator(
        ChatPolicy(model="scripted", base_url=url, max_retries=0, price=None if priced == "agent" else PRICE),
        TOOLS,
        specialists=specialists,
        catalog=Catalog([Tool(name=name, price=price) for name, price in scenario.prices.items()]),
        system_prompt=scenario.system_prompt,
        price=PRICE if priced == "agent" else None,
        checkpointer=InMemorySaver(),
    )
    config = {"configurable": {"thread_id": "only"}}
    messages = [*scenario.before, ("user", scenario.request)]
    result = await agent.ainvoke({"messages": messages}, config, context=scenario.options)
    if result.get("__interrupt__"):
        result = await agent.ainvoke(
            Command(resume={"decisions": list(scenario.decisions)}), config, context=scenario.options
        )
    return result["messages"][-1].text, result.get("ledger", [])
