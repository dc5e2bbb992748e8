"""The `select` rendering in LangGraph: NVIDIA's Orchestrator-8B as the policy of an agent.

The conversation in the agent's state grows as in any agent, but the policy never sees it: each step's prompt is made
anew from what the run's tool messages brought.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain.agents.middleware.types import ModelRequest
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.tools import BaseTool
from langchain_core.tools import tool as make_tool
from langgraph.prebuilt.tool_node import ToolCallRequest

from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import AnyEntry, Tool
from toolorch_integrations.errors import CatalogError
from toolorch_integrations.langgraph.messages import conversation_of, run_messages
from toolorch_integrations.langgraph.rendering import Rendering, tool_entry
from toolorch_integrations.langgraph.select import SelectTool, SelectTools, argument_of, asked, context_of
from toolorch_integrations.langgraph.specialists import SpecialistTool
from toolorch_integrations.prompt import Message, request_of
from toolorch_integrations.reply import problem_of
from toolorch_integrations.run import Run, RunOptions, Turn
from toolorch_integrations.select import ANSWER, FUNCTIONS, REASON, SEARCH, answer_in, specialist_prompt, step_messages
from toolorch_integrations.select_run import SelectRun, needs_confirmation


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
        self._tokens = given.tokens
        self._specialists = specialists
        self._app: dict[str, BaseTool] = {}
        entries: dict[str, Tool] = {}
        for function, tool in ((REASON, given.interpreter), (SEARCH, given.search)):
            if tool is not None:
                self._app[function] = app = tool if isinstance(tool, BaseTool) else make_tool(tool)
                argument_of(app)
                entry = tool_entry(app, catalog)
                entries[function] = entry.model_copy(update={"timeout": entry.timeout or tool_timeout})
        callers = {
            function: {tool.name: tool.caller for tool in specialists if function in tool.specialist.capabilities}
            for function in FUNCTIONS
        }
        if not callers[ANSWER]:
            raise CatalogError(
                'rendering="select" needs a specialist with `answer` among its capabilities: add one, or start from '
                "toolorch_integrations.select_run.published_catalog()."
            )
        functions = [
            SelectTool(
                name=function,
                description=words.description,
                callers=callers[function],
                tool=self._app.get(function),
                entry=entries.get(function),
                tokens=given.tokens,
            )
            for function, words in FUNCTIONS.items()
            if callers[function] and (function == ANSWER or function in self._app)
        ]
        self.tools = functions
        self._destructive = {
            tool.name: needs_confirmation(tool.entry, (caller.specialist for caller in tool.callers.values()))
            for tool in functions
        }

    @property
    def destructive(self) -> Mapping[str, bool]:
        """Whether a person must confirm a call of a function."""
        return self._destructive

    def entries(self, own: Iterable[BaseTool]) -> list[BaseTool]:
        """Return the app's tools behind the functions, then the specialists.

        Raises:
            CatalogError: The agent has tools of its own, which the policy could not call.
        """
        other = [tool.name for tool in own if not isinstance(tool, SelectTool)]
        if other:
            raise CatalogError(
                f'The tool {other[0]!r} cannot be called with rendering="select": give it as '
                "`select=SelectTools(search=..., interpreter=...)`, or use the chat rendering."
            )
        app = {tool.name: tool for tool in self._app.values()}
        return [*app.values(), *self._specialists]

    def run(self, catalog: Catalog, options: RunOptions, **fields: Any) -> Run:
        """Return a run."""
        names = {function: tool.name for function, tool in self._app.items()}
        return SelectRun(catalog, options, tools=names, **fields)

    def check(self, request: ModelRequest[Any]) -> None:
        """See that the agent has no system prompt and no response format."""
        if request.system_prompt or request.response_format is not None:
            what = "system_prompt" if request.system_prompt else "response_format"
            raise CatalogError(
                f'`{what}` does not go with rendering="select": the prompt of the policy is fixed, and a specialist '
                "answers. Give the specialists a `system_prompt`."
            )

    def request(
        self, run: Run, request: ModelRequest[Any], messages: list[AnyMessage], turn: Turn
    ) -> ModelRequest[Any]:
        """Return the prompt of a step and the functions that are offered in it."""
        assert isinstance(run, SelectRun)
        problem = run.problem(request_of(conversation_of(messages)))
        system, user = step_messages(problem, context_of(messages).text(problem, self._tokens))
        calls = [
            [(call["id"] or "", call["name"]) for call in message.tool_calls]
            for message in run_messages(messages)
            if isinstance(message, AIMessage)
        ]
        return request.override(
            messages=[HumanMessage(user["content"])],
            system_message=SystemMessage(system["content"]),
            tools=list(run.functions(calls, last=turn.last)),
        )

    def problem(self, reply: AIMessage) -> str | None:
        """Say why a reply is no step: each step is a call."""
        if reply.tool_calls:
            return None
        broken = len(reply.invalid_tool_calls)
        return problem_of(reply.text, calls=0, broken_calls=broken) or "the reply chose no tool"

    def answers(self, reply: AIMessage) -> bool:
        """Whether the reply calls `answer`."""
        return any(call["name"] == ANSWER for call in reply.tool_calls)

    def fallback_conversation(self, run: Run, messages: list[AnyMessage]) -> list[Message]:
        """Return what a specialist is asked for the answer."""
        return self._conversation(ANSWER, messages)

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
        return request.override(tool_call={**request.tool_call, "args": {"model": entry.name}}, tool=bound)

    def upper_bound(self, run: Run, request: ToolCallRequest, entry: AnyEntry) -> float:
        """Return the bound of the chosen specialist for its prompt, and the price of the app's tool."""
        assert isinstance(run, SelectRun)
        function = request.tool_call["name"]
        tool = run.tools.get(function)
        bound = run.upper_bound(entry, self._conversation(function, request.state["messages"]))
        return bound + (tool.price.call if tool is not None else 0.0)

    def _conversation(self, function: str, messages: Sequence[BaseMessage]) -> list[Message]:
        problem = request_of(conversation_of(messages))
        context = context_of(messages).text(problem, self._tokens)
        return asked(messages, specialist_prompt(function, problem, context))
