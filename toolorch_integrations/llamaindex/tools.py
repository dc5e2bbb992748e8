"""LlamaIndex tools as entries of the catalogue, how they are called, and tools of LangChain on both sides."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol, cast, runtime_checkable

from llama_index.core.base.llms.types import TextBlock
from llama_index.core.tools import AsyncBaseTool, BaseTool, FunctionTool, ToolMetadata, ToolOutput, adapt_to_async_tool
from llama_index.core.tools.function_tool import sync_to_async
from llama_index.core.tools.types import BaseToolAsyncAdapter
from llama_index.core.workflow import Context
from pydantic import BaseModel, ValidationError

from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import AnyEntry, Tool
from toolorch_integrations.errors import CatalogError
from toolorch_integrations.llamaindex.specialists import SpecialistTool
from toolorch_integrations.schema import validation_problem
from toolorch_integrations.workers import in_worker

HANDOFF = "handoff"
"""Name of the tool with which LlamaIndex passes a conversation to another agent."""


class BadArgumentsError(ValueError):
    """Arguments that do not fit a tool's schema."""


@runtime_checkable
class LangChainTool(Protocol):
    """What is needed of a LangChain tool; LangChain itself is not imported."""

    name: str
    description: str
    args_schema: Any

    async def ainvoke(self, *args: Any, **kwargs: Any) -> Any:
        """Call the tool."""

    def invoke(self, *args: Any, **kwargs: Any) -> Any:
        """Call the tool and wait."""


AnyTool = BaseTool | LangChainTool | Callable[..., Any]
"""What an orchestrator takes as a tool."""


def as_tools(given: Iterable[AnyTool]) -> list[AsyncBaseTool]:
    """Return tools of any kind as LlamaIndex tools.

    Raises:
        CatalogError: A tool has no name, or the one that LlamaIndex keeps for itself.
    """
    tools = [_as_tool(tool) for tool in given]
    for tool in tools:
        if tool.metadata.name == HANDOFF:
            raise CatalogError(
                f"A tool is named {HANDOFF!r}. LlamaIndex gives that name to the tool that passes a conversation to "
                "another agent: rename yours."
            )
        if not tool.metadata.name:
            raise CatalogError(f"A tool has no name: give {tool!r} one in its metadata.")
    return tools


def from_langchain(tool: LangChainTool) -> FunctionTool:
    """Return a LangChain tool as a LlamaIndex tool.

    LlamaIndex has no adapter of its own for this way.
    """
    schema = tool.args_schema
    if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
        raise CatalogError(f"args_schema of the LangChain tool {tool.name!r} is no pydantic model: give it one.")

    from toolorch_integrations.langchain_tools import off_the_loop  # LangChain is there: the tool is one of its own

    awaited: Any = off_the_loop(cast("Any", tool))

    def call(**arguments: Any) -> Any:
        return tool.invoke(arguments)

    async def acall(**arguments: Any) -> Any:
        return await awaited.ainvoke(arguments)

    metadata = ToolMetadata(description=tool.description, name=tool.name, fn_schema=schema)
    return FunctionTool(fn=call, async_fn=acall, metadata=metadata)


def to_langchain(tool: BaseTool) -> Any:
    """Return a LlamaIndex tool, a specialist among them, as a LangChain `StructuredTool`.

    `BaseTool.to_langchain_structured_tool` does the same for releases of LangChain before 1.0 only.

    Raises:
        ImportError: LangChain is not installed.
    """
    from langchain_core.tools import StructuredTool  # LangChain is imported by those who ask for it only

    called = adapt_to_async_tool(tool)

    def call(**arguments: Any) -> str:
        return str(called.call(**arguments))

    async def acall(**arguments: Any) -> str:
        return str(await call_tool(called, arguments, None))

    return StructuredTool(
        name=tool.metadata.get_name(),
        description=_description(tool),
        args_schema=tool.metadata.fn_schema or tool.metadata.get_parameters_dict(),
        func=call,
        coroutine=acall,
    )


def tool_entry(tool: BaseTool, catalog: Catalog) -> AnyEntry:
    """Return a tool's catalogue entry: what the catalogue says of it, and the rest from the tool itself.

    Raises:
        CatalogError: The catalogue has a specialist of that name.
    """
    if isinstance(tool, SpecialistTool):
        return tool.specialist
    name = tool.metadata.get_name()
    known = catalog[name] if name in catalog else Tool(name=name)
    if not isinstance(known, Tool):
        raise CatalogError(f"{name!r} is a tool of the agent and a specialist of the catalogue: rename one.")
    update: dict[str, Any] = {"parameters": _parameters(tool)}
    if not known.description:
        update["description"] = _description(tool)
    return known.model_copy(update=update)


def tool_key(tool: BaseTool) -> Hashable:
    """Return what tells a tool from another of its name, without making its entry."""
    metadata = tool.metadata
    shape = json.dumps(metadata.get_parameters_dict(), sort_keys=True, default=str)
    return metadata.get_name(), metadata.description, shape


def valid_arguments(tool: BaseTool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as a tool's schema reads them; LlamaIndex itself would pass on whatever comes.

    Raises:
        BadArgumentsError: They do not fit.
    """
    schema = tool.metadata.fn_schema
    if schema is None:
        return dict(arguments)
    try:
        valid = schema.model_validate(arguments)
    except ValidationError as error:
        raise BadArgumentsError(validation_problem(error.errors())) from error
    return {key: getattr(valid, key) for key in type(valid).model_fields if key in arguments}


async def call_tool(tool: AsyncBaseTool, arguments: dict[str, Any], context: Context | None) -> ToolOutput:
    """Call a tool; what is not asynchronous runs in a thread of `workers`, which may hang without harm."""
    if isinstance(tool, FunctionTool):
        if context is not None and tool.requires_context and tool.ctx_param_name is not None:
            arguments = {**arguments, tool.ctx_param_name: context}
        if tool.async_fn.__qualname__.startswith(sync_to_async.__qualname__):
            return await in_worker(partial(tool.call, **arguments))
    if isinstance(tool, BaseToolAsyncAdapter):
        return await in_worker(partial(tool.call, **arguments))
    return await tool.acall(**arguments)


class EntryTool(AsyncBaseTool):
    """An entry of the catalogue as the policy sees it, for LLMs that take tools: only its schema is used."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._metadata = _EntryMetadata(schema)

    @property
    def metadata(self) -> ToolMetadata:
        """Name, description and parameters."""
        return self._metadata

    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """Fail: it is not for calling."""
        raise NotImplementedError(f"{self._metadata.name} is called by the agent")

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """Fail: it is not for calling."""
        return self.call()


class _EntryMetadata(ToolMetadata):
    def __init__(self, schema: dict[str, Any]) -> None:
        function = schema["function"]
        super().__init__(description=function["description"], name=function["name"], fn_schema=None)
        self._schema = schema

    def get_parameters_dict(self) -> dict[str, Any]:
        return dict(self._schema["function"]["parameters"])

    def to_openai_tool(self, skip_length_check: bool = False) -> dict[str, Any]:
        function = self._schema["function"]  # copied, since LLM classes write into it
        return {**self._schema, "function": {**function, "parameters": dict(function["parameters"])}}


def text_output(text: str, name: str, arguments: Any, *, error: bool) -> ToolOutput:
    """Return an observation as a tool's output."""
    return ToolOutput(
        blocks=[TextBlock(text=text)],
        tool_name=name,
        raw_input={"args": [], "kwargs": arguments},
        raw_output=text,
        is_error=error,
    )


def _as_tool(tool: AnyTool) -> AsyncBaseTool:
    if isinstance(tool, BaseTool):
        return adapt_to_async_tool(tool)
    if isinstance(tool, LangChainTool):
        return from_langchain(tool)
    return FunctionTool.from_defaults(tool)


def _description(tool: BaseTool) -> str:
    """Return a tool's description without the signature that `FunctionTool` puts before a function's docstring."""
    text = tool.metadata.description
    documented = (tool.real_fn.__doc__ or "").strip() if isinstance(tool, FunctionTool) else ""
    if documented and text.startswith(f"{tool.metadata.name}(") and text.endswith(documented):
        return textwrap.dedent(documented)
    return text


def _parameters(tool: BaseTool) -> dict[str, Any]:
    """Return the JSON Schema of a tool's arguments, without descriptions that stand in its own description already."""
    parameters = tool.metadata.get_parameters_dict()
    if not isinstance(tool, FunctionTool):
        return parameters
    documented, _ = FunctionTool.extract_param_docs(tool.real_fn.__doc__ or "")
    return {
        **parameters,
        "properties": {
            name: {
                key: value
                for key, value in schema.items()
                if not (key == "description" and value == documented.get(name, "").strip())
            }
            for name, schema in parameters.get("properties", {}).items()
        },
    }
