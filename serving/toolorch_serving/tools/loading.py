"""`load_tools`: the tools and specialists of an app by name or from a definitions file, for either framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import AnyEntry, Specialist

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool
    from llama_index.core.tools import FunctionTool

    from toolorch_integrations.langgraph.select import SelectTools
    from toolorch_integrations.select import Tokens
    from toolorch_serving.sandbox import Sandbox
    from toolorch_serving.tools.tool_function import ToolFunction


@dataclass(frozen=True)
class LoadedTools:
    """Tools and specialists, ready for either framework.

    Attributes:
        functions: The tools.
        specialists: The specialists, endpoints included.
    """

    functions: Sequence[ToolFunction] = ()
    specialists: Sequence[Specialist] = ()

    @property
    def entries(self) -> list[AnyEntry]:
        """All entries of the catalogue: tools, then specialists."""
        raise NotImplementedError

    def catalog(self) -> Catalog:
        """Return the entries as a catalogue, for `create_orchestrator(catalog=...)` and `OrchestratorAgent`."""
        return Catalog(self.entries)

    def langchain(self) -> list[BaseTool]:
        """Return the tools for LangGraph: `create_orchestrator(policy, loaded.langchain(), catalog=loaded.catalog())`."""
        raise NotImplementedError

    def llamaindex(self) -> list[FunctionTool]:
        """Return the tools for LlamaIndex: `OrchestratorAgent(tools=loaded.llamaindex(), catalog=loaded.catalog())`."""
        raise NotImplementedError

    def select(self, tokens: Tokens | None = None) -> SelectTools:
        """Return search and interpreter for `create_orchestrator(rendering="select", select=...)` without `tools`."""
        raise NotImplementedError

    def select_catalog(self) -> Catalog:
        """Return the catalogue that goes with `select()`: its two tools and the specialists."""
        raise NotImplementedError


def load_tools(
    names: Sequence[str] = (),
    *,
    definitions: str | Path | None = None,
    retrieval_url: str | None = None,
    sandbox: Sandbox | None = None,
) -> LoadedTools:
    """Load tools by name, from a definitions file, or both.

    Args:
        names: Of `code_interpreter`, `search`, `fetch_page` and `local_search`, or of tools of the file; with a file,
            none means all of the file's.
        definitions: JSON file of tools in OpenAI's function format; see `docs/tools.md`.
        retrieval_url: Base URL of the retrieval service, for `local_search`.
        sandbox: Where code runs; None makes one with the usual limits at its first use.

    Raises:
        DefinitionError: The file cannot be used, or there is no tool of a name.
        MissingVariableError: A model's or tool's environment variable is not set.
    """
    raise NotImplementedError
