"""The last filter: a task is kept if some of a solver's tries solve it, and perhaps not all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolorch_rl.synthesis.by_model.asking import Call, Desk
from toolorch_rl.synthesis.by_model.journal import key_of
from toolorch_rl.synthesis.by_model.solver import Solver
from toolorch_rl.tasks import Task, solved

STAGE = "tries"


@dataclass(frozen=True)
class Attempt:
    """Makes tries, where the work is spread to.

    Attributes:
        solver: Who tries.
    """

    solver: Solver

    async def __call__(self, call: Call) -> dict[str, Any]:
        """Make a try; return the entry for the journal."""
        line, number = call.payload
        task = Task.from_json(line)
        made = await self.solver(task, number)
        verdict = solved(task, made.state, made.answer)
        return {
            "solved": verdict.passed,
            "reason": verdict.reason,
            "answer": made.answer,
            "input_tokens": made.input_tokens,
            "output_tokens": made.output_tokens,
            "dollars": made.dollars,
        }


def tried(desk: Desk, solver: Solver, tasks: Sequence[Task]) -> tuple[list[Task], dict[str, tuple[int, int]]]:
    """Try tasks; return those that are kept, and for each how many of how many tries solved it."""
    settings = desk.settings
    lines = {task.id: task.to_json() for task in tasks}
    bounds = {task.id: solver.bound(task) for task in tasks}
    calls = {
        (task.id, number): Call(
            key_of(STAGE, solver.name, lines[task.id], number),
            f"task {task.id}, try {number + 1}",
            bounds[task.id],
            (lines[task.id], number),
        )
        for task in tasks
        for number in range(settings.tries)
    }
    # Try by try, so that a cap that is reached leaves all tasks with as many tries as there was money for.
    in_order = sorted(calls.items(), key=lambda item: item[0][1])
    entries = desk.make(STAGE, [call for _, call in in_order], Attempt(solver))
    kept: list[Task] = []
    counts: dict[str, tuple[int, int]] = {}
    for task in tasks:
        made = [entries[call.key] for (name, _), call in calls.items() if name == task.id and call.key in entries]
        hits = sum(entry["solved"] for entry in made)
        if made:
            counts[task.id] = hits, len(made)
        reason = _reason(desk, hits, made)
        if reason:
            desk.drop(STAGE, f"task {task.id}", reason)
        else:
            kept.append(task)
    return kept, counts


def _reason(desk: Desk, hits: int, made: Sequence[dict[str, Any]]) -> str:
    """Say why a task is not kept; empty when it is."""
    least, most = desk.settings.solved_least, desk.settings.solved_most
    if not made:
        return "no try could be made"
    if len(made) < desk.settings.tries and (hits < least or most is not None):
        return f"only {len(made)} of {desk.settings.tries} tries could be made"
    if hits < least:
        why = next(entry["reason"] for entry in made if not entry["solved"])
        return f"{hits} of {len(made)} tries solve it, {least} should; one failed: {why}"
    if most is not None and hits > most:
        return f"{hits} of {len(made)} tries solve it, {most} may: it is too easy"
    return ""
