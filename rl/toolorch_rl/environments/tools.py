"""The tools of an environment for the two frameworks; each is imported by those who ask for it only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from toolorch_rl.environments.catalog import models_of

if TYPE_CHECKING:
    from toolorch_rl.environments.environment import Environment


def langchain_tools(environment: Environment) -> list[Any]:
    """Return an environment's tools as LangChain tools.

    Raises:
        ImportError: LangChain is not installed.
    """
    from langchain_core.tools import StructuredTool

    models = models_of(environment.schema)
    return [
        StructuredTool.from_function(
            func=_caller(environment, name),
            name=name,
            description=operation.description,
            args_schema=models[name],
            infer_schema=False,
        )
        for name, operation in environment.operations.items()
    ]


def llamaindex_tools(environment: Environment) -> list[Any]:
    """Return an environment's tools as LlamaIndex tools.

    Raises:
        ImportError: LlamaIndex is not installed.
    """
    from llama_index.core.tools import FunctionTool, ToolMetadata

    models = models_of(environment.schema)
    return [
        FunctionTool(
            fn=_caller(environment, name),
            metadata=ToolMetadata(description=operation.description, name=name, fn_schema=models[name]),
        )
        for name, operation in environment.operations.items()
    ]


def _caller(environment: Environment, name: str) -> Callable[..., str]:
    def call(**arguments: Any) -> str:
        return environment.call_text(name, arguments)

    return call
