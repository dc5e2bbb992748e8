"""A person's yes before a destructive call: nothing of the turn runs, and nothing is spent, until it is given.

The decisions are those of LangChain's human-in-the-loop middleware, which the LangGraph face uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock

from toolorch_integrations import observation
from toolorch_integrations.errors import UnknownEntryError
from toolorch_integrations.llamaindex.events import ConfirmationRequired
from toolorch_integrations.llamaindex.messages import tool_message
from toolorch_integrations.llamaindex.tool_call import Edit
from toolorch_integrations.run import Run

YES = ("yes", "y", "ok", "approve", "approved", "true")
NO = ("no", "n", "reject", "rejected", "false", "")


@dataclass(slots=True)
class Decided:
    """What a person decided about a turn.

    Attributes:
        observations: What the policy sees in the place of calls that are not made.
        refused: The calls that a person said no to.
        answered: Ids of all calls that are not made.
        edits: What is called in a call's place, by call id.
    """

    observations: list[ChatMessage] = field(default_factory=list)
    refused: list[ToolCallBlock] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)
    edits: dict[str, Edit] = field(default_factory=dict)


def destructive_calls(run: Run, calls: Sequence[ToolCallBlock]) -> list[ToolCallBlock]:
    """Return the calls of a turn that a person must confirm."""
    return [call for call in calls if run.needs_confirmation(call.tool_name)]


def question(agent: str, calls: Sequence[ToolCallBlock], problem: str = "") -> ConfirmationRequired:
    """Return the event that asks about calls."""
    listed = "\n".join(f"{call.tool_name} {call.tool_kwargs}" for call in calls)
    return ConfirmationRequired(
        prefix=f"{problem + ' ' if problem else ''}Confirm before anything is done:\n{listed}",
        agent=agent,
        action_requests=[
            {
                "name": call.tool_name,
                "args": call.tool_kwargs,
                "description": f"Confirm {call.tool_name}",
                "call_id": call.tool_call_id or "",
            }
            for call in calls
        ],
        problem=problem,
    )


def decide(run: Run, calls: Sequence[ToolCallBlock], answer: Any) -> Decided | str:
    """Read a person's answer about calls; return what is wrong with it where it cannot be used.

    Args:
        run: The request.
        calls: What was asked about.
        answer: The `HumanResponseEvent`.
    """
    decisions = _decisions(answer, len(calls))
    if isinstance(decisions, str):
        return decisions
    decided = Decided()
    for call, decision in zip(calls, decisions, strict=True):
        problem = _take(run, call, decision, decided)
        if problem:
            return problem
    return decided


def _decisions(answer: Any, count: int) -> list[Mapping[str, Any]] | str:
    given = answer.get("decisions", None)
    if not given:
        response = answer.get("response", None)
        text = str(response if response is not None else "").strip()
        if response is None:
            return f"The answer holds neither `decisions` nor `response`: give {count} decisions."
        if text.lower() in YES:
            return [{"type": "approve"}] * count
        return [{"type": "reject", "message": "" if text.lower() in NO else text}] * count
    if not isinstance(given, Sequence) or not all(isinstance(item, Mapping) for item in given):
        return "`decisions` is not a list of dictionaries."
    if len(given) != count:
        return f"The answer holds {len(given)} decisions, and {count} are asked for."
    return list(given)


def _take(run: Run, call: ToolCallBlock, decision: Mapping[str, Any], decided: Decided) -> str:
    """Take a decision about a call; return what is wrong with it."""
    kind, message = decision.get("type"), str(decision.get("message") or "")
    call_id, name = call.tool_call_id or "", call.tool_name
    if kind == "approve":
        return ""
    if kind == "edit":
        return _edit(run, call_id, decision.get("edited_action"), decided)
    if kind == "reject":
        text = observation.refused(name, message)
        decided.refused.append(call)
        decided.observations.append(tool_message(text, call_id, name, error=True))
    elif kind == "respond":
        decided.observations.append(tool_message(message, call_id, name))
    else:
        return f"A decision is of type {kind!r}: use approve, edit, reject or respond."
    decided.answered.add(call_id)
    return ""


def _edit(run: Run, call_id: str, action: Any, decided: Decided) -> str:
    if not isinstance(action, Mapping) or not isinstance(action.get("args"), Mapping):
        return "`edited_action` of a decision is not a dictionary with `name` and `args`."
    name = str(action.get("name"))
    try:
        decided.edits[call_id] = Edit(run.entry_name(name), dict(action["args"]))
    except UnknownEntryError as error:
        return f"`edited_action` names another tool than there is. {error}"
    return ""
