"""The tools of an environment for the two frameworks; each is imported by those who ask for it only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pydantic import BaseModel

from toolorch_integrations.catalog import Catalog


class HasTools(Protocol):
    """What tools are made from."""

    @property
    def models(self) -> Mapping[str, type[BaseModel]]:
        """The arguments of the tools, by name."""

    def catalog(self) -> Catalog:
        """Return the tools as a catalogue."""

    def call_text(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool and return the result as policies see it."""


def langchain_tools(environment: HasTools) -> list[Any]:
    """Return an environment's tools as LangChain tools.

    Raises:
        ImportError: LangChain is not installed.
    """
    from langchain_core.tools import StructuredTool

    return [
        StructuredTool.from_function(
            func=_caller(environment, entry.name),
            name=entry.name,
            description=entry.description,
            args_schema=environment.models[entry.name],
            infer_schema=False,
        )
        for entry in environment.catalog()
    ]


def llamaindex_tools(environment: HasTools) -> list[Any]:
    """Return an environment's tools as LlamaIndex tools.

    Raises:
        ImportError: LlamaIndex is not installed.
    """
    from llama_index.core.tools import FunctionTool, ToolMetadata

    return [
        FunctionTool(
            fn=_caller(environment, entry.name),
            metadata=ToolMetadata(
                description=entry.description, name=entry.name, fn_schema=environment.models[entry.name]
            ),
        )
        for entry in environment.catalog()
    ]


def _caller(environment: HasTools, name: str) -> Callable[..., str]:
    def call(**arguments: Any) -> str:
        return environment.call_text(name, arguments)

    return call
