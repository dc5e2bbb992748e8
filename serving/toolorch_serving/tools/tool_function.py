"""A tool as its catalogue entry and a Python function, and its form in each framework."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, WithJsonSchema, create_model, model_validator

from toolorch_integrations.entry import Tool
from toolorch_integrations.errors import ToolorchError
from toolorch_integrations.schema import argument_problem, canonical_parameters

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool
    from llama_index.core.tools import FunctionTool

THREADS = 32
"""Tool functions that are not asynchronous and may run at once in the process."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document that a search found.

    Attributes:
        text: What the policy reads of it.
        metadata: JSON-safe facts such as `url`, `title`, `score`.
    """

    text: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """What a searching tool returns: the observation, and its documents one by one for the `select` rendering."""

    text: str
    documents: Sequence[Document] = ()


@dataclass(frozen=True)
class ToolFunction:
    """A tool that works in LangGraph, in LlamaIndex and in the `select` rendering.

    Attributes:
        entry: Name, description, parameters, price, latency and limits.
        function: Takes the arguments by name; returns a text, a `Found`, or a value that is shown as JSON. It may be
            asynchronous. It raises a `ToolorchError` whose message the policy can act on.
        async_function: The same for an event loop; None calls `function` there, in a thread where it is not
            asynchronous.
    """

    entry: Tool
    function: Callable[..., Any]
    async_function: Callable[..., Awaitable[Any]] | None = None

    @property
    def name(self) -> str:
        """The tool's name in the catalogue."""
        return self.entry.name

    def call(self, **arguments: Any) -> Found:
        """Call the function and wait."""
        result = self.function(**self._given(arguments))
        if inspect.isawaitable(result):
            result = asyncio.run(_awaited(result))
        return _found(result)

    async def acall(self, **arguments: Any) -> Found:
        """Call the function from an event loop, which goes on meanwhile."""
        function, given = self.async_function or self.function, self._given(arguments)
        if inspect.iscoroutinefunction(function):
            return _found(await function(**given))
        run = contextvars.copy_context().run
        result = await asyncio.get_running_loop().run_in_executor(_threads(), lambda: run(function, **given))
        return _found(await result if inspect.isawaitable(result) else result)

    def _given(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments without those that are left out, which frameworks pass as None."""
        required = self.entry.parameters.get("required", ())
        return {name: value for name, value in arguments.items() if value is not None or name in required}

    def langchain(self) -> BaseTool:
        """Return a LangChain tool; documents are its artifact, and an error is an observation with status `error`.

        Raises:
            ImportError: LangChain is not installed.
        """
        from langchain_core.documents import Document as LangChainDocument
        from langchain_core.tools import StructuredTool, ToolException

        # LangGraph reads the annotations of these functions, where no name of this method is known.
        def shaped(found: Found) -> tuple[str, list[Any]]:
            documents = [LangChainDocument(page_content=d.text, metadata=d.metadata) for d in found.documents]
            return found.text, documents

        def call(**arguments: Any) -> tuple[str, list[Any]]:
            try:
                return shaped(self.call(**arguments))
            except ToolorchError as error:
                raise ToolException(f"Error: {error}") from error

        async def acall(**arguments: Any) -> tuple[str, list[Any]]:
            try:
                return shaped(await self.acall(**arguments))
            except ToolorchError as error:
                raise ToolException(f"Error: {error}") from error

        return StructuredTool(
            name=self.name,
            description=self.entry.description,
            args_schema=arguments_model(self.entry),
            func=call,
            coroutine=acall,
            response_format="content_and_artifact",
            handle_tool_error=True,
        )

    def llamaindex(self, *, documents: bool = False) -> FunctionTool:
        """Return a LlamaIndex tool; an error is raised, as agents of LlamaIndex expect.

        Args:
            documents: Return the documents that were found as nodes in place of one text, for the `select` rendering.

        Raises:
            ImportError: LlamaIndex is not installed.
        """
        from llama_index.core.schema import NodeWithScore, TextNode
        from llama_index.core.tools import FunctionTool, ToolMetadata

        def shaped(found: Found) -> Any:
            if not documents or not found.documents:
                return found.text
            return [NodeWithScore(node=TextNode(text=d.text, metadata=d.metadata)) for d in found.documents]

        def call(**arguments: Any) -> Any:
            return shaped(self.call(**arguments))

        async def acall(**arguments: Any) -> Any:
            return shaped(await self.acall(**arguments))

        model = arguments_model(self.entry)
        metadata = ToolMetadata(name=self.name, description=self.entry.description, fn_schema=model)
        return FunctionTool(fn=call, async_fn=acall, metadata=metadata)


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def _found(result: Any) -> Found:
    if isinstance(result, Found):
        return result
    if isinstance(result, str):
        return Found(result)
    return Found(json.dumps(result, ensure_ascii=False, default=str))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="toolorch-tool")


def text_parameters(name: str, description: str, **optional: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a tool with one required text and optional further arguments."""
    return {
        "type": "object",
        "properties": {name: {"type": "string", "description": description}, **optional},
        "required": [name],
    }


def arguments_model(entry: Tool) -> type[BaseModel]:
    """Return a tool's JSON Schema as the pydantic model that both frameworks ask for; it checks the whole schema."""
    parameters = canonical_parameters(entry.parameters)
    required = parameters.get("required", ())
    fields: dict[str, Any] = {
        name: (Annotated[Any, WithJsonSchema(schema)], ... if name in required else schema.get("default"))
        for name, schema in parameters["properties"].items()
    }

    def check(given: Any) -> Any:
        problem = argument_problem(parameters, given)
        if problem is not None:
            raise ValueError(problem)
        return given

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Field name .* shadows an attribute")
        validators: dict[str, Any] = {"check": model_validator(mode="before")(check)}
        return create_model(entry.name, __validators__=validators, **fields)
