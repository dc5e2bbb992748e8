"""The held-out evaluation of a promotion: both versions on the same tasks, by an orchestrator or the user's own app."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from toolorch_integrations.cli.evaluate_job import Job, progress
from toolorch_integrations.cli.options import imported
from toolorch_integrations.plain import content_hash
from toolorch_integrations.preferences import Preferences
from toolorch_rl.evaluation import ResultsFile, TaskResult, read_results
from toolorch_rl.rewards import features_of
from toolorch_rl.rollouts import Group, PolicyServer, RolloutPlan, RolloutSettings, collect
from toolorch_rl.rollouts.attempt import App
from toolorch_rl.rollouts.groups import preferences_of
from toolorch_rl.rollouts.loops import run_loop
from toolorch_rl.rollouts.plan import Verify, key_of
from toolorch_serving.promotion import PromotionError


class HeldOut(Protocol):
    """Runs held-out tasks."""

    @property
    def digest(self) -> str:
        """Tells these tasks, and the way they are run, from others."""
        ...

    def results(self, version: str, path: Path, console: Console) -> Sequence[TaskResult]:
        """Run the tasks with a version.

        Args:
            version: The model name that the server answers to.
            path: Gets each result as it comes; an evaluation that was interrupted goes on from there.
            console: For progress.

        Raises:
            ToolorchError: The tasks cannot be run.
        """
        ...

    def preferences(self, task: str) -> Preferences:
        """Return what the caller of a task cares about."""
        ...


@dataclass(frozen=True)
class FaceHeldOut:
    """All that `toolorch eval` takes as tasks, run by an orchestrator of either framework.

    Attributes:
        job: The evaluation, but for version and file.
    """

    job: Job

    @property
    def digest(self) -> str:
        """See `HeldOut.digest`."""
        job = self.job
        return content_hash([job.tasks.digest, job.face, job.rendering, job.specialists])[:12]

    def results(self, version: str, path: Path, console: Console) -> Sequence[TaskResult]:
        """See `HeldOut.results`."""
        if not self.job.tasks.usable:
            skipped = "".join(f"; {reason}" for reason in self.job.tasks.skipped[:3])
            raise PromotionError(
                "there are no held-out tasks: give --tasks FILE (toolorch synthesize makes some), --benchmark or "
                f"--synthesize N{skipped}"
            )
        replace(self.job, model=version, results=path).run(None, console)
        return read_results(path)

    def preferences(self, task: str) -> Preferences:
        """See `HeldOut.preferences`."""
        return next((one.preferences for one in self.job.tasks.usable if one.id == task), Preferences())


@dataclass(frozen=True)
class AppHeldOut:
    """Tasks of any kind, run by the user's own app: the same one as live, asked to take a version.

    Attributes:
        app: Runs the app on a task, as for rollouts; its policy asks the server through this package's classes.
        verify: `verify(task, trace, result)` says whether a run solved its task.
        tasks: Any objects. `id` names them; `preferences`, where they have some, say what their caller cares about,
            and else what the app told the orchestrator does.
        server: URL of the policy server, which is waited for when it fails.
        wanted: Preferences in place of the tasks' own.
        settings: Of the runs: one a task.
    """

    app: App
    verify: Verify
    tasks: Sequence[Any]
    server: str
    wanted: Preferences | None = None
    settings: RolloutSettings = field(default_factory=lambda: RolloutSettings(repetitions=1, at_once=8))
    _heard: dict[str, Preferences] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise PromotionError("there are no held-out tasks: --tasks gave none")
        twice = [key for key, count in Counter(self.keys).items() if count > 1]
        if twice:
            raise PromotionError(f"held-out tasks: {twice[0]!r} is the id of more than one; give each an id of its own")

    @property
    def keys(self) -> list[str]:
        """The tasks' names."""
        return [key_of(task, place) for place, task in enumerate(self.tasks)]

    @property
    def digest(self) -> str:
        """See `HeldOut.digest`."""
        named = f"{getattr(self.app, '__module__', '')}:{getattr(self.app, '__qualname__', '')}"
        return content_hash([named, [repr(task) for task in self.tasks]])[:12]

    def results(self, version: str, path: Path, console: Console) -> Sequence[TaskResult]:
        """See `HeldOut.results`."""
        settings = {"version": version, "tasks": self.digest}
        with ResultsFile(path, settings) as file:
            known = {result.task_id: result for result in file.done if self._cared(result.task_id) is not None}
            left = {key: task for key, task in zip(self.keys, self.tasks, strict=True) if key not in known}
            with progress(console, f"Tasks, {version}", len(self.tasks), len(known)) as step:

                def ended(result: TaskResult) -> None:
                    known[result.task_id] = result
                    file.add(result)
                    step()

                run_loop(self._run(left, version, ended))
        found = [known[key] for key in self.keys]
        if all(result.failed for result in found):
            raise PromotionError(f"none of {len(found)} held-out runs of {version} came to an end: {found[0].reason}")
        return found

    def preferences(self, task: str) -> Preferences:
        """See `HeldOut.preferences`."""
        return self._cared(task) or Preferences()

    async def _run(self, left: Mapping[str, Any], version: str, ended: Callable[[TaskResult], None]) -> None:
        keys = list(left)
        plan = RolloutPlan(self.verify, self.settings, PolicyServer(self.server), version=lambda: version)
        async for group in collect(self.app, list(left.values()), plan):
            key = keys[group.number]
            for run in group.runs:
                self._heard.setdefault(key, preferences_of(run.trace))
            ended(_result(key, group))

    def _cared(self, key: str) -> Preferences | None:
        """Return what is known of the preferences of a task's caller."""
        if self.wanted is not None or key in self._heard:
            return self.wanted or self._heard[key]
        task = next((task for own, task in zip(self.keys, self.tasks, strict=True) if own == key), None)
        given = task.get("preferences") if isinstance(task, Mapping) else getattr(task, "preferences", None)
        return None if given is None else Preferences.model_validate(given)


def app_tasks(given: Sequence[str]) -> list[Any]:
    """Return tasks for the user's own app.

    Args:
        given: Files of JSON lines, whose tasks are what stands there; or `MODULE:NAME` of tasks, or of a function
            that returns some.

    Raises:
        PromotionError: A line is no JSON.
        OSError: A file cannot be read.
    """
    found: list[Any] = []
    for text in given:
        if ":" in text and not Path(text).exists():
            named = imported(text, "--tasks")
            found += named() if callable(named) else named
            continue
        for number, line in enumerate(Path(text).read_text(encoding="utf-8").splitlines(), 1):
            try:
                found += [json.loads(line)] if line.strip() else []
            except ValueError as error:
                raise PromotionError(f"{text}, line {number}: is no JSON ({error})") from error
    return found


def _result(key: str, group: Group) -> TaskResult:
    if not group.runs:
        lost = group.lost[0]
        return TaskResult(task_id=key, solved=False, failed=True, reason=f"{lost.loss}: {lost.detail}")
    (run,) = group.runs
    reason = run.error or ("" if run.verdict.passed else run.verdict.reason)
    found = TaskResult.of(features_of(run.trace, run.verdict), key)
    return found.model_copy(update={"answer": run.trace.answer or "", "reason": reason, "failed": bool(run.error)})
