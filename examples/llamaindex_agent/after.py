"""The same app with an orchestrator for an agent. Run it with `python -m examples.llamaindex_agent.after "..."`.

Set POLICY_URL and POLICY_MODEL to any OpenAI-compatible server.
"""

import asyncio
import os
import sys

from llama_index.core.agent.workflow.base_agent import BaseWorkflowAgent
from llama_index.llms.openai_like import OpenAILike

from toolorch_integrations.llamaindex import OrchestratorAgent

STOCK = {"tent": 2, "stove": 0, "map": 7}


def stock(item: str) -> str:
    """Say how many pieces of an item are in stock."""
    return f"{STOCK.get(item, 0)} in stock"


def total(price: float, pieces: int) -> str:
    """Say what so many pieces cost."""
    return f"{price * pieces:.2f} euros"


def make_agent() -> BaseWorkflowAgent:
    """Return the shop's agent."""
    model, url = os.environ.get("POLICY_MODEL", "policy"), os.environ.get("POLICY_URL", "http://127.0.0.1:8000/v1")
    llm = OpenAILike(model, api_base=url, api_key="none", is_chat_model=True, is_function_calling_model=True)
    return OrchestratorAgent(tools=[stock, total], llm=llm, system_prompt="You work for an outdoor shop.")


async def main(question: str) -> None:
    """Ask the agent, and show what it does."""
    handler = make_agent().run(user_msg=question)
    async for event in handler.stream_events():
        if type(event).__name__ == "ToolCallResult":
            print(f"{event.tool_name} {event.tool_kwargs}: {event.tool_output}")
    print(await handler)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "Are there two tents?"))
