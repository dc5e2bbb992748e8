"""The functions of the `select` rendering as LangChain tools, and what a run's messages say of its context.

What a call brought stands in its tool message's artifact, so that a run goes on in any process that has its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.tools import BaseTool, InjectedToolCallId, ToolException
from langgraph.errors import GraphBubbleUp
from langgraph.prebuilt import InjectedState
from pydantic import BaseModel

from toolorch_integrations.entry import Tool
from toolorch_integrations.errors import CatalogError
from toolorch_integrations.langgraph.messages import conversation_of, run_messages
from toolorch_integrations.prompt import Message, request_of
from toolorch_integrations.select import Context, Tokens
from toolorch_integrations.select_run import AskChosen, SelectResult, call_steps
from toolorch_integrations.specialist import SpecialistCaller
from toolorch_integrations.steps import Steps, adrive, awithin, drive, within


@dataclass(frozen=True)
class SelectTools:
    """The app's own means behind the functions of the `select` rendering.

    Attributes:
        search: Takes a query, returns documents; without it `search` is not offered.
        interpreter: Takes Python code, returns what it printed; without it `enhance_reasoning` is not offered. Run the
            code in a sandbox: a model has written it.
        tokens: The policy's tokenizer, by which the context is cut.

    Each tool has one text argument; further ones need defaults. A tool that asks a person while it runs makes its
    specialist write again, and be paid again, when the run goes on: declare it `destructive` in the catalogue in place
    of that, and the question comes before anything is spent.

    Example:
        >>> agent = create_orchestrator(policy, rendering="select", catalog=published_catalog(),
        ...     select=SelectTools(search=search, interpreter=python))  # doctest: +SKIP
    """

    search: BaseTool | Callable[..., Any] | None = None
    interpreter: BaseTool | Callable[..., Any] | None = None
    tokens: Tokens = field(default_factory=Tokens)


class _Arguments(BaseModel):
    model: str
    tool_call_id: Annotated[str, InjectedToolCallId]
    messages: Annotated[list[Any] | None, InjectedState("messages")] = None


class SelectTool(BaseTool):
    """One function of the policy: a specialist works, and for all but `answer` a tool of the app carries it out."""

    args_schema: Any = _Arguments
    callers: dict[str, SpecialistCaller]
    """The specialists by catalogue name."""
    tool: BaseTool | None
    entry: Tool | None
    """The tool's entry; its `timeout` is set."""
    tokens: Tokens
    seconds: float = 600.0
    """Time for a call."""

    def _run(self, model: str, tool_call_id: str, messages: Sequence[BaseMessage] | None = None) -> ToolMessage:
        messages = messages or ()

        def perform(wanted: Any) -> Any:
            if isinstance(wanted, AskChosen):
                return self.callers[model].call(asked(messages, wanted.prompt))
            assert self.tool is not None
            tool, call = self.tool, self._call(self.tool, wanted.text, tool_call_id)
            try:
                return _result_of(within(wanted.timeout, lambda: tool.invoke(call)))
            except GraphBubbleUp:
                raise
            except Exception as error:
                return error

        return self._message(drive(self._steps(messages), perform), tool_call_id)

    async def _arun(self, model: str, tool_call_id: str, messages: Sequence[BaseMessage] | None = None) -> ToolMessage:
        messages = messages or ()

        async def perform(wanted: Any) -> Any:
            if isinstance(wanted, AskChosen):
                return await self.callers[model].acall(asked(messages, wanted.prompt))
            assert self.tool is not None
            call = self._call(self.tool, wanted.text, tool_call_id)
            try:
                return _result_of(await awithin(wanted.timeout, self.tool.ainvoke(call)))
            except GraphBubbleUp:
                raise
            except Exception as error:
                return error

        return self._message(await adrive(self._steps(messages), perform), tool_call_id)

    def _steps(self, messages: Sequence[BaseMessage]) -> Steps[SelectResult]:
        problem = request_of(conversation_of(messages))
        context = context_of(messages).text(problem, self.tokens)
        return call_steps(self.name, problem, context, self.entry, self.seconds)

    def _call(self, tool: BaseTool, text: str, call_id: str) -> dict[str, Any]:
        """Return a call of the app's tool; it has the policy's call id, so that capture counts both as one."""
        return {"type": "tool_call", "name": tool.name, "args": {argument_of(tool): text}, "id": call_id}

    def _message(self, result: SelectResult, call_id: str) -> ToolMessage:
        return ToolMessage(
            result.text,
            name=self.name,
            tool_call_id=call_id,
            artifact=result.artifact(),
            status="success" if result.contribution or result.final else "error",
        )


def context_of(messages: Sequence[BaseMessage]) -> Context:
    """Return what a run has found out, from the artifacts of its tool messages."""
    artifacts = (message.artifact for message in run_messages(messages) if isinstance(message, ToolMessage))
    return Context.of(artifact.get("context") or {} for artifact in artifacts if isinstance(artifact, Mapping))


def asked(messages: Sequence[BaseMessage], prompt: str) -> list[Message]:
    """Return a specialist's conversation: the exchange before the newest request, and the prompt in its place."""
    before = messages[: max(0, len(messages) - len(run_messages(messages)) - 1)]
    return [*conversation_of(before), {"role": "user", "content": prompt}]


def argument_of(tool: BaseTool) -> str:
    """Return the name of a tool's text argument."""
    schema: Any = tool.tool_call_schema
    parameters = schema if isinstance(schema, dict) else schema.model_json_schema()
    properties: dict[str, Any] = parameters.get("properties") or {}
    needed = parameters.get("required") or list(properties)
    if len(needed) != 1 or properties[needed[0]].get("type", "string") != "string":
        raise CatalogError(f'{tool.name!r} must take a single text for rendering="select"; it needs {needed}.')
    return str(needed[0])


def _result_of(returned: Any) -> Any:
    """Return what the app's tool gave: documents of its artifact, or its content."""
    if not isinstance(returned, ToolMessage):
        return returned
    if returned.status == "error":
        raise ToolException(returned.text)
    if isinstance(returned.artifact, list) and returned.artifact and hasattr(returned.artifact[0], "page_content"):
        return returned.artifact
    return returned.content
