"""What an orchestrator adds to an agent's state, and what a caller may put into its context."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Annotated, Any

from langchain.agents.middleware.types import AgentState, OmitFromInput, PrivateStateAttr
from typing_extensions import NotRequired, TypedDict  # noqa: UP035 (pydantic wants these before Python 3.12)

from toolorch_integrations.budget import Budget
from toolorch_integrations.ledger import Ledger
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.run_state import RunState
from toolorch_integrations.view import CatalogFilter

RUN_KEY = "toolorch_run"
"""Key of `response_metadata` under which an answer that the orchestrator itself wrote holds the run's id."""


class OrchestratorContext(TypedDict, total=False):
    """Per-request context: `agent.invoke(..., context={"preferences": Preferences(cost=1.0)})`.

    Each value may be its class or a plain dictionary, as a LangGraph server passes it.
    """

    preferences: Preferences | dict[str, Any]
    budget: Budget | dict[str, Any]
    catalog: CatalogFilter | dict[str, Any]


class OrchestratorState(AgentState[Any]):
    """An agent's state with the ledger of its calls; parallel calls add to it side by side."""

    ledger: NotRequired[Annotated[list[dict[str, Any]], OmitFromInput, operator.add]]
    run: NotRequired[Annotated[RunState, PrivateStateAttr]]


def ledger_of(result: Mapping[str, Any], *, all_runs: bool = False) -> Ledger:
    """Return the ledger of an orchestrator's result or state.

    Args:
        result: What `invoke` returned, or `get_state(config).values`.
        all_runs: Include earlier runs of the same conversation.
    """
    items = result.get("ledger") or []
    if all_runs or not items:
        return Ledger.from_dicts(items)
    last = (result.get("messages") or [None])[-1]
    run_id = getattr(last, "response_metadata", {}).get(RUN_KEY)  # a run that ends at once has no call to go by
    return Ledger.from_dicts(items, run_id or items[-1]["run_id"])
