"""How a run's calls compare with the golden ones: chains, dependencies, parallel calls.

A golden call is matched with the call of the same name whose arguments agree best, each with one. An argument that
comes from an earlier result (`sources`) is right when it holds what the run's own result holds there, or the golden
value; so ids that the run's own database made up count, and so does finding them by another look-up.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from toolorch_integrations.ledger import CallStatus
from toolorch_rl.conversation import Conversation, Step
from toolorch_rl.origins import is_reading

_PATH = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


class GoldenCall(Protocol):
    """What metrics read of a task's golden call."""

    @property
    def id(self) -> str:
        """What `sources` of later calls name it by."""
        ...

    @property
    def name(self) -> str:
        """Catalogue name of the tool."""
        ...

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What it is called with."""
        ...

    @property
    def sources(self) -> Mapping[str, str]:
        """By argument: id of an earlier call, a colon, and the path in its result (`c1:tasks[2].id`)."""
        ...


@dataclass(frozen=True, slots=True)
class ChainScores:
    """Counts of one run. The metrics are ratios of sums of them over runs."""

    completed: bool | None
    """Whether all of a chain was done, rightly, and nothing else changed. None: the task has no two golden turns."""
    dependent: int
    """Calls made whose golden calls depend on an earlier result."""
    dependent_right: int
    """Of them, those with the right values."""
    dependent_missing: int
    """Golden calls that depend on an earlier result and were not made."""
    opportunities: int
    """Golden turns with parallel calls."""
    opportunities_taken: int
    """Of them, those whose calls were all made, in one turn."""
    independent: int
    """Of the calls made for such a turn, all but the first."""
    serialised: int
    """Of them, how many turns more than one they took."""


def chain_scores(
    golden: Sequence[Sequence[GoldenCall]], conversation: Conversation, refused: Collection[str] = ()
) -> ChainScores:
    """Compare a run with the golden calls of its task.

    Args:
        golden: The right calls, turn by turn; those of a turn are independent of each other.
        conversation: The run.
        refused: Ids of golden calls that a person says no to: they need not be made, and must not go through.
    """
    matched = _match(golden, conversation)
    calls = [call for turn in golden for call in turn]
    dependent = [call for call in calls if call.sources and (call.id in matched or call.id not in refused)]
    made = [call for call in dependent if call.id in matched]
    right = [call for call in made if all(_fits(call, name, matched[call.id], matched) for name in call.sources)]
    asked = [[call for call in turn if call.id not in refused] for turn in golden]
    parallel = [turn for turn in asked if len(turn) > 1]
    taken = independent = serialised = 0
    for turn in parallel:
        turns = {matched[call.id].turn for call in turn if call.id in matched}
        number = sum(call.id in matched for call in turn)
        taken += number == len(turn) and len(turns) == 1
        independent += max(0, number - 1)
        serialised += max(0, len(turns) - 1)
    return ChainScores(
        completed=_completed(calls, conversation, matched, refused) if len(golden) > 1 else None,
        dependent=len(made),
        dependent_right=len(right),
        dependent_missing=len(dependent) - len(made),
        opportunities=len(parallel),
        opportunities_taken=taken,
        independent=independent,
        serialised=serialised,
    )


def _match(golden: Sequence[Sequence[GoldenCall]], conversation: Conversation) -> dict[str, Step]:
    """Return the run's call for each golden call's id. Turn by turn: sources are then known."""
    matched: dict[str, Step] = {}
    free = list(conversation.steps)
    for turn in golden:
        pairs = [
            (sum(_fits(call, name, step, matched) for name in call.arguments), _done(step), -step.index, -place)
            for place, call in enumerate(turn)
            for step in free
            if step.name == call.name
        ]
        for _, _, index, place in sorted(pairs, reverse=True):
            call, step = turn[-place], conversation.steps[-index]
            if call.id not in matched and step in free:
                matched[call.id] = step
                free.remove(step)
    return matched


def _completed(
    calls: Iterable[GoldenCall], conversation: Conversation, matched: Mapping[str, Step], refused: Collection[str]
) -> bool:
    """Whether everything was done, and nothing else changed.

    How ids were looked up is the policy's own business: golden look-ups that only feed later calls are not needed.
    """
    used = {source.partition(":")[0] for call in calls for source in call.sources.values()}
    for call in calls:
        if call.id in refused or (is_reading(call.name) and call.id in used):
            continue
        step = matched.get(call.id)
        if step is None or not _done(step):
            return False
        names = call.sources if is_reading(call.name) else {**call.arguments, **step.arguments}
        if not all(_fits(call, name, step, matched) for name in names):
            return False
    wanted = {step.index for key, step in matched.items() if key not in refused}
    extra = any(step.ok and not is_reading(step.name) and step.index not in wanted for step in conversation.steps)
    return not extra and bool(conversation.answer.strip())


def _done(step: Step) -> bool:
    return step.ok or step.status is CallStatus.REFUSED  # A person's no is not the policy's fault.


def _fits(call: GoldenCall, name: str, step: Step, matched: Mapping[str, Step]) -> bool:
    value = step.arguments.get(name)
    if _equal(call.arguments.get(name), value):
        return True
    source = call.sources.get(name)
    if source is None or value is None:
        return False
    asked, _, path = source.partition(":")
    return asked in matched and _equal(_at(matched[asked].result, path), value)


def _at(value: Any, path: str) -> Any:
    for key, place in _PATH.findall(path):
        if place and isinstance(value, list) and int(place) < len(value):
            value = value[int(place)]
        elif key and isinstance(value, Mapping):
            value = value.get(key)
        else:
            return None
    return value


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return " ".join(one.casefold().split()) == " ".join(other.casefold().split())
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)
