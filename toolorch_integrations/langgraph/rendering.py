"""What differs between the renderings of a run: what the policy is shown, and what its calls stand for."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from langchain.agents.middleware.types import ModelRequest
from langchain_core.messages import AIMessage, AnyMessage, SystemMessage, ToolCall
from langchain_core.tools import BaseTool
from langchain_core.tools import tool as make_tool
from langgraph.prebuilt.tool_node import ToolCallRequest

from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import AnyEntry, Specialist, Tool
from toolorch_integrations.errors import CatalogError
from toolorch_integrations.langgraph.messages import conversation_of
from toolorch_integrations.langgraph.quick import changed
from toolorch_integrations.langgraph.specialists import SpecialistTool
from toolorch_integrations.prompt import Message
from toolorch_integrations.reply import problem_of
from toolorch_integrations.run import Run, Turn
from toolorch_integrations.run_options import RunOptions


class Rendering(ABC):
    """One rendering of runs; an orchestrator has one object of it.

    Attributes:
        tools: What is registered with the agent.
    """

    tools: Sequence[BaseTool]

    @property
    def destructive(self) -> Mapping[str, bool]:
        """Whether a person must confirm what the policy calls, by name, where that is no entry of the catalogue."""
        return {}

    @abstractmethod
    def entries(self, own: Iterable[BaseTool]) -> list[BaseTool]:
        """Return what the entries of a run's catalogue are called through.

        Args:
            own: The agent's tools.
        """

    @abstractmethod
    def run(self, catalog: Catalog, options: RunOptions, **fields: Any) -> Run:
        """Return a run; `fields` are the other arguments of `Run`."""

    @abstractmethod
    def check(self, request: ModelRequest[Any]) -> None:
        """See that the agent asks for nothing that this rendering has no place for.

        Raises:
            CatalogError: It does; the message names the argument of `create_agent`.
        """

    @abstractmethod
    def request(
        self, run: Run, request: ModelRequest[Any], messages: list[AnyMessage], turn: Turn
    ) -> ModelRequest[Any]:
        """Return what the policy is asked."""

    @abstractmethod
    def problem(self, reply: AIMessage) -> str | None:
        """Say why a reply of the policy is no step; None when it is one."""

    @abstractmethod
    def answers(self, reply: AIMessage) -> bool:
        """Whether a reply that is a step may be the last one of a run."""

    @abstractmethod
    def fallback_conversation(self, run: Run, messages: list[AnyMessage]) -> list[Message]:
        """Return what a specialist is asked that answers in the policy's place."""

    @abstractmethod
    def fallback_answer(self, text: str) -> str:
        """Return the answer in that specialist's reply."""

    @abstractmethod
    def call(
        self, run: Run, request: ToolCallRequest, entry: AnyEntry, tools: Mapping[str, BaseTool], timeout: float
    ) -> ToolCallRequest:
        """Return an admitted call as the agent is to make it.

        Args:
            run: The run that it belongs to.
            request: What the policy asked for.
            entry: The entry that was admitted.
            tools: The agent's tools by name.
            timeout: Seconds until the call is given up.
        """

    @abstractmethod
    def upper_bound(self, run: Run, request: ToolCallRequest, entry: AnyEntry) -> float:
        """Return the most that a call of an entry can cost, in dollars."""


class ChatRendering(Rendering):
    """The growing chat, in which the policy writes the arguments of its calls.

    Args:
        specialists: The specialists, registered with the agent as tools.
    """

    def __init__(self, specialists: Sequence[SpecialistTool]) -> None:
        self.tools = specialists

    def entries(self, own: Iterable[BaseTool]) -> list[BaseTool]:
        """Return the agent's tools, the specialists among them."""
        return list(own)

    def run(self, catalog: Catalog, options: RunOptions, **fields: Any) -> Run:
        """Return a run."""
        return Run(catalog, options, **fields)

    def check(self, request: ModelRequest[Any]) -> None:
        """Accept everything: a chat has a place for all that an agent can ask for."""

    def request(
        self, run: Run, request: ModelRequest[Any], messages: list[AnyMessage], turn: Turn
    ) -> ModelRequest[Any]:
        """Return the conversation so far with all tools; on the last turn the policy may not call them."""
        data = run.framework_data
        if "system" not in data:
            prompt = run.system_prompt(request.system_prompt)
            data["system"] = SystemMessage(prompt) if prompt else None
        shown: dict[str, Any] = {"messages": messages, "system_message": data["system"], "tools": list(run.schemas)}
        if turn.last and run.schemas and request.response_format is None:
            shown["tool_choice"] = "none"
        return changed(request, **shown)

    def problem(self, reply: AIMessage) -> str | None:
        """Say why a reply is neither a usable call nor an answer."""
        return problem_of(reply.text, calls=len(reply.tool_calls), broken_calls=len(reply.invalid_tool_calls))

    def answers(self, reply: AIMessage) -> bool:
        """Whether the reply is text without calls."""
        return not reply.tool_calls

    def fallback_conversation(self, run: Run, messages: list[AnyMessage]) -> list[Message]:
        """Return the whole conversation."""
        return list(conversation_of(messages))

    def fallback_answer(self, text: str) -> str:
        """Return the reply as it is."""
        return text

    def call(
        self, run: Run, request: ToolCallRequest, entry: AnyEntry, tools: Mapping[str, BaseTool], timeout: float
    ) -> ToolCallRequest:
        """Return the call with the tool behind the alias that the policy wrote."""
        call: ToolCall = {**request.tool_call, "name": entry.name}
        tool = tools[entry.name]
        if isinstance(tool, SpecialistTool):
            tool = tool.limited_to(run.view.aliases)
        return changed(request, tool_call=call, tool=tool)

    def upper_bound(self, run: Run, request: ToolCallRequest, entry: AnyEntry) -> float:
        """Return a specialist's bound for the whole conversation, or a tool's price."""
        is_specialist = isinstance(entry, Specialist)
        return run.upper_bound(entry, conversation_of(request.state["messages"]) if is_specialist else [])


def as_tool(tool: BaseTool | Callable[..., Any] | dict[str, Any]) -> BaseTool:
    """Return what `create_agent` takes as a tool in the form in which it can be called.

    Raises:
        CatalogError: It is a tool that a model's provider would run.
    """
    if isinstance(tool, BaseTool):
        return tool
    if isinstance(tool, dict):
        raise CatalogError(
            f"`tools` holds {tool!r}, which the model's provider would run: an orchestrator could neither meter nor "
            "confirm its calls. Give a function or a LangChain tool in its place."
        )
    return make_tool(tool)


def tool_entry(tool: BaseTool, catalog: Catalog) -> Tool:
    """Return a tool's catalogue entry: what the catalogue says of it, and the rest from the tool itself."""
    schema: Any = tool.tool_call_schema
    parameters = schema if isinstance(schema, dict) else schema.model_json_schema()
    known = catalog[tool.name] if tool.name in catalog else Tool(name=tool.name)
    if not isinstance(known, Tool):
        raise CatalogError(f"{tool.name!r} is a tool of the agent and a specialist of the catalogue: rename one.")
    update: dict[str, Any] = {"parameters": parameters}
    if not known.description:
        update["description"] = tool.description
    return known.model_copy(update=update)


def tool_key(tool: BaseTool) -> Hashable:
    """Return what tells a tool from another of its name, without making its entry."""
    schema = tool.args_schema
    shape = json.dumps(schema, sort_keys=True, default=str) if isinstance(schema, dict) else schema or type(tool)
    return tool.name, tool.description, shape
