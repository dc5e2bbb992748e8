"""The LangGraph face: orchestrators, specialists as tools, a chat model for policies, capture."""

from importlib import import_module

try:
    for _module in ("langgraph.graph", "langchain.agents", "langchain_openai"):  # langgraph alone always imports
        import_module(_module)
except ImportError as error:
    raise ImportError(
        f"toolorch_integrations.langgraph needs {error.name}: pip install 'toolorch-integrations[langgraph]'"
    ) from error

from toolorch_integrations.langgraph.capture import CaptureHandler
from toolorch_integrations.langgraph.chat_model import ChatPolicy
from toolorch_integrations.langgraph.confirmation import ConfirmationMiddleware
from toolorch_integrations.langgraph.middleware import OrchestratorMiddleware
from toolorch_integrations.langgraph.orchestrator import as_node, create_orchestrator
from toolorch_integrations.langgraph.retriever import Retriever
from toolorch_integrations.langgraph.specialists import SpecialistTool, as_specialist
from toolorch_integrations.langgraph.state import OrchestratorContext, OrchestratorState, ledger_of
from toolorch_integrations.select_functions import SelectTools

__all__ = [
    "CaptureHandler",
    "ChatPolicy",
    "ConfirmationMiddleware",
    "OrchestratorContext",
    "OrchestratorMiddleware",
    "OrchestratorState",
    "Retriever",
    "SelectTools",
    "SpecialistTool",
    "as_node",
    "as_specialist",
    "create_orchestrator",
    "ledger_of",
]
