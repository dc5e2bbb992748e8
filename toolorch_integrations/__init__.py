"""A learned, budget-aware orchestrator for LangGraph and LlamaIndex apps.

This package imports neither framework. The faces are `toolorch_integrations.langgraph` and
`toolorch_integrations.llamaindex`.
"""

from toolorch_integrations.budget import Budget
from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import Endpoint, Price, Specialist, Tool
from toolorch_integrations.errors import (
    CaptureWarning,
    CatalogError,
    EmptyMessagesError,
    EndpointError,
    GivenUpError,
    MissingVariableError,
    StoreError,
    ToolorchError,
    UnknownEntryError,
)
from toolorch_integrations.ledger import Call, CallKind, CallStatus, Ledger
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.view import CatalogFilter

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Call",
    "CallKind",
    "CallStatus",
    "CaptureWarning",
    "Catalog",
    "CatalogError",
    "CatalogFilter",
    "EmptyMessagesError",
    "Endpoint",
    "EndpointError",
    "GivenUpError",
    "Ledger",
    "MissingVariableError",
    "Preferences",
    "Price",
    "Specialist",
    "StoreError",
    "Tool",
    "ToolorchError",
    "UnknownEntryError",
]
