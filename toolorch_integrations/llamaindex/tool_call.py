"""A call that the policy asked for: what stands in the place of each tool in an orchestrator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import AsyncBaseTool, ToolOutput
from llama_index.core.workflow import Context
from workflows.runtime.types.results import WaitingForEvent

from toolorch_integrations import observation
from toolorch_integrations.call_step import CallStep, Result, specialist_calls
from toolorch_integrations.entry import AnyEntry, Specialist
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.llamaindex.messages import conversation_of
from toolorch_integrations.llamaindex.specialists import SpecialistTool
from toolorch_integrations.llamaindex.tools import BadArgumentsError, call_tool, text_output, valid_arguments
from toolorch_integrations.policy_step import Reporter
from toolorch_integrations.run import Run

RECORD = "toolorch"
"""Key of an output's `raw_input` under which a call's record travels to the end of the turn."""


@dataclass(frozen=True, slots=True)
class Edit:
    """What a person has put in a call's place.

    Attributes:
        name: The catalogue name.
        arguments: The arguments.
    """

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class WantedCall:
    """A call as the policy wrote it, and what a person said to it.

    Attributes:
        call_id: Its `tool_call_id`.
        name: The name that the policy wrote.
        arguments: The arguments that it wrote.
        confirmed: Whether a person has said yes to the call.
        edit: What a person has put in their place, if anything.
    """

    call_id: str
    name: str
    arguments: Any
    confirmed: bool
    edit: Edit | None = None


@dataclass(frozen=True, slots=True)
class CallSite:
    """Where a call is made.

    Attributes:
        run: The request that it belongs to.
        tools: The tools that exist, by catalogue name.
        messages: The conversation with the steps of this run.
        context: The workflow's, for tools that want it.
        write: Takes progress events.
        reporter: Where capture is told; None when nobody captures.
    """

    run: Run
    tools: Mapping[str, AsyncBaseTool]
    messages: Sequence[ChatMessage]
    context: Context
    write: Callable[[dict[str, Any]], None]
    reporter: Reporter | None


class ToolCallStep(CallStep[ToolOutput, ToolOutput]):
    """One tool or specialist call.

    Args:
        wanted: What the policy or a person wrote.
        site: Where the call is made.
    """

    pauses = (WaitingForEvent,)

    def __init__(self, wanted: WantedCall, site: CallSite) -> None:
        name, arguments, edit = wanted.name, wanted.arguments, wanted.edit
        if edit is not None:
            name, arguments = site.run.shown_name(edit.name), edit.arguments
        super().__init__(site.run, wanted.call_id, name, arguments, site.write, site.reporter)
        self.confirmed = wanted.confirmed
        self.edit = edit
        self.tools = site.tools
        self.messages = site.messages
        self.context = site.context

    def upper_bound(self, entry: AnyEntry) -> float:
        """Return the most that a call of an entry can cost, in dollars."""
        return self.run.upper_bound(entry, conversation_of(self.messages) if isinstance(entry, Specialist) else [])

    def request(self, entry: AnyEntry, timeout: float) -> Any:
        """Return the tool behind the alias that the policy wrote."""
        return self.tools[entry.name]

    async def perform(self, request: Any) -> ToolOutput:
        """Call a tool with the arguments that the policy or a person wrote."""
        tool: AsyncBaseTool = request
        try:
            arguments = valid_arguments(tool, self.arguments)
        except BadArgumentsError as error:
            return self._output(Result(str(error), CallStatus.MALFORMED), ())
        if isinstance(tool, SpecialistTool):
            return await tool.ask(conversation_of(self.messages), self.run.view.aliases, arguments)
        return await call_tool(tool, arguments, self.context)

    def read(self, entry: AnyEntry, raw: ToolOutput) -> Result:
        """Return what came of the call."""
        record = raw.raw_input.get(RECORD)
        if isinstance(record, Mapping):
            return Result(raw.content, CallStatus(record["status"]))
        text = self.observed(raw)
        if isinstance(self.tools[entry.name], SpecialistTool):
            return Result(text, calls=specialist_calls(raw.raw_output))
        return Result(text, CallStatus.ERROR if raw.is_error else CallStatus.OK)

    def observed(self, raw: ToolOutput) -> str:
        """Return the text of an output, which says so where a person has changed the call."""
        edit = self.edit
        return raw.content if edit is None else observation.edited(edit.name, edit.arguments, raw.content)

    def finish(self, result: Result, raw: ToolOutput | None, calls: Sequence[Call]) -> ToolOutput:
        """Return the observation as the tool's output, with the calls for the end of the turn."""
        return self._output(result, calls, raw)

    def _output(self, result: Result, calls: Sequence[Call], raw: ToolOutput | None = None) -> ToolOutput:
        error = not result.ok or (raw is not None and raw.is_error)
        output = text_output(result.text or "", self.name, self.arguments, error=error)
        if raw is not None:
            output.raw_output = raw.raw_output
            if result.text == raw.content:
                output.blocks = raw.blocks  # pictures and files among them
        handed_over = raw is not None and bool(calls) and calls[-1].kind is CallKind.SPECIALIST
        final = handed_over and isinstance(output.raw_output, Mapping) and output.raw_output.get("final") is True
        output.raw_input[RECORD] = {
            "status": result.status.value,
            "error": error,
            "calls": [call.to_dict() for call in calls],
            "final": final and result.ok,
        }
        return output
