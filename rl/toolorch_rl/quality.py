"""Checks on examples and on captured traces: what fails one is kept out of training, and says why.

`form`      arguments are JSON objects, and calls and results belong together
`ids`       every id in a call's arguments was said before or stands in an earlier result
`field`     it comes from a field that holds ids of what the argument asks for
`parallel`  calls of one turn do not need each other's results, nor change the same entry
`answer`    the final answer covers every operation
`confirm`   destructive calls were confirmed by a person, or refused

The first four and the last go by ids and names of tools and fields; `answer` goes by words (see `coverage`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from toolorch_integrations.errors import ToolorchError
from toolorch_integrations.ledger import CallStatus
from toolorch_integrations.safety import is_destructive
from toolorch_integrations.trace import Trace
from toolorch_rl.conversation import Conversation, Step, from_trace
from toolorch_rl.coverage import uncovered
from toolorch_rl.environments import EnvironmentSchema
from toolorch_rl.environments.catalog import operations_of
from toolorch_rl.filtered import Dropped, Filtered
from toolorch_rl.origins import IdArgument, Origins, Source, is_reading, noun_of, same_entity

CHECKS = ("form", "ids", "field", "parallel", "answer", "confirm")


class QualityError(ToolorchError, ValueError):
    """A check was asked for that does not exist."""


class Rules(TypedDict):
    """What is known of the tools, besides their names."""

    references: dict[str, str]
    destructive: dict[str, bool]


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a conversation."""

    check: str
    reason: str
    step: int | None = None
    """Index of the call; None where it is of the whole."""


@dataclass(frozen=True, slots=True)
class QualityReport:
    """What the checks found."""

    name: str
    """Id of the trace, or name of the example."""
    problems: tuple[Problem, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.problems

    def text(self) -> str:
        """Return the report in words."""
        return "; ".join(f"{problem.check}: {problem.reason}" for problem in self.problems) or "no problem"


def check(
    conversation: Conversation,
    *,
    checks: Collection[str] = CHECKS,
    references: Mapping[str, str] | None = None,
    destructive: Mapping[str, bool] | None = None,
) -> QualityReport:
    """Check a conversation.

    Args:
        conversation: From `from_messages` or `from_trace`.
        checks: Which.
        references: What id arguments refer to, where their names do not say: `{"assignee_id": "user"}`, or
            `{"assign.to_id": "user"}` for one tool.
        destructive: Whether a tool is destructive, by name; the names of the others decide.

    Raises:
        QualityError: There is no such check.
    """
    unknown = sorted(set(checks) - set(CHECKS))
    if unknown:
        raise QualityError(f"there is no check {unknown[0]!r}; choose among {', '.join(CHECKS)}")
    origins = Origins(conversation, references or {})
    arguments = list(origins.id_arguments())
    problems = [Problem("form", fault) for fault in conversation.faults]
    for argument in arguments:
        problems += _check_id(argument)
        problems += _check_field(argument, origins)
    for turn in conversation.turns():
        problems += _check_same_entry(turn, [argument for argument in arguments if argument.step in turn])
    problems += _check_answer(conversation)
    problems += _check_confirmed(conversation, destructive or {})
    return QualityReport(conversation.name, tuple(problem for problem in problems if problem.check in checks))


def rules_of(schema: EnvironmentSchema) -> Rules:
    """Return what an environment's schema says of its tools, as `check(conversation, **rules_of(schema))` takes it."""
    operations = operations_of(schema).values()
    return {
        "references": {
            f"{operation.name}.{argument.name}": argument.refers_to
            for operation in operations
            for argument in operation.arguments
            if argument.refers_to
        },
        "destructive": {operation.name: operation.destructive for operation in operations},
    }


def drop_faulty(
    traces: Sequence[Trace],
    *,
    checks: Collection[str] = CHECKS,
    references: Mapping[str, str] | None = None,
    destructive: Mapping[str, bool] | None = None,
) -> Filtered[Trace]:
    """Drop traces that fail a check; each says why (filter `quality`).

    Args:
        traces: The runs. Where a trace has its catalogue, what that declares destructive is added to `destructive`.
        checks: As for `check`.
        references: As for `check`.
        destructive: As for `check`.
    """
    found: Filtered[Trace] = Filtered([], [])
    for place, trace in enumerate(traces):
        declared = {**declared_destructive(trace), **(destructive or {})}
        report = check(from_trace(trace), checks=checks, references=references, destructive=declared)
        if report.passed:
            found.kept.append(trace)
            found.places.append(place)
        else:
            found.dropped.append(Dropped(trace.id, "quality", report.text()))
    return found


def declared_destructive(trace: Trace) -> dict[str, bool]:
    """Return what a trace's catalogue declares of its tools, by name."""
    entries = trace.catalog if isinstance(trace.catalog, list) else []
    return {
        str(entry["name"]): entry["destructive"]
        for entry in entries
        if isinstance(entry, Mapping) and isinstance(entry.get("destructive"), bool) and "name" in entry
    }


def _check_id(argument: IdArgument) -> Iterator[Problem]:
    if argument.given or argument.earlier:
        return
    where = f"{argument.step.text()}: {argument.name} {argument.value!r}"
    if argument.siblings:
        other = argument.siblings[0].step
        yield Problem("parallel", f"{where} is a result of {other.text()} in the same turn", argument.step.index)
    else:
        yield Problem("ids", f"{where} was not said and is in no earlier result", argument.step.index)


def _check_field(argument: IdArgument, origins: Origins) -> Iterator[Problem]:
    """Find an id of another kind than the argument asks for.

    An argument such as `assignee_id` may take ids of people: unless `references` says what it takes, or a tool of the
    conversation works on such things, or results hold ids of that kind, nothing is known against it.
    """
    sources = [source for source in argument.earlier if source.path]
    if not sources or any(_fits(argument, source) for source in sources):
        return
    step, tools = argument.step, origins.conversation.tools
    if not (origins.declared(step, argument.name) or _is_noun(argument.entity, tools)):
        return
    source = sources[-1]
    if argument.given and (str(argument.value).isdigit() or not _is_noun(source.entity, tools)):
        return  # A number may be the id of several things, and a role such as `parent_id` names no kind.
    yield Problem(
        "field",
        f"{step.text()}: {argument.name} {argument.value!r} comes from {source.field!r} of {source.step.text()}, "
        f"which is no id of a {argument.entity}",
        step.index,
    )


def _is_noun(entity: str, tools: Collection[str]) -> bool:
    return any(same_entity(noun_of(tool), entity) for tool in tools)


def _fits(argument: IdArgument, source: Source) -> bool:
    return source.field == argument.name or not argument.entity or same_entity(source.entity, argument.entity)


def _check_same_entry(turn: list[Step], arguments: list[IdArgument]) -> Iterator[Problem]:
    """Find calls of one turn that work on the same entry, where one of them changes it: their order matters."""
    touched: dict[tuple[str, str], list[Step]] = {}
    for argument in arguments:
        if same_entity(noun_of(argument.step.name), argument.entity):
            steps = touched.setdefault((argument.entity, str(argument.value)), [])
            if argument.step not in steps:
                steps.append(argument.step)
    for (entity, value), steps in touched.items():
        if len(steps) > 1 and any(not is_reading(step.name) for step in steps):
            first, second = steps[:2]
            yield Problem(
                "parallel",
                f"{first.text()} and {second.text()} of the same turn work on {entity} {value!r}, and one changes it",
                second.index,
            )


def _check_answer(conversation: Conversation) -> Iterator[Problem]:
    if not conversation.answer.strip():
        yield Problem("answer", "there is no final answer")
        return
    for step in uncovered(conversation):
        failed = "" if step.ok else ", which failed"
        yield Problem("answer", f"the answer says nothing of {step.text()}{failed}", step.index)


def _check_confirmed(conversation: Conversation, declared: Mapping[str, bool]) -> Iterator[Problem]:
    made = (CallStatus.OK, CallStatus.ERROR, CallStatus.TIMEOUT)
    for step in conversation.steps:
        if step.status in made and is_destructive(step.name, declared.get(step.name)) and not step.confirmed:
            yield Problem("confirm", f"nobody confirmed the destructive {step.text()}", step.index)
