"""What an orchestrator adds to the event stream of a workflow."""

from __future__ import annotations

from typing import Any

from llama_index.core.workflow import Event, InputRequiredEvent
from pydantic import Field


class OrchestratorProgress(Event):
    """Progress of a run for people who watch it: policy calls, calls with cost and latency, the end of the budget.

    Attributes:
        type: "turn", "call_started", "call_ended", "budget_ended" or "fallback".
        agent: Name of the agent.
        progress: The event as `toolorch_integrations.progress` describes it, the same as in the LangGraph face.
    """

    type: str
    agent: str
    progress: dict[str, Any]


class ConfirmationRequired(InputRequiredEvent):
    """A person is asked about the destructive calls of a turn; nothing of the turn has run, and nothing is spent.

    The answer is a `HumanResponseEvent` with `decisions`, one for each request in order: `{"type": "approve"}`,
    `{"type": "reject", "message": "..."}`, `{"type": "edit", "edited_action": {"name": ..., "args": {...}}}` or
    `{"type": "respond", "message": "..."}`. In their place `response` may hold one word for all: "yes" approves, all
    else refuses with that text as the reason.

    Attributes:
        prefix: The question as one text, for apps that only show that.
        agent: Name of the agent.
        action_requests: `name`, `args`, `description` and `call_id` of each call.
        allowed_decisions: What may be decided about each.
        problem: What was wrong with the last answer; empty when it is asked for the first time.
    """

    prefix: str
    agent: str
    action_requests: list[dict[str, Any]]
    allowed_decisions: list[str] = Field(default_factory=lambda: ["approve", "edit", "reject", "respond"])
    problem: str = ""
