"""One evaluation, from the command's options to its report."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from toolorch_integrations.cli.evaluate_inputs import Answering, Sampling, Tasks, policy_at, specialists_at
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.store import TraceStore
from toolorch_rl.evaluation import (
    Arm,
    EvaluationError,
    PolicyAt,
    Report,
    ResultsFile,
    TaskResult,
    all_baselines,
    chosen_baselines,
    face,
    report,
    task_baselines,
)
from toolorch_rl.evaluation import evaluate as evaluate_tasks
from toolorch_rl.evaluation.faces import Face, Rendering


@dataclass(frozen=True)
class Job:
    """What is evaluated, and how. The command's options say what each is."""

    policy: str
    model: str | None
    engine: str
    dtype: str
    sampling: Sampling
    face: str
    rendering: Rendering
    tasks: Tasks
    preferences: Preferences | None
    specialists: str
    baselines: str | None
    strongest: str | None
    seed: int
    concurrency: int
    store: str | None
    results: Path | None
    """Where results go as they come; None: next to the store, where that is a file that is kept."""
    fresh: bool

    def run(self, against: Sequence[TaskResult] | None, console: Console) -> Report:
        """Run it.

        Raises:
            ToolorchError: Something in it cannot be used.
            KeyboardInterrupt: The user has had enough; results so far are kept.
        """
        if not self.tasks.usable:
            raise EvaluationError("; ".join(["there are no tasks to evaluate on", *self.tasks.skipped[:3]]))
        self._baselines(real=True)  # names of baselines are known before anything is started
        with ExitStack() as stack:
            store = stack.enter_context(self._store())
            answering = stack.enter_context(specialists_at(self.specialists, self.tasks.usable))
            policy = stack.enter_context(policy_at(self.policy, self.model, self.engine, self.dtype, self.sampling))
            settings = self._settings(policy)
            return asyncio.run(self._run(settings, policy, answering, store, against, console))

    async def _run(
        self,
        settings: dict[str, Any],
        policy: PolicyAt,
        answering: Answering,
        store: TraceStore,
        against: Sequence[TaskResult] | None,
        console: Console,
    ) -> Report:
        tasks = self.tasks.usable
        way = face(self.face, policy, answering.endpoint_of, rendering=self.rendering)
        with ExitStack() as stack:
            files = _Files(self._path(store), settings, self.fresh, stack)
            held = files.of("")
            with progress(console, "Tasks", len(tasks), len(held.done)) as step:

                def ended(result: TaskResult) -> None:
                    held.add(result)
                    step()

                results = await evaluate_tasks(
                    tasks,
                    way,
                    store,
                    concurrency=self.concurrency,
                    limit=self.sampling.timeout,
                    done=[item for item in held.done if item.task_id in {task.id for task in tasks}],
                    ended=ended,
                )
            names = self._baselines(answering.real)
            arms: list[Arm] = []
            if names:
                with progress(console, "Baselines", None, 0) as step:

                    def tried(name: str, result: TaskResult) -> None:
                        files.of(name).add(result)
                        step()

                    arms = await task_baselines(
                        tasks,
                        answering.roster,
                        self._face_of_specialist,
                        store,
                        names=names,
                        strongest=self.strongest,
                        seed=self.seed,
                        concurrency=self.concurrency,
                        limit=self.sampling.timeout,
                        ended=tried,
                        done=lambda name, task: files.of(name).found(task),
                    )
        notes = self._notes(names, arms, answering)
        return report(
            settings, tasks, results, baselines=arms, against=against, skipped=self.tasks.skipped, notes=notes
        )

    def _face_of_specialist(self, policy: PolicyAt) -> Face:
        return face(self.face, policy, specialists=False)

    def _baselines(self, real: bool) -> list[str]:
        if self.baselines is None and not real:
            return []
        wanted = "all" if self.baselines is None else self.baselines.strip()
        if wanted in ("none", ""):
            return []
        names = [item.name for item in all_baselines()] if wanted == "all" else [n.strip() for n in wanted.split(",")]
        return [item.name for item in chosen_baselines(names)]

    def _notes(self, names: Sequence[str], arms: Sequence[Arm], answering: Answering) -> list[str]:
        if not names:
            if self.baselines is None:
                return ["No baselines: give --specialists with endpoints, or --baselines all."]
            return []
        if not arms:
            return ["No baselines: no task has specialists, so there is nobody to put in the policy's place."]
        notes = []
        tried, total = len(arms[0].runs), len(self.tasks.usable)
        if tried < total:
            notes.append(f"Baselines, and the policy beside them, on the {tried} of {total} tasks with specialists.")
        if not answering.real:
            notes.append("The specialists are simulated: they answer in words and call no tools.")
        return notes

    def _settings(self, policy: PolicyAt) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "model": policy.endpoint.model,
            "face": self.face,
            "rendering": self.rendering,
            "temperature": self.sampling.temperature,
            "max_tokens": self.sampling.max_tokens,
            "price": [policy.price.input, policy.price.output],
            "preferences": None if self.preferences is None else self.preferences.model_dump(mode="json"),
            "specialists": self.specialists,
            "tasks": self.tasks.digest,
        }

    @contextmanager
    def _store(self) -> Iterator[TraceStore]:
        with ExitStack() as stack:
            where = self.store
            if where is None:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="toolorch-eval-"))
                where = f"sqlite:///{folder}/traces.db"
            yield stack.enter_context(TraceStore.open(where))

    def _path(self, store: TraceStore) -> Path | None:
        if self.results is not None or self.store is None or store.file is None:
            return self.results
        return store.file.with_name(f"{store.file.name}.results.jsonl")


class _Kept:
    """Results of one arm, kept in a file where there is one."""

    def __init__(self, file: ResultsFile | None) -> None:
        self._file = file
        self.done: list[TaskResult] = list(file.done) if file is not None else []
        self._by_task = {item.task_id: item for item in self.done}

    def add(self, result: TaskResult) -> None:
        if self._file is not None:
            self._file.add(result)

    def found(self, task_id: str) -> TaskResult | None:
        return self._by_task.get(task_id)


class _Files:
    """A file of results for the policy, and one for each specialist that baselines put in its place."""

    def __init__(self, path: Path | None, settings: dict[str, Any], fresh: bool, stack: ExitStack) -> None:
        self._path = path
        self._settings = settings
        self._fresh = fresh
        self._stack = stack
        self._open: dict[str, _Kept] = {}

    def of(self, name: str) -> _Kept:
        if name not in self._open:
            file = None
            if self._path is not None:
                path = self._path.with_name(f"{self._path.stem}.{name}{self._path.suffix}") if name else self._path
                settings = {**self._settings, "specialist": name} if name else self._settings
                file = self._stack.enter_context(ResultsFile(path, settings, fresh=self._fresh))
            self._open[name] = _Kept(file)
        return self._open[name]


@contextmanager
def progress(console: Console, label: str, total: int | None, done: int) -> Iterator[Callable[[], None]]:
    """Show progress on a terminal; what it gives counts one more."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task(label, total=total, completed=done)
        yield lambda: bar.advance(shown)
