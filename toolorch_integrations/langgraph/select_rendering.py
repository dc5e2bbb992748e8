"""The `select` rendering in LangGraph: NVIDIA's Orchestrator-8B as the policy of an agent.

The conversation in the agent's state grows as in any agent, but the policy never sees it: each step's prompt is made
anew from what the run's tool messages brought.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain.agents.middleware.types import ModelRequest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from langchain_core.tools import BaseTool
from langchain_core.tools import tool as make_tool
from langgraph.prebuilt.tool_node import ToolCallRequest

from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import AnyEntry
from toolorch_integrations.langgraph.messages import run_messages
from toolorch_integrations.langgraph.quick import changed
from toolorch_integrations.langgraph.rendering import Rendering, tool_entry
from toolorch_integrations.langgraph.select import SelectTool, argument_of, standing_of
from toolorch_integrations.langgraph.specialists import SpecialistTool
from toolorch_integrations.prompt import Message
from toolorch_integrations.run import Run, Turn
from toolorch_integrations.run_options import RunOptions
from toolorch_integrations.select import ANSWER, FUNCTIONS
from toolorch_integrations.select_functions import (
    SelectFunctions,
    SelectTools,
    refuse_option,
    refuse_tool,
    step_problem,
)
from toolorch_integrations.select_replies import answer_in
from toolorch_integrations.select_run import SelectRun


class SelectRendering(Rendering):
    """Fresh prompts of two messages, in which the policy chooses a function and a model.

    Args:
        given: The app's tools.
        specialists: All specialists; their `capabilities` say which functions they are offered for.
        catalog: What the app's catalogue says of its tools.
        tool_timeout: Seconds until a tool is given up whose entry sets no timeout.

    Raises:
        CatalogError: No specialist answers, or a tool does not take a single text.
    """

    def __init__(
        self, given: SelectTools, specialists: Sequence[SpecialistTool], catalog: Catalog, tool_timeout: float
    ) -> None:
        self._specialists = specialists
        self._app = {
            function: tool if isinstance(tool, BaseTool) else make_tool(tool) for function, tool in given.given.items()
        }
        for tool in self._app.values():
            argument_of(tool)
        self._functions = SelectFunctions(
            {function: tool_entry(tool, catalog) for function, tool in self._app.items()},
            {tool.name: tool.caller for tool in specialists},
            given.tokens,
            tool_timeout,
        )
        self.tools = [
            SelectTool(
                name=function,
                description=FUNCTIONS[function].description,
                functions=self._functions,
                callers=callers,
                tool=self._app.get(function),
            )
            for function, callers in self._functions.callers.items()
        ]

    @property
    def destructive(self) -> Mapping[str, bool]:
        """Whether a person must confirm a call of a function."""
        return self._functions.destructive

    def entries(self, own: Iterable[BaseTool]) -> list[BaseTool]:
        """Return the app's tools behind the functions, then the specialists.

        Raises:
            CatalogError: The agent has tools of its own, which the policy could not call.
        """
        other = next((tool.name for tool in own if not isinstance(tool, SelectTool)), None)
        if other is not None:
            refuse_tool(other)
        app = {tool.name: tool for tool in self._app.values()}
        return [*app.values(), *self._specialists]

    def run(self, catalog: Catalog, options: RunOptions, **fields: Any) -> Run:
        """Return a run."""
        return self._functions.run(catalog, options, **fields)

    def check(self, request: ModelRequest[Any]) -> None:
        """See that the agent has no system prompt and no response format."""
        if request.system_prompt:
            refuse_option("system_prompt")
        if request.response_format is not None:
            refuse_option("response_format")

    def request(
        self, run: Run, request: ModelRequest[Any], messages: list[AnyMessage], turn: Turn
    ) -> ModelRequest[Any]:
        """Return the prompt of a step and the functions that are offered in it."""
        assert isinstance(run, SelectRun)
        system, user = self._functions.policy_messages(run, standing_of(messages))
        calls = [
            [(call["id"] or "", call["name"]) for call in message.tool_calls]
            for message in run_messages(messages)
            if isinstance(message, AIMessage)
        ]
        return changed(
            request,
            messages=[HumanMessage(user["content"])],
            system_message=SystemMessage(system["content"]),
            tools=list(run.functions(calls, last=turn.last)),
        )

    def problem(self, reply: AIMessage) -> str | None:
        """Say why a reply is no step: each step is a call."""
        return step_problem(reply.text, calls=len(reply.tool_calls), broken_calls=len(reply.invalid_tool_calls))

    def answers(self, reply: AIMessage) -> bool:
        """Whether the reply calls `answer`."""
        return any(call["name"] == ANSWER for call in reply.tool_calls)

    def fallback_conversation(self, run: Run, messages: list[AnyMessage]) -> list[Message]:
        """Return what a specialist is asked for the answer."""
        return self._functions.specialist_messages(ANSWER, standing_of(messages))

    def fallback_answer(self, text: str) -> str:
        """Return the answer block of the reply."""
        return answer_in(text)

    def call(
        self, run: Run, request: ToolCallRequest, entry: AnyEntry, tools: Mapping[str, BaseTool], timeout: float
    ) -> ToolCallRequest:
        """Return the call of the function with the chosen specialist under its catalogue name."""
        tool = tools[request.tool_call["name"]]
        assert isinstance(tool, SelectTool)
        caller = tool.callers[entry.name].limited_to(run.view.aliases)
        bound = tool.model_copy(update={"seconds": timeout, "callers": {entry.name: caller}})
        return changed(request, tool_call={**request.tool_call, "args": {"model": entry.name}}, tool=bound)

    def upper_bound(self, run: Run, request: ToolCallRequest, entry: AnyEntry) -> float:
        """Return the bound of the chosen specialist for its prompt, and the price of the app's tool."""
        assert isinstance(run, SelectRun)
        standing = standing_of(request.state["messages"])
        return self._functions.upper_bound(run, request.tool_call["name"], entry, standing)
