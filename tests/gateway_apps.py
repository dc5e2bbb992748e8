"""Orchestrators that tests of the gateway import by path, as a user's configuration does."""

from __future__ import annotations

from typing import Any

from tests.gateway_runs import Shop
from toolorch_integrations.langgraph import ChatPolicy, create_orchestrator
from toolorch_integrations.llamaindex import OrchestratorAgent, PolicyLLM

URL = "http://127.0.0.1:9/v1"

graph = create_orchestrator(ChatPolicy(model="policy", base_url=URL), Shop().tools)
agent = OrchestratorAgent(tools=Shop().tools, llm=PolicyLLM("policy", URL))
number = 7


class Holder:
    graph = graph


def make_graph() -> Any:
    return graph


async def make_later() -> Any:
    return graph


def make_agent() -> Any:
    return agent


def fails() -> Any:
    raise RuntimeError("no database")


def needs(something: Any) -> Any:
    return something


def plain_graph() -> Any:
    from langchain.agents import create_agent

    return create_agent(ChatPolicy(model="policy", base_url=URL), [])
