"""Baselines on tasks of an environment: a specialist takes the policy's place.

The same face, the same request and tools, the specialist's own price, and no specialists beside it: what the app would
be with that one model in it. A specialist that cannot call tools solves no task that takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from toolorch_integrations.entry import Specialist
from toolorch_integrations.store import TraceStore
from toolorch_rl.evaluation.arms import Arm
from toolorch_rl.evaluation.baselines import Attempt, answered, chosen_baselines
from toolorch_rl.evaluation.errors import EvaluationError
from toolorch_rl.evaluation.faces import EndpointOf, Face
from toolorch_rl.evaluation.policy_at import PolicyAt
from toolorch_rl.evaluation.results import TaskResult
from toolorch_rl.evaluation.run import TIMEOUT, run_task
from toolorch_rl.evaluation.trials import Brought, Trials
from toolorch_rl.imports.task import AnyTask

FaceOf = Callable[[PolicyAt], Face]
"""Makes the face through which a specialist works."""


def covers(tried: Sequence[Attempt]) -> bool:
    """Accept the newest answer when it is one and covers every operation of its run: what needs no golden answer."""
    result: TaskResult | None = tried[-1].answer
    if result is None or (result.scores is not None and result.scores.synthesis is False):
        return False
    return answered([Attempt(tried[-1].specialist, result.answer, 0.0, 0.0)])


def offered(task: AnyTask, endpoint_of: EndpointOf | None = None) -> list[Specialist]:
    """Return the specialists that a task shows, at its prices, if somebody answers for them."""
    shown = task.full_catalog().view(task.catalog, task.request).entries
    found = []
    for entry in shown:
        if isinstance(entry, Specialist):
            endpoint = entry.endpoint or (endpoint_of(entry) if endpoint_of is not None else None)
            if endpoint is not None:
                found.append(entry.model_copy(update={"endpoint": endpoint}))
    return found


async def task_baselines(
    tasks: Sequence[AnyTask],
    specialists: Callable[[AnyTask], Sequence[Specialist]],
    face_of: FaceOf,
    store: TraceStore,
    *,
    names: Sequence[str],
    strongest: str | None = None,
    seed: int = 0,
    concurrency: int = 8,
    limit: float = TIMEOUT,
    ended: Callable[[str, TaskResult], None] | None = None,
    done: Callable[[str, str], TaskResult | None] | None = None,
) -> list[Arm]:
    """Try baselines on tasks.

    Args:
        tasks: The tasks; those without specialists are left out.
        specialists: Who may work on a task, each with an endpoint.
        face_of: Makes the face through which a specialist works; without further specialists.
        store: Takes the captured traces.
        names: Of the baselines.
        strongest: Name of the strongest specialist; by default the dearest.
        seed: Of the random choices.
        concurrency: Runs at a time.
        limit: Seconds until a run is given up.
        ended: Is told of each run, with the specialist's name.
        done: Returns a run of specialist and task that is there already.

    Raises:
        EvaluationError: There is no such baseline, or a specialist has no endpoint.
    """

    @cache
    def face(specialist_json: str) -> Face:
        specialist = Specialist.model_validate_json(specialist_json)
        if specialist.endpoint is None:
            raise EvaluationError(f"the specialist {specialist.name!r} has no endpoint: baselines cannot ask it")
        return face_of(PolicyAt(specialist.endpoint, specialist.price, exact=False))

    async def ask(specialist: Specialist, task: AnyTask) -> Brought:
        result = done(specialist.name, task.id) if done is not None else None
        if result is None:
            result = await run_task(task, face(specialist.model_dump_json()), store, limit)
            if ended is not None:
                ended(specialist.name, result)
        if result.failed:
            raise EvaluationError(result.reason)
        return result, result.dollars or 0.0, result.seconds or 0.0

    def right(_: AnyTask, result: Any) -> bool:
        return bool(result.solved)

    trials = Trials(
        [task for task in tasks if specialists(task)],
        specialists,
        right,
        chosen_baselines(names, accept=covers, strongest=strongest, seed=seed),
        key=lambda task: task.id,
    )
    return await trials.arun(ask, concurrency) if trials.requests else []
