"""Python objects with tools as an environment: for benchmarks that bring their own code."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel

from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import Tool
from toolorch_integrations.schema import canonical_parameters
from toolorch_rl.environments.errors import EnvironmentCallError
from toolorch_rl.environments.tools import langchain_tools, llamaindex_tools


@dataclass(frozen=True, slots=True)
class Toolkit:
    """What a benchmark brings for one run.

    Attributes:
        descriptions: The tools by name.
        models: Their arguments.
        call: Makes a call and returns its result as a policy sees it; raises whatever it likes.
        state: Gives a copy of all that calls can change; copies of equal states are equal.
        source: The benchmark's own object behind it.
    """

    descriptions: Mapping[str, str]
    models: Mapping[str, type[BaseModel]]
    call: Callable[[str, dict[str, Any]], str]
    state: Callable[[], Any]
    source: Any = None


@dataclass(frozen=True, slots=True)
class CallMade:
    """A call that a run has made.

    Attributes:
        name: Of the tool.
        arguments: What it was called with.
        text: Its result, or the error.
        failed: Whether it raised.
        stage: Number of the user's words that it was made for, from 0.
    """

    name: str
    arguments: dict[str, Any]
    text: str
    failed: bool
    stage: int


class ToolkitEnvironment:
    """A benchmark's toolkit at work. Safe across threads; parallel calls are made one after the other.

    Attributes:
        made: All calls so far.
        states: The state at the end of each stage that has ended.

    Args:
        toolkit: What the benchmark brings.
    """

    def __init__(self, toolkit: Toolkit) -> None:
        self.made: list[CallMade] = []
        self.states: list[Any] = []
        self._toolkit = toolkit
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing: all is in memory."""

    @property
    def source(self) -> Any:
        """The benchmark's own object behind it."""
        return self._toolkit.source

    def catalog(self) -> Catalog:
        """Return the tools as a catalogue; their names say which of them a person confirms."""
        return Catalog(
            Tool(name=name, description=text, parameters=canonical_parameters(self.models[name].model_json_schema()))
            for name, text in self._toolkit.descriptions.items()
        )

    @property
    def models(self) -> Mapping[str, type[BaseModel]]:
        """The arguments of the tools, by name."""
        return self._toolkit.models

    def langchain_tools(self) -> list[Any]:
        """Return the tools as LangChain `StructuredTool`s."""
        return langchain_tools(self)

    def llamaindex_tools(self) -> list[Any]:
        """Return the tools as LlamaIndex `FunctionTool`s."""
        return llamaindex_tools(self)

    def call_text(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool and return the result as policies see it.

        Args:
            name: Of the tool.
            arguments: Those that are None count as left out.

        Raises:
            EnvironmentCallError: There is no such tool, or it raised.
        """
        if name not in self.models:
            raise EnvironmentCallError(f"there is no tool {name!r}")
        given = {key: value for key, value in arguments.items() if value is not None}
        with self._lock:
            try:  # a copy: toolkits keep lists that they are given, and change them later
                text, failed = self._toolkit.call(name, deepcopy(given)), False
            except Exception as error:
                text, failed = f"{type(error).__name__}: {error}", True
            self.made.append(CallMade(name, given, text, failed, len(self.states)))
        if failed:
            raise EnvironmentCallError(text)
        return text

    def state(self) -> Any:
        """Return a copy of all that calls can change."""
        with self._lock:
            return self._toolkit.state()

    def end_stage(self) -> None:
        """Note the state: the policy has answered, and the user speaks next or not at all."""
        with self._lock:
            self.states.append(self._toolkit.state())
