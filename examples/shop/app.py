"""The shop assistant: an ordinary LangGraph app, before and after.

The two functions differ in one line: what `create_agent` does with one model, `create_orchestrator` does with a
policy and specialists.
"""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langgraph.graph.state import CompiledStateGraph

from examples.shop.catalog import APP_PROMPT
from examples.shop.tools import TOOLS
from toolorch_integrations import Budget, Catalog
from toolorch_integrations.langgraph import create_orchestrator


def before(model: BaseChatModel) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the app as it was: one model that does everything itself."""
    return create_agent(model, TOOLS, system_prompt=APP_PROMPT)


def after(policy: BaseChatModel, catalog: Catalog) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the app with an orchestrator in place of the agent."""
    return create_orchestrator(policy, TOOLS, catalog=catalog, system_prompt=APP_PROMPT, budget=Budget())
