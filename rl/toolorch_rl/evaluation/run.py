"""Evaluating a policy: its runs of many tasks, many at once, each captured and judged by the task.

A run that crashes or takes too long is a failed run with its reason; the others go on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from toolorch_integrations.capture import CaptureSession, capture
from toolorch_integrations.ledger import CallKind, CallStatus
from toolorch_integrations.store import TraceStore
from toolorch_integrations.trace import Reward, Trace
from toolorch_rl.conversation import Conversation, Step, from_trace
from toolorch_rl.evaluation.faces import Face
from toolorch_rl.evaluation.gather import gathered
from toolorch_rl.evaluation.results import TaskResult
from toolorch_rl.filters import EVALUATION
from toolorch_rl.imports.task import AnyTask
from toolorch_rl.metrics.table import MeasuredRun, score
from toolorch_rl.rewards.features import RunFeatures, features_of
from toolorch_rl.verifiers.verdict import Verdict

TIMEOUT = 300.0
"""Seconds that a run may take by default."""


async def evaluate(
    tasks: Sequence[AnyTask],
    face: Face,
    store: TraceStore,
    *,
    concurrency: int = 8,
    limit: float = TIMEOUT,
    done: Iterable[TaskResult] = (),
    ended: Callable[[TaskResult], None] | None = None,
) -> list[TaskResult]:
    """Run tasks and judge the runs.

    Args:
        tasks: The tasks; their ids differ.
        face: How they are run.
        store: Takes the captured traces, with a reward `outcome` each.
        concurrency: Runs at a time.
        limit: Seconds until a run is given up.
        done: Results that are there already; their tasks are not run again.
        ended: Is told of each run as it ends.

    Returns:
        A result for each task, in their order.

    Raises:
        EvaluationError: A task cannot be run so; no run has begun.
    """
    for task in tasks:
        face.check(task)
    results = {result.task_id: result for result in done}

    async def one(task: AnyTask) -> None:
        results[task.id] = await run_task(task, face, store, limit)
        if ended is not None:
            ended(results[task.id])

    await gathered(one, [task for task in tasks if task.id not in results], concurrency)
    return [results[task.id] for task in tasks]


async def run_task(task: AnyTask, face: Face, store: TraceStore, limit: float = TIMEOUT) -> TaskResult:
    """Run one task and judge the run; never raises for what goes wrong in the run itself."""
    with task.open() as environment:
        session = capture(store, app=EVALUATION)
        answer, failure = "", ""
        async with session:
            try:
                async with asyncio.timeout(limit) as scope:
                    answer = await face.answer(task, environment)
            except Exception as error:
                late = isinstance(error, TimeoutError) and scope.expired()
                failure = f"timed out after {limit:g} s" if late else f"{type(error).__name__}: {error}"
        verdict = task.judge(environment, answer)
    return await asyncio.to_thread(_judged, task, session, store, answer, failure, verdict)


def _judged(
    task: AnyTask, session: CaptureSession, store: TraceStore, answer: str, failure: str, verdict: Verdict
) -> TaskResult:
    found = (store.find(trace_id) for trace_id in dict.fromkeys(session.trace_ids))
    traces = sorted((trace for trace in found if trace is not None), key=lambda trace: trace.started)
    if not verdict.passed:
        failure = failure or _unanswered(traces)
    right = verdict.passed and not failure
    features = features_of_run(task.id, traces, right)
    seen = joined(task.id, [from_trace(trace) for trace in traces], answer)
    store.add_rewards(*(Reward(trace.id, {"outcome": float(right)}, verifier="task") for trace in traces))
    lost = sum(session.dropped.values())
    notes = [failure or ("" if right else verdict.reason), f"capture lost {lost} events" if lost else ""]
    return TaskResult.of(features, task.id, task.pattern, task.domain).model_copy(
        update={
            "answer": answer,
            "reason": "; ".join(note for note in notes if note),
            "failed": bool(failure),
            "scores": score(MeasuredRun.of(task, seen)),
            "traces": tuple(trace.id for trace in traces),
        }
    )


def _unanswered(traces: Sequence[Trace]) -> str:
    """Say that the policy itself could not be asked, if so: somebody else may have answered in its place."""
    for trace in traces:
        for entry in trace.calls:
            if entry.call.kind is CallKind.POLICY and entry.call.status in (CallStatus.ERROR, CallStatus.TIMEOUT):
                return f"the policy gave no reply: {entry.call.error or entry.call.status}"
    return ""


def features_of_run(run: str, traces: Sequence[Trace], right: bool) -> RunFeatures:
    """Return the features of a run whose user has spoken several times: a trace each time, summed up."""
    parts = [features_of(trace, right) for trace in traces]
    dollars = [part.dollars for part in parts if part.dollars is not None]
    seconds = [part.seconds for part in parts if part.seconds is not None]
    calls: Counter[str] = Counter()
    for part in parts:
        calls.update(part.calls)
    return RunFeatures(
        run=run,
        calls=dict(calls),
        solved=right,
        dollars=sum(dollars) if dollars else None,
        seconds=sum(seconds) if seconds else None,
        costs=tuple(cost for part in parts for cost in part.costs),
    )


def joined(name: str, parts: Sequence[Conversation], answer: str) -> Conversation:
    """Return a run whose user has spoken several times as one conversation."""
    steps: list[Step] = []
    said: list[tuple[int, str]] = []
    turn = 0
    for part in parts:
        steps += [
            replace(step, index=len(steps) + place, turn=step.turn + turn) for place, step in enumerate(part.steps)
        ]
        said += [(number + turn, text) for number, text in part.said if (number + turn, text) not in said]
        turn = max((step.turn + 1 for step in steps), default=turn)
    tools = frozenset(tool for part in parts for tool in part.tools)
    return Conversation(
        name, tuple(steps), answer, tuple(said), tools, tuple(fault for part in parts for fault in part.faults)
    )
