"""The functions of the `select` rendering as LangChain tools, and what a run's messages say of its context.

What a call brought stands in its tool message's artifact, so that a run goes on in any process that has its checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.tools import BaseTool, InjectedToolCallId, ToolException
from langgraph.errors import GraphBubbleUp
from langgraph.prebuilt import InjectedState
from pydantic import BaseModel

from toolorch_integrations.langchain_tools import off_the_loop
from toolorch_integrations.langgraph.messages import conversation_of, run_messages
from toolorch_integrations.select_functions import SelectFunctions, SelectTools, Standing, text_argument
from toolorch_integrations.select_run import AskChosen, SelectResult
from toolorch_integrations.specialist import SpecialistCaller
from toolorch_integrations.steps import adrive, awithin, drive, within

__all__ = ["SelectTool", "SelectTools", "argument_of", "standing_of"]


class _Arguments(BaseModel):
    model: str
    tool_call_id: Annotated[str, InjectedToolCallId]
    messages: Annotated[list[Any] | None, InjectedState("messages")] = None


class SelectTool(BaseTool):
    """One function of the policy: a specialist works, and for all but `answer` a tool of the app carries it out."""

    args_schema: Any = _Arguments
    functions: SelectFunctions
    callers: Mapping[str, SpecialistCaller]
    """The specialists by catalogue name."""
    tool: BaseTool | None
    seconds: float = 600.0
    """Time for a call."""

    def _run(self, model: str, tool_call_id: str, messages: Sequence[BaseMessage] | None = None) -> ToolMessage:
        standing = standing_of(messages or ())

        def perform(wanted: Any) -> Any:
            if isinstance(wanted, AskChosen):
                return self.callers[model].call(standing.asking(wanted.prompt))
            assert self.tool is not None
            tool, call = self.tool, self._call(self.tool, wanted.text, tool_call_id)
            try:
                return _result_of(within(wanted.timeout, lambda: tool.invoke(call)))
            except GraphBubbleUp:
                raise
            except Exception as error:
                return error

        return self._message(drive(self.functions.call(self.name, standing, self.seconds), perform), tool_call_id)

    async def _arun(self, model: str, tool_call_id: str, messages: Sequence[BaseMessage] | None = None) -> ToolMessage:
        standing = standing_of(messages or ())

        async def perform(wanted: Any) -> Any:
            if isinstance(wanted, AskChosen):
                return await self.callers[model].acall(standing.asking(wanted.prompt))
            assert self.tool is not None
            call = self._call(self.tool, wanted.text, tool_call_id)
            try:
                return _result_of(await awithin(wanted.timeout, off_the_loop(self.tool).ainvoke(call)))
            except GraphBubbleUp:
                raise
            except Exception as error:
                return error

        steps = self.functions.call(self.name, standing, self.seconds)
        return self._message(await adrive(steps, perform), tool_call_id)

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


def standing_of(messages: Sequence[BaseMessage]) -> Standing:
    """Return where a run stands, from the agent's messages and the artifacts of the tool messages among them."""
    artifacts = (message.artifact for message in run_messages(messages) if isinstance(message, ToolMessage))
    contributions = (artifact.get("context") or {} for artifact in artifacts if isinstance(artifact, Mapping))
    return Standing.of(conversation_of(messages), contributions)


def argument_of(tool: BaseTool) -> str:
    """Return the name of a tool's text argument.

    Raises:
        CatalogError: It does not take a single text.
    """
    schema: Any = tool.tool_call_schema
    return text_argument(tool.name, schema if isinstance(schema, dict) else schema.model_json_schema())


def _result_of(returned: Any) -> Any:
    """Return what the app's tool gave: documents of its artifact, or its content."""
    if not isinstance(returned, ToolMessage):
        return returned
    if returned.status == "error":
        raise ToolException(returned.text)
    if isinstance(returned.artifact, list) and returned.artifact and hasattr(returned.artifact[0], "page_content"):
        return returned.artifact
    return returned.content
