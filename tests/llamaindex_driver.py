"""Drives the LlamaIndex face through a scenario."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.workflow import HumanResponseEvent, InputRequiredEvent

from tests.scenarios import TOOLS, Scenario
from toolorch_integrations import Catalog, Price, Specialist, Tool
from toolorch_integrations.llamaindex.agent import OrchestratorAgent
from toolorch_integrations.llamaindex.llm import PolicyLLM
from toolorch_integrations.llamaindex.state import ledger_of

PRICE = Price(input=1.0, output=2.0)


async def run_llamaindex(
    scenario: Scenario, url: str, specialists: list[Specialist], *, streaming: bool = False, priced: str = "policy"
) -> tuple[str, list[dict[str, Any]]]:
    """Return the answer and the ledger's calls; the price of tokens is said by the `policy` or the `agent`."""
    agent = OrchestratorAgent(
        tools=TOOLS,
        llm=PolicyLLM("scripted", url, max_retries=0, price=None if priced == "agent" else PRICE),
        specialists=specialists,
        catalog=Catalog([Tool(name=name, price=price) for name, price in scenario.prices.items()]),
        system_prompt=scenario.system_prompt,
        price=PRICE if priced == "agent" else None,
        streaming=streaming,
    )
    history = [ChatMessage(role=role, content=text) for role, text in scenario.before]
    handler = agent.run(user_msg=scenario.request, chat_history=history or None, context=scenario.options)
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            handler.ctx.send_event(HumanResponseEvent(decisions=list(scenario.decisions)))
    output = await handler
    return output.response.content or "", [call.to_dict() for call in await ledger_of(handler.ctx)]
