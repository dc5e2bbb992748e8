"""A call that the policy asked for: what `OrchestratorMiddleware` does around each tool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain.agents.middleware.human_in_the_loop import ActionRequest, HITLRequest, ReviewConfig
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langgraph.errors import GraphBubbleUp
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command, interrupt
from pydantic import BaseModel, ValidationError

from toolorch_integrations import observation
from toolorch_integrations.call_step import CallStep, Execute, Result, specialist_calls
from toolorch_integrations.entry import AnyEntry
from toolorch_integrations.langgraph.confirmation import EDITED
from toolorch_integrations.langgraph.rendering import Rendering
from toolorch_integrations.ledger import Call, CallStatus
from toolorch_integrations.policy_step import Reporter
from toolorch_integrations.run import Run
from toolorch_integrations.schema import validation_problem

__all__ = ["Execute", "ToolStep"]

_BAD_ARGUMENTS = "Error invoking tool"
"""How LangGraph's ToolNode begins the message that it writes for arguments that do not fit."""
_REASON = " with error:\n "
_ADVICE = "\n Please fix the error and try again."
"""What stands before and after the reason in it."""


_DECISION = '{"decisions": [{"type": "approve"}]}, or "reject" with a "message"'


class ToolStep(CallStep[Any, "Command[Any] | list[Any]"]):
    """One tool or specialist call.

    Args:
        run: The request that it belongs to.
        request: What the policy asked for.
        tools: The agent's tools, by name.
        rendering: What the policy's call stands for.
        reporter: Where capture is told; None when nobody captures.
        confirm: Ask a person before destructive calls.
    """

    pauses = (GraphBubbleUp,)

    def __init__(
        self,
        run: Run,
        request: ToolCallRequest,
        tools: Mapping[str, BaseTool],
        rendering: Rendering,
        reporter: Reporter | None,
        *,
        confirm: bool = True,
    ) -> None:
        call_id: str = request.tool_call["id"] or ""
        edited = (request.state.get(EDITED) or {}).get(call_id)
        if edited:
            name = run.shown_name(edited["name"])
            request = request.override(tool_call={**request.tool_call, "name": name, "args": edited["args"]})
        call = request.tool_call
        super().__init__(run, call_id, call["name"], call["args"], request.runtime.stream_writer, reporter)
        self.tool_request = request
        self.tools = tools
        self.rendering = rendering
        self.confirm = confirm
        self.edited = bool(edited)

    def refusal(self) -> str | None:
        """Ask a person about a destructive call that nobody has been asked about."""
        if not self.edited and not self.run.needs_confirmation(self.name):
            return None
        self.confirmed = self.call_id in self.tool_request.state["run"]["confirmed"]
        return None if self.confirmed or not self.confirm else self._ask_person()

    def upper_bound(self, entry: AnyEntry) -> float:
        """Return the most that a call of an entry can cost, in dollars."""
        return self.rendering.upper_bound(self.run, self.tool_request, entry)

    def request(self, entry: AnyEntry, timeout: float) -> ToolCallRequest:
        """Return an admitted call as the agent is to make it."""
        return self.rendering.call(self.run, self.tool_request, entry, self.tools, timeout)

    def read(self, entry: AnyEntry, raw: Any) -> Result:
        """Return what came of the call."""
        message = _tool_message(self._own(raw), self.call_id)
        if message is None:
            return Result(None)
        if message.status == "error" and message.text.startswith(_BAD_ARGUMENTS):
            words = _own_words(message.text) or _validators_words(self.tools.get(entry.name), self.arguments)
            return Result(words, CallStatus.MALFORMED)
        status = CallStatus.ERROR if message.status == "error" else CallStatus.OK
        return Result(message.text, status, specialist_calls(message.artifact))

    def finish(self, result: Result, raw: Any, calls: Sequence[Call]) -> Command[Any] | list[Any]:
        """Return the observation and the ledger's new calls as state updates."""
        if raw is None:
            message = ToolMessage(result.text or "", tool_call_id=self.call_id, name=self.name, status="error")
            return _command({"messages": [message]}, calls)
        own = self._own(raw)
        updated = self._updated(own, result, calls)
        return [updated if item is own else item for item in raw] if isinstance(raw, list) else updated

    def _updated(self, raw: Any, result: Result, calls: Sequence[Call]) -> Command[Any]:
        message = _tool_message(raw, self.call_id)
        if message is None:  # a tool's own command, which has no message for this call
            return _command(dict(raw.update or ()), calls, raw)
        update = {"content": _cut(message.content), "status": message.status if result.ok else "error"}
        message = message.model_copy(update=update)
        if not isinstance(raw, Command) or not isinstance(raw.update, dict):
            return _command({"messages": [message]}, calls)
        others = [m for m in raw.update.get("messages", []) if getattr(m, "tool_call_id", None) != self.call_id]
        return _command({**raw.update, "messages": [message, *others]}, calls, raw)

    def _own(self, raw: Any) -> Any:
        """Return what answers the call, of several messages and commands exactly one."""
        if isinstance(raw, list):
            return next(item for item in raw if _tool_message(item, self.call_id) is not None)
        return raw

    def _ask_person(self) -> str | None:
        """Ask whether a destructive call may be made; return the reason of a refusal, or None for a yes.

        `ConfirmationMiddleware` asks before anything of the turn runs. This question is for agents that lack it, and
        for an entry that only this request's alias hides from it. An answer that is no decision has it asked again.
        """
        description = f"Confirm {self.name}"
        while True:
            asked = HITLRequest(
                action_requests=[ActionRequest(name=self.name, args=self.arguments, description=description)],
                review_configs=[ReviewConfig(action_name=self.name, allowed_decisions=["approve", "reject"])],
            )
            try:
                answer = interrupt(asked)
            except GraphBubbleUp:
                self.run.account.wait(self.call_id)
                raise
            match answer:
                case {"decisions": [{"type": "approve"}]}:
                    self.confirmed = True
                    return None
                case {"decisions": [{"type": "reject", **rest}]}:
                    return str(rest.get("message") or "")
            description = f"Confirm {self.name}. {str(answer)[:200]!r} is no decision: resume with {_DECISION}"


def _command(update: dict[str, Any], calls: Sequence[Call], own: Command[Any] | None = None) -> Command[Any]:
    """Return a state update with the ledger's new calls, going where a tool's own command goes."""
    update["ledger"] = [call.to_dict() for call in calls]
    return Command(update=update, goto=own.goto if own else (), graph=own.graph if own else None)


def _cut(content: str | list[Any]) -> str | list[Any]:
    if isinstance(content, str):
        return observation.cut(content)
    return [
        {**block, "text": observation.cut(block["text"])}
        if isinstance(block, dict) and isinstance(block.get("text"), str)
        else block
        for block in content
    ]


def _own_words(text: str) -> str:
    """Return the reason in ToolNode's message; before it stand the arguments, in which a line break is escaped."""
    return text.partition(_REASON)[2].removesuffix(_ADVICE).strip()


def _validators_words(tool: BaseTool | None, arguments: Any) -> str:
    """Return what validators of a whole model say: ToolNode leaves out whatever names no argument."""
    schema = tool.args_schema if tool is not None else None
    if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
        return ""
    try:
        schema.model_validate(arguments)
    except ValidationError as error:
        return validation_problem(found for found in error.errors() if not found["loc"])
    return ""


def _tool_message(result: ToolMessage | Command[Any], call_id: str) -> ToolMessage | None:
    if isinstance(result, ToolMessage):
        return result
    update = result.update if isinstance(result, Command) and isinstance(result.update, dict) else {}
    for message in update.get("messages", ()):
        if isinstance(message, ToolMessage) and message.tool_call_id == call_id:
            return message
    return None
