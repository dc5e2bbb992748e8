"""Whether golden calls have the shape of the pattern that a task is to exercise."""

from __future__ import annotations

from collections.abc import Sequence

from toolorch_rl.environments import EnvironmentSchema
from toolorch_rl.environments.catalog import operations_of
from toolorch_rl.synthesis.by_model.errors import AnswerError
from toolorch_rl.tasks import GoldenCall, Pattern

Golden = Sequence[Sequence[GoldenCall]]
_READING = ("get", "list", "search")


def check_shape(pattern: Pattern, golden: Golden, schema: EnvironmentSchema, *, bound: bool = True) -> Pattern:
    """Return the pattern of golden calls.

    Args:
        pattern: The one that was asked for.
        golden: The calls, turn by turn.
        schema: Of their environment.
        bound: Whether it must be that one; else the shape shows it where it does not fit.

    Raises:
        AnswerError: They do not have the shape that was asked for.
    """
    if fits(pattern, golden, schema):
        return pattern
    if bound:
        widths = [len(turn) for turn in golden]
        raise AnswerError(f"the calls do not have the pattern {pattern!r}: their turns have {widths} calls")
    return shown(golden)


def fits(pattern: Pattern, golden: Golden, schema: EnvironmentSchema) -> bool:
    """Say whether golden calls have the shape of a pattern."""
    widths = [len(turn) for turn in golden]
    depends = all(any(call.sources for call in turn) for turn in golden[1:])
    match pattern:
        case "single":
            return widths == [1]
        case "sequential":
            return widths == [1, 1] and depends
        case "parallel":
            return len(widths) == 1 and widths[0] >= 2
        case "conditional":
            return len(widths) <= 3 and all(_reads(call, schema) for call in golden[0])
        case "loop":
            return len(widths) >= 2 and len({call.name for call in golden[-1]}) == 1 and depends
        case "chain":
            return sum(widths) >= 3 and len(widths) >= 2 and depends
        case "mixed":
            return sum(widths) >= 3 and len(widths) >= 2 and max(widths) >= 2


def shown(golden: Golden) -> Pattern:
    """Return the pattern that the shape of golden calls shows."""
    widths = [len(turn) for turn in golden]
    if len(widths) == 1:
        return "single" if widths == [1] else "parallel"
    if max(widths) >= 2:
        return "mixed"
    return "sequential" if widths == [1, 1] else "chain"


def _reads(call: GoldenCall, schema: EnvironmentSchema) -> bool:
    return operations_of(schema)[call.name].kind in _READING
