"""A person's yes before a destructive call: nothing of the turn runs, and nothing is spent, until it is given."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.runtime import Runtime

from toolorch_integrations import observation
from toolorch_integrations.langgraph.capture import reporter_of
from toolorch_integrations.langgraph.state import OrchestratorState
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.run_options import RunOptions
from toolorch_integrations.run_state import RunState
from toolorch_integrations.safety import is_destructive

EDITED = "hitl_edited_tool_calls"
"""State key under which LangChain's middleware keeps what a person has put in a call's place."""


class ConfirmationMiddleware(HumanInTheLoopMiddleware):
    """LangChain's human-in-the-loop middleware, for the calls that the catalogue's rules name.

    The graph stops with an interrupt that lists the destructive calls of the turn, and goes on with
    `Command(resume={"decisions": [{"type": "approve"}]})`, one decision for each in order. `reject` and `respond`
    need no call at all; `edit` runs the call with other arguments.

    Args:
        declared: What the catalogue says of entries by name; a name that is not here is judged by its words.
            `OrchestratorMiddleware.confirmation` fills it in from its own catalogue.
    """

    def __init__(self, declared: dict[str, bool | None] | None = None) -> None:
        super().__init__({}, edit_notice=observation.EDITED)
        self._declared = declared or {}
        self.interrupt_on = _EveryTool(
            {"allowed_decisions": ["approve", "edit", "reject", "respond"], "when": self._is_destructive}
        )

    def after_model(self, state: OrchestratorState, runtime: Runtime[Any]) -> dict[str, Any] | None:  # type: ignore[override]
        """Ask about the destructive calls of the newest turn, if it has any."""
        update = super().after_model(state, runtime)
        if not update or "messages" not in update:
            return update
        reply: AIMessage = update["messages"][0]
        answered = {m.tool_call_id: m for m in update["messages"] if isinstance(m, ToolMessage)}
        refused = [m for m in answered.values() if m.status == "error"]
        stored: RunState = state["run"]
        turn = max((call["turn"] for call in state.get("ledger") or () if call["run_id"] == stored["id"]), default=0)
        now = time.time()
        calls = [
            Call(
                CallKind.TOOL,
                self._name_of(state, m.name or ""),
                CallStatus.REFUSED,
                call_id=m.tool_call_id,
                turn=turn,
                run_id=stored["id"],
            )
            for m in refused
        ]
        texts = {m.tool_call_id: _refusal(m) for m in refused}
        reporter = reporter_of()
        if reporter is not None:
            arguments = {call["id"]: call["args"] for call in reply.tool_calls}
            for call in calls:
                reporter.call_ended(call, arguments[call.call_id], texts[call.call_id].text, now)
        return {
            **update,
            EDITED: {
                call_id: {**action, "name": self._name_of(state, action["name"])}
                for call_id, action in (update.get(EDITED) or {}).items()
            },
            "messages": [reply, *(texts.get(m.tool_call_id, m) for m in answered.values())],
            "ledger": [call.to_dict() for call in calls],
            "run": {
                **stored,
                "confirmed": [
                    *stored["confirmed"],
                    *(call["id"] for call in reply.tool_calls if call["id"] not in answered),
                ],
            },
        }

    async def aafter_model(self, state: OrchestratorState, runtime: Runtime[Any]) -> dict[str, Any] | None:  # type: ignore[override]
        """Do as `after_model`."""
        return self.after_model(state, runtime)

    def concerns(self, name: str) -> bool:
        """Whether a call of what the catalogue knows as `name` waits for a yes."""
        return is_destructive(name, self._declared.get(name))

    def _is_destructive(self, request: ToolCallRequest) -> bool:
        return self.concerns(self._name_of(request.state, request.tool_call["name"]))

    @staticmethod
    def _name_of(state: Mapping[str, Any], shown: str) -> str:
        """Return the catalogue name of what this request shows under another."""
        options = RunOptions.model_validate(state["run"]["options"])
        return next((name for name, alias in options.catalog.aliases.items() if alias == shown), shown)


class _EveryTool(dict[str, Any]):
    """A mapping that has the same configuration for every tool name; `when` decides which calls ask."""

    def __init__(self, configuration: dict[str, Any]) -> None:
        super().__init__()
        self._configuration = configuration

    def get(self, name: str, default: Any = None) -> Any:
        return self._configuration

    def __getitem__(self, name: str) -> Any:
        return self._configuration


def _refusal(message: ToolMessage) -> ToolMessage:
    name = message.name or ""
    own = message.text.partition(" with reason: ")[2]
    return message.model_copy(update={"content": observation.refused(name, own)})
