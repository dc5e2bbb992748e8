"""`load_tools`: the tools and specialists of an app by name or from a definitions file, for either framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import AnyEntry, Specialist
from toolorch_integrations.select import FUNCTIONS, REASON, SEARCH, Tokens
from toolorch_integrations.select_functions import SelectTools
from toolorch_serving.tools import code_interpreter, fetch_page, local_search, search
from toolorch_serving.tools.definitions import Definitions, ToolDefinition, load_function, read_definitions
from toolorch_serving.tools.errors import DefinitionError
from toolorch_serving.tools.models import specialists_of
from toolorch_serving.tools.tool_function import ToolFunction

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool
    from llama_index.core.tools import FunctionTool

    from toolorch_serving.sandbox import Sandbox

BUILT_IN = (code_interpreter.NAME, search.NAME, fetch_page.NAME, local_search.NAME)
"""Names of the tools out of the box."""


@dataclass(frozen=True)
class LoadedTools:
    """Tools and specialists, ready for either framework.

    Attributes:
        functions: The tools that the policy may call.
        specialists: The specialists, endpoints included.
        searching: The tool behind `search` in the `select` rendering.
        interpreting: The tool behind `enhance_reasoning` there.
    """

    functions: Sequence[ToolFunction] = ()
    specialists: Sequence[Specialist] = ()
    searching: ToolFunction | None = None
    interpreting: ToolFunction | None = None

    @property
    def entries(self) -> list[AnyEntry]:
        """All entries of the catalogue: tools, then specialists."""
        return [*(function.entry for function in self.functions), *self.specialists]

    def catalog(self) -> Catalog:
        """Return the entries as a catalogue, for `create_orchestrator(catalog=...)` and `OrchestratorAgent`."""
        return Catalog(self.entries)

    def langchain(self) -> list[BaseTool]:
        """Return the tools for `create_orchestrator(policy, tools, catalog=loaded.catalog())`."""
        return [function.langchain() for function in self.functions]

    def llamaindex(self) -> list[FunctionTool]:
        """Return the tools for `OrchestratorAgent(tools=tools, catalog=loaded.catalog())`."""
        return [function.llamaindex() for function in self.functions]

    def select(
        self, tokens: Tokens | None = None, *, framework: Literal["langgraph", "llamaindex"] = "langgraph"
    ) -> SelectTools:
        """Return search and interpreter for an orchestrator with `rendering="select"`, which takes no other tools.

        Args:
            tokens: The policy's tokenizer, by which the context is cut.
            framework: Whose tools they are: of `create_orchestrator` or of `OrchestratorAgent`.
        """

        def shaped(tool: ToolFunction | None) -> Any:
            if tool is None:
                return None
            return tool.langchain() if framework == "langgraph" else tool.llamaindex(documents=True)

        return SelectTools(shaped(self.searching), shaped(self.interpreting), tokens or Tokens())

    def select_catalog(self) -> Catalog:
        """Return the catalogue that goes with `select()`: its two tools and the specialists."""
        tools = [tool.entry for tool in (self.searching, self.interpreting) if tool is not None]
        return Catalog([*tools, *self.specialists])


def load_tools(
    names: Sequence[str] = (),
    *,
    definitions: str | Path | None = None,
    retrieval_url: str | None = None,
    retrieval_key_variable: str | None = None,
    sandbox: Sandbox | None = None,
) -> LoadedTools:
    """Load tools by name, from a definitions file, or both.

    A function of the file with an argument `model` (`enhance_reasoning`, `answer`, `search`) becomes the specialists
    that it offers; `search` and `code_interpreter`, with which they work, are tools besides.

    Args:
        names: Of `code_interpreter`, `search`, `fetch_page` and `local_search`, or of tools of the file; with a file,
            none means all of the file's.
        definitions: JSON file of tools in OpenAI's function format; see `docs/tools.md`.
        retrieval_url: Base URL of the retrieval service, for `local_search`.
        retrieval_key_variable: Environment variable with that service's key.
        sandbox: Where code runs; None makes one with the usual limits at its first use.

    Raises:
        DefinitionError: The file cannot be used, or there is no tool of a name.
        MissingVariableError: A model's or tool's environment variable is not set.

    Example:
        >>> [entry.name for entry in load_tools(["code_interpreter"]).entries]
        ['code_interpreter']
    """
    made = _Making(retrieval_url, retrieval_key_variable, sandbox)
    found = read_definitions(definitions) if definitions is not None else Definitions(tools=[])
    defined = {tool.name: tool for tool in found.tools}
    choosing = [name for name, tool in defined.items() if name in FUNCTIONS and tool.model_schema is not None]
    wanted = list(dict.fromkeys(names or defined))
    for name in wanted:
        if name not in defined and name not in BUILT_IN:
            known = sorted({*BUILT_IN, *defined})
            raise DefinitionError(f"There is no tool {name!r}: choose from {known}, or add it to a definitions file.")
    functions: dict[str, ToolFunction] = {}
    for name in wanted:
        if name in choosing:
            behind = {REASON: code_interpreter.NAME, SEARCH: search.NAME}.get(name)
            if behind is not None and (behind not in defined or behind in choosing):
                functions.setdefault(behind, made.built_in(behind))
        elif name in defined:
            functions[name] = _defined(defined[name], made, definitions or "")
        else:
            functions.setdefault(name, made.built_in(name))
    offered = [name for name in choosing if name in wanted]
    specialists = specialists_of(found, offered, definitions or "") if offered else []
    searching = next((functions[name] for name in (search.NAME, local_search.NAME) if name in functions), None)
    return LoadedTools(list(functions.values()), specialists, searching, functions.get(code_interpreter.NAME))


class _Making:
    """Makes tools out of the box."""

    def __init__(self, retrieval_url: str | None, key_variable: str | None, sandbox: Sandbox | None) -> None:
        self._retrieval_url = retrieval_url
        self._key_variable = key_variable
        self._sandbox = sandbox

    def built_in(self, name: str) -> ToolFunction:
        if name == code_interpreter.NAME:
            return code_interpreter.code_interpreter(self._sandbox)
        if name == search.NAME:
            return search.search()
        if name == fetch_page.NAME:
            return fetch_page.fetch_page()
        if not self._retrieval_url:
            raise DefinitionError("local_search needs the retrieval service: give `retrieval_url` ([retrieval] url).")
        return local_search.local_search(self._retrieval_url, key_variable=self._key_variable)


def _defined(definition: ToolDefinition, made: _Making, path: str | Path) -> ToolFunction:
    """Return a tool of the file: the app's function, or the tool out of the box of that name in the file's words."""
    if definition.implementation is not None:
        return ToolFunction(definition.entry(), load_function(definition, path))
    if definition.name in BUILT_IN:
        tool = made.built_in(definition.name)
        foreign = set(definition.function.parameters.get("properties", {})) - set(tool.entry.parameters["properties"])
        if foreign:
            raise DefinitionError(
                f"{path}: {definition.name} takes {sorted(tool.entry.parameters['properties'])}, not "
                f"{sorted(foreign)}: correct its parameters, or give an `implementation`."
            )
        return replace(tool, entry=definition.changed(tool.entry))
    if definition.name in FUNCTIONS:
        raise DefinitionError(
            f"{path}: {definition.name} needs an argument `model` with the aliases that it offers, as an `enum`."
        )
    raise DefinitionError(
        f"{path}: the tool {definition.name!r} has no function behind it: add "
        '"implementation": "module:function" to its definition.'
    )
