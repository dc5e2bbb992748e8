"""A run as a list of calls in turns: the view that quality checks and metrics take of examples and traces alike."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolorch_integrations.errors import ToolorchError
from toolorch_integrations.ledger import CallKind, CallStatus
from toolorch_integrations.prompt import text_of
from toolorch_integrations.trace import Trace


class ConversationError(ToolorchError, ValueError):
    """An example is not in OpenAI's message format; the message names it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One tool or specialist call."""

    index: int
    """Place among all calls, from 0."""
    turn: int
    """Which of the policy's turns asked for it, from 0: calls of one turn run in parallel."""
    name: str
    arguments: Mapping[str, Any]
    result: Any = None
    """JSON value where the result is JSON, else its text; None where there is none."""
    status: CallStatus = CallStatus.OK
    call_id: str = ""
    confirmed: bool = False
    """Whether a person said yes to it before it was made."""

    @property
    def ok(self) -> bool:
        """Whether the call was made and brought a result."""
        return self.status is CallStatus.OK

    def text(self) -> str:
        """Return the call as a report names it."""
        return f"call {self.index + 1} ({self.name})"


@dataclass(frozen=True, slots=True)
class Conversation:
    """The calls of a run, what people said, and the answer."""

    name: str
    """Id of the trace, or name of the example."""
    steps: tuple[Step, ...]
    answer: str = ""
    said: tuple[tuple[int, str], ...] = ()
    """What the app and the user said, each with the first turn that could read it."""
    tools: frozenset[str] = frozenset()
    """Names of all tools that were offered, where they are known, and of those that were called."""
    faults: tuple[str, ...] = field(default=())
    """What is wrong with the form: arguments that are not JSON, calls without a result."""

    def turns(self) -> list[list[Step]]:
        """Return the calls turn by turn."""
        turns: dict[int, list[Step]] = {}
        for step in self.steps:
            turns.setdefault(step.turn, []).append(step)
        return [turns[turn] for turn in sorted(turns)]


def from_messages(
    messages: Sequence[Mapping[str, Any]],
    *,
    name: str = "example",
    tools: Sequence[Mapping[str, Any]] = (),
    confirmed: Collection[str] = (),
    aliases: Mapping[str, str] | None = None,
) -> Conversation:
    """Return the view of an example in OpenAI's message format.

    A destructive call counts as confirmed when the policy has asked in words and the user's next message says yes.

    Args:
        messages: System, user, assistant and tool messages.
        name: What reports call the example.
        tools: Function schemas that were offered.
        confirmed: Ids of calls that a person has said yes to outside of the messages.
        aliases: What tools are called in the messages, by catalogue name (`CatalogView.aliases`).

    Raises:
        ConversationError: Something in it is no message.
    """
    steps: list[Step] = []
    said: list[tuple[int, str]] = []
    faults: list[str] = []
    results = _results(messages, name)
    names = {alias: own for own, alias in (aliases or {}).items()}
    turn, answer, asked, yes = 0, "", False, False
    for message in messages:
        role = message.get("role")
        if role in ("system", "developer", "user"):
            text = text_of(message)
            said.append((turn, text))
            if role == "user":
                yes, asked = asked and is_yes(text), False
        elif role == "assistant":
            calls = message.get("tool_calls") or []
            for call in calls:
                call_id = str(call.get("id") or "")
                function = call.get("function") or {}
                tool = str(function.get("name") or "")
                tool = names.get(tool, tool)
                arguments = _arguments(function.get("arguments"))
                if arguments is None:
                    faults.append(f"arguments of call {len(steps) + 1} ({tool}) are no JSON object")
                if call_id not in results:
                    faults.append(f"call {len(steps) + 1} ({tool}) has no result")
                text = results.pop(call_id, "")
                steps.append(
                    Step(
                        len(steps),
                        turn,
                        tool,
                        arguments or {},
                        _value(text),
                        _status(text),
                        call_id,
                        yes or call_id in confirmed,
                    )
                )
            turn += bool(calls)
            asked = not calls
            answer = "" if calls else text_of(message)
    faults += [f"the result of {call_id!r} answers no call" for call_id in results]
    shown = [str((tool.get("function") or {}).get("name")) for tool in tools]
    offered = {names.get(tool, tool) for tool in shown}
    return Conversation(
        name, tuple(steps), answer, tuple(said), frozenset(offered | {step.name for step in steps}), tuple(faults)
    )


def from_trace(trace: Trace) -> Conversation:
    """Return the view of a captured run.

    Calls are confirmed where their records say so, or where the policy asked in words and the user's next message says
    yes.
    """
    policy = [node for node in trace.graph.nodes if node.turn is not None and node.turn.is_policy]
    own_turns = [node for node in policy if node.turn is not None and not node.turn.agent] or policy  # no subagents'
    messages = trace.graph.messages_to(own_turns[-1].index) if own_turns else []
    schemas = trace.tools(own_turns[-1]) if own_turns else None
    seen = from_messages(messages, name=trace.id, tools=schemas if isinstance(schemas, list) else ())
    entries = [entry for entry in trace.calls if entry.call.kind is not CallKind.POLICY]
    answer = trace.answer or seen.answer
    if not entries:
        return Conversation(trace.id, seen.steps, answer, seen.said, seen.tools, seen.faults)
    own = {entry.call.call_id for entry in entries}
    before = [step for step in seen.steps if step.call_id not in own]  # of earlier requests of the conversation
    offset = len({step.turn for step in before})
    said = [(max(0, turn - offset), text) for turn, text in seen.said]
    said += [(0, text_of(m)) for m in messages if m.get("role") == "tool" and m.get("tool_call_id") not in own]
    asked = {step.call_id for step in seen.steps if step.confirmed}
    order = {node.index: turn for turn, node in enumerate(node for node in policy if node.tool_call_ids)}
    turns = [order.get(entry.node, entry.call.turn) if entry.node is not None else entry.call.turn for entry in entries]
    ranked = sorted(range(len(entries)), key=lambda place: (turns[place], entries[place].index))
    steps = tuple(
        Step(
            index,
            turns[place],
            entries[place].call.name,
            _arguments(entries[place].arguments) or {},
            _value(entries[place].result),
            entries[place].call.status,
            entries[place].call.call_id,
            entries[place].call.confirmed or entries[place].call.call_id in asked,
        )
        for index, place in enumerate(ranked)
    )
    faults = tuple(
        f"arguments of call {step.index + 1} ({step.name}) are no JSON object"
        for step, place in zip(steps, ranked, strict=True)
        if _arguments(entries[place].arguments) is None and entries[place].arguments is not None
    )
    return Conversation(trace.id, steps, answer, tuple(said), seen.tools | {step.name for step in steps}, faults)


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield path and value of each text, number and truth value in a JSON value."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            yield from leaves(item, (*path, place))
    elif value is not None:
        yield path, value


def is_yes(text: str) -> bool:
    """Say whether a user's message is an explicit yes."""
    words = text.casefold().replace(",", " ").replace(".", " ").replace("!", " ").split()
    if not words or {"no", "not", "don't", "dont", "stop", "wait", "never", "cancel"}.intersection(words[:4]):
        return False
    starts = ("yes", "yep", "yeah", "ok", "okay", "sure", "confirm", "confirmed", "approved", "correct", "y")
    return words[0] in starts or " ".join(words).startswith(("go ahead", "do it", "please do", "please go"))


def _results(messages: Sequence[Mapping[str, Any]], name: str) -> dict[str, str]:
    results = {}
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ConversationError(f"message {place} of {name} has no `role`: give OpenAI messages")
        if message["role"] == "tool":
            results[str(message.get("tool_call_id") or "")] = text_of(message)
    return results


def _arguments(given: Any) -> dict[str, Any] | None:
    if isinstance(given, str):
        try:
            given = json.loads(given or "{}")
        except ValueError:
            return None
    return dict(given) if isinstance(given, Mapping) else None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text or None


def _status(text: str) -> CallStatus:
    """Read the status of a call from its result, in the words of `toolorch_integrations.observation`."""
    if text.startswith("The user refused"):
        return CallStatus.REFUSED
    value = _value(text)
    failed = text.startswith("Error:") or (isinstance(value, Mapping) and bool(value.get("error")))
    return CallStatus.ERROR if failed else CallStatus.OK
