"""The LlamaIndex face: orchestrators, specialists as tools, an LLM for policies, capture."""

from importlib import import_module

try:
    for _module in ("llama_index.core.agent.workflow", "llama_index.llms.openai_like"):  # llama_index always imports
        import_module(_module)
except ImportError as error:
    raise ImportError(
        f"toolorch_integrations.llamaindex needs {error.name}: pip install 'toolorch-integrations[llamaindex]'"
    ) from error

from toolorch_integrations.llamaindex.agent import OrchestratorAgent
from toolorch_integrations.llamaindex.capture import CaptureHandler
from toolorch_integrations.llamaindex.completion import ExactData, exact_data
from toolorch_integrations.llamaindex.events import ConfirmationRequired, OrchestratorProgress
from toolorch_integrations.llamaindex.llm import PolicyLLM
from toolorch_integrations.llamaindex.retriever import Retriever
from toolorch_integrations.llamaindex.specialists import SpecialistTool, as_specialist
from toolorch_integrations.llamaindex.state import ledger_of, set_options
from toolorch_integrations.llamaindex.tools import from_langchain, to_langchain
from toolorch_integrations.select_functions import SelectTools

__all__ = [
    "CaptureHandler",
    "ConfirmationRequired",
    "ExactData",
    "OrchestratorAgent",
    "OrchestratorProgress",
    "PolicyLLM",
    "Retriever",
    "SelectTools",
    "SpecialistTool",
    "as_specialist",
    "exact_data",
    "from_langchain",
    "ledger_of",
    "set_options",
    "to_langchain",
]
