"""Whether a final answer covers every operation of a run.

A heuristic over words: an operation is covered when the answer holds something that tells it from the others of its
kind (an id, a name, a figure of its result), when it says how many of its kind were done, or, where nothing was found
or a call failed, when it says so. Look-ups whose ids later calls used are covered by those calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from toolorch_integrations.ledger import CallStatus
from toolorch_rl.conversation import Conversation, Step, leaves
from toolorch_rl.origins import Origins, is_id, is_reading, noun_of

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NOTHING = re.compile(r"\b(no|none|nothing|not|zero|0|empty|free|clear|without|couldn't|isn't|aren't|don't|didn't)\b")
_FAILED = re.compile(
    r"\b(fail\w*|could not|couldn't|cannot|can't|unable|error|not|didn't|wasn't|refused|declined|unavailable|problem)\b"
)
_DULL = frozenset({"status", "state", "priority", "type", "kind", "count", "limit"})
"""Fields of a change whose values tell nothing of it by themselves."""


def uncovered(conversation: Conversation) -> list[Step]:
    """Return the operations that the answer says nothing of."""
    answer = conversation.answer.casefold()
    labels = _labels(conversation)
    used = {source.step.index for argument in Origins(conversation).id_arguments() for source in argument.earlier}
    alike: dict[str, list[Step]] = {}
    for step in conversation.steps:
        if step.ok:
            alike.setdefault(step.name, []).append(step)
    missing = []
    for step in conversation.steps:
        if not step.ok:
            covered = _failure_covered(step, conversation, answer)
        elif is_reading(step.name) and step.index in used:
            covered = True
        else:
            covered = _counted(alike[step.name], answer) or _told(step, alike[step.name], answer, labels)
        if not covered:
            missing.append(step)
    return missing


def _failure_covered(step: Step, conversation: Conversation, answer: str) -> bool:
    if step.status in (CallStatus.MALFORMED, CallStatus.UNKNOWN):
        return True  # A slip of the policy, which the user did not ask for.
    again = any(other.ok and other.name == step.name and other.turn > step.turn for other in conversation.steps)
    return again or _FAILED.search(answer) is not None


def _counted(steps: list[Step], answer: str) -> bool:
    """Whether the answer says how many operations of a kind were done: `3 tasks`."""
    number = len(steps)
    if number < 2:
        return False
    words = {str(number)} | ({_NUMBERS[number]} if number < len(_NUMBERS) else set())
    noun = noun_of(steps[0].name).rpartition("_")[2]
    return bool(noun) and noun[:-1] in answer and any(re.search(rf"\b{word}\b", answer) for word in words)


def _told(step: Step, alike: list[Step], answer: str, labels: dict[str, set[str]]) -> bool:
    own = set(_telling(step, labels))
    if is_reading(step.name) and not any(True for path, value in leaves(step.result) if value not in (0, "", False)):
        return _NOTHING.search(answer) is not None or any(_holds(answer, value) for value in own)
    others = {value for other in alike if other is not step for value in _telling(other, labels)}
    # Operations that cannot be told apart share what there is to say.
    return any(_holds(answer, value) for value in (own - others or own))


def _telling(step: Step, labels: dict[str, set[str]]) -> Iterator[str]:
    reading = is_reading(step.name)
    for part in (step.arguments, step.result):
        for path, value in leaves(part):
            field = next((key for key in reversed(path) if isinstance(key, str)), "")
            if isinstance(value, bool) or (field in _DULL and not reading):
                continue
            if isinstance(value, str) and not path:
                yield from (word.casefold() for word in re.findall(r"\w{4,}|\d+", value))
                continue
            yield str(value).casefold()
            if is_id(field):
                yield from labels.get(str(value), ())


def _labels(conversation: Conversation) -> dict[str, set[str]]:
    """Return, by id, the texts that stand beside it in results: a deleted task is known by its title."""
    found: dict[str, set[str]] = {}
    for step in conversation.steps:
        beside: dict[tuple[str | int, ...], list[tuple[str, str]]] = {}
        for path, value in leaves(step.result):
            if path and isinstance(path[-1], str) and not isinstance(value, bool):
                beside.setdefault(path[:-1], []).append((path[-1], str(value)))
        for items in beside.values():
            texts = {value.casefold() for key, value in items if not is_id(key) and key not in _DULL}
            for key, value in items:
                if key == "id":
                    found.setdefault(value, set()).update(texts)
    return found


def _holds(answer: str, value: str) -> bool:
    return bool(value) and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", answer) is not None
