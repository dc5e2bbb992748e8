"""Running the golden calls of a task, and checking with them that the task is sound."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from toolorch_integrations import observation
from toolorch_integrations.errors import ToolorchError
from toolorch_rl.environments import Environment, EnvironmentCallError
from toolorch_rl.tasks import GoldenCall, Task, TaskError, solved


@dataclass(frozen=True, slots=True)
class Replayed:
    """A golden call that was made.

    Attributes:
        call: The call.
        text: Its result as a policy sees it.
        refused: Whether a person said no to it, so that it was not made.
    """

    call: GoldenCall
    text: str
    refused: bool = False


def replay(task: Task, environment: Environment) -> list[list[Replayed]]:
    """Make the golden calls of a task; return them turn by turn.

    Args:
        task: The task.
        environment: In the task's initial state.

    Raises:
        TaskError: A call fails; the message names task and call.
    """
    return [[_made(task, call, environment) for call in turn] for turn in task.golden]


def verify(task: Task, environment: Environment | None = None) -> None:
    """Check that a task is sound: its golden calls solve it, and neither doing nothing nor repeating the request does.

    Args:
        task: The task.
        environment: One of the task's schema, to use again; its state is replaced.

    Raises:
        TaskError: It is not; the message names the task and says why.
        StateError: The initial state does not fit the schema.
    """
    environment = environment or Environment(task.schema_of_environment)
    environment.restore(task.initial)
    for answer in ("", task.request):
        if solved(task, task.initial, answer).passed:
            raise TaskError(f"Task {task.id}: doing nothing and saying {answer!r} solves it.")
    made = replay(task, environment)
    verdict = solved(task, environment.state(), task.answer)
    if not verdict.passed:
        raise TaskError(f"Task {task.id}: its golden calls do not solve it: {verdict.reason}.")
    _check_sources(task, made)


def sound(tasks: Iterable[Task], report: Callable[[Task, str], None]) -> Iterator[Task]:
    """Give the tasks that are sound; report the others with the reason and go on."""
    for task in tasks:
        try:
            verify(task)
        except ToolorchError as error:
            report(task, str(error))
        else:
            yield task


def value_at(result: object, path: str) -> object:
    """Return the value at a path of a result, such as `tasks[2].id`.

    Raises:
        KeyError: There is nothing at that path.
    """
    value = result
    for part in path.replace("[", ".[").split("."):
        try:
            if part.startswith("["):
                assert isinstance(value, list)
                value = value[int(part[1:-1])]
            else:
                assert isinstance(value, dict)
                value = value[part]
        except (AssertionError, IndexError, ValueError, KeyError):
            raise KeyError(path) from None
    return value


def _made(task: Task, call: GoldenCall, environment: Environment) -> Replayed:
    if task.approval is False and task.is_destructive(call):
        return Replayed(call, observation.refused(call.name), refused=True)
    try:
        return Replayed(call, environment.call_text(call.name, call.arguments))
    except EnvironmentCallError as error:
        given = json.dumps(call.arguments, ensure_ascii=False)
        raise TaskError(f"Task {task.id}: golden call {call.name}({given}) fails: {error}.") from error


def _check_sources(task: Task, made: list[list[Replayed]]) -> None:
    """Check that arguments said to come from an earlier result are there, in a turn before."""
    earlier: dict[str, object] = {}
    for turn in made:
        for item in turn:
            for argument, source in item.call.sources.items():
                call_id, _, path = source.partition(":")
                try:
                    found = value_at(earlier[call_id], path)
                except KeyError:
                    raise TaskError(
                        f"Task {task.id}: {argument} of {item.call.name} should come from {source}; no result of an "
                        "earlier turn has that."
                    ) from None
                if found != item.call.arguments.get(argument):
                    raise TaskError(
                        f"Task {task.id}: {argument} of {item.call.name} is {item.call.arguments.get(argument)!r}, but "
                        f"{source} is {found!r}."
                    )
        earlier |= {item.call.id: json.loads(item.text) for item in turn if not item.refused}
