"""Replaying the golden calls of a benchmark's task: what they do not solve, nobody can."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from toolorch_rl.environments.errors import EnvironmentCallError
from toolorch_rl.imports.task import ImportedTask


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the golden calls of a task did.

    Attributes:
        solved: Whether they solve it.
        reason: Why not.
        trivial: Whether doing nothing solves it too.
    """

    solved: bool
    reason: str
    trivial: bool


def replay_imported(task: ImportedTask) -> Replayed:
    """Make the golden calls of a task, stage by stage, and judge them; a call that fails is gone on from."""
    with task.open() as environment:
        for stage in task.stages:
            for call in stage.golden:
                with contextlib.suppress(EnvironmentCallError):
                    environment.call_text(call.name, call.arguments)
            environment.end_stage()
        verdict = task.judge(environment, task.answer)
    with task.open() as untouched:
        for _ in task.stages:
            untouched.end_stage()
        trivial = task.judge(untouched, "").passed
    return Replayed(verdict.passed, verdict.reason, trivial)
