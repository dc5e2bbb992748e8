"""An orchestrator for a LangGraph server: `langgraph dev` in this folder serves it, Studio included.

Set POLICY_URL and POLICY_MODEL to a running policy (`toolorch serve policy MODEL`) and SPECIALIST_URL to the
specialists' endpoint. The server brings its own checkpointer, so the graph has none.
"""

import os
from pathlib import Path

from langchain_core.tools import tool

from toolorch_integrations import Budget, Catalog
from toolorch_integrations.langgraph import ChatPolicy, create_orchestrator


@tool
def word_count(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())


graph = create_orchestrator(
    ChatPolicy(
        model=os.environ.get("POLICY_MODEL", "policy"),
        base_url=os.environ.get("POLICY_URL", "http://127.0.0.1:8000/v1"),
    ),
    [word_count],
    catalog=Catalog.from_file(Path(__file__).parent / "catalog.toml"),
    budget=Budget(turns=10, dollars=0.05),
)
