"""The pipeline by model: schemas, states, then waves of intents, tasks, harder versions and tries.

Schemas and states come first, for all domains. Tasks come in waves, each of which goes through all further stages: so a
cap that is reached, or an endpoint that goes away, costs what was under way and nothing more. Nothing is kept between
stages but the journals: a run that starts again does the same steps and finds its answers there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from toolorch_rl.environments import State
from toolorch_rl.synthesis.by_model import prompts
from toolorch_rl.synthesis.by_model.answers import read
from toolorch_rl.synthesis.by_model.asking import Desk, Question
from toolorch_rl.synthesis.by_model.domain_answers import read_intents
from toolorch_rl.synthesis.by_model.drafts import Brief, Draft, build
from toolorch_rl.synthesis.by_model.errors import AnswerError
from toolorch_rl.synthesis.by_model.groundwork import DomainAtWork, prepared
from toolorch_rl.synthesis.by_model.journal import WorkFolder
from toolorch_rl.synthesis.by_model.report import Made, Progress
from toolorch_rl.synthesis.by_model.settings import Settings
from toolorch_rl.synthesis.by_model.solver import OrchestratorSolver, Solver
from toolorch_rl.synthesis.by_model.spending import Spending
from toolorch_rl.synthesis.by_model.tries import tried
from toolorch_rl.tasks import Pattern, Task

STAGES = ("schemas", "states", "intents", "tasks", "harder", "tries")

BATCH = 8
"""Intents that are asked for at once."""

BARREN = 2
"""Waves in a row of which nothing may be kept before a domain is given up."""


def synthesize_by_model(
    settings: Settings,
    work: str | Path,
    *,
    solver: Solver | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Made:
    """Make tasks by language model: each one's golden calls run, doing nothing fails, and some tries solve it.

    Args:
        settings: What is asked for.
        work: Folder for the journals. A run that was stopped goes on from there, and pays for nothing twice.
        solver: Who tries the tasks; by default the orchestrator of the LangGraph face, with the author as policy.
        progress: Is told after each call.

    Returns:
        The tasks, what was dropped and why, and what each stage has cost. A cap that is reached ends the run early;
        what is finished by then is there.

    Raises:
        SynthesisError: The endpoint is gone, or the work folder cannot be used; what is finished is kept in it.
        MissingVariableError: The endpoint's key is not set.
        FanOutError: Ray is asked for and not installed, or its cluster has too few cores.

    Example:
        >>> author = Specialist(name="author", endpoint=Endpoint(url=url, model="qwen3-32b"))  # doctest: +SKIP
        >>> made = synthesize_by_model(
        ...     Settings(author=author, domains=("airline support",), count=50), "work"
        ... )  # doctest: +SKIP
    """
    with WorkFolder(work) as folder, settings.crew() as workers:
        desk = Desk(settings, folder, workers, Spending(settings.dollars), progress)
        desk.bill_earlier_runs(STAGES)
        return _Pipeline(desk, solver or OrchestratorSolver(settings.author)).run()


@dataclass
class _Pipeline:
    desk: Desk
    solver: Solver
    tried: dict[str, tuple[int, int]] = field(default_factory=dict)
    requests: dict[str, str] = field(default_factory=dict)
    """Id of the task by domain and request."""

    def run(self) -> Made:
        domains = prepared(self.desk)
        while True:
            active = [item for item in domains if len(item.kept) < item.goal and item.barren < BARREN]
            if not active or self.desk.spending.exhausted:
                break
            self._wave(active)
        desk = self.desk
        for item in domains:
            if item.barren >= BARREN:
                desk.drop("tasks", f"domain {item.text!r}", f"given up: {BARREN} waves in a row brought no task")
        tasks = [task for item in domains for task in item.kept]
        complete = len(tasks) >= desk.settings.count
        return Made(tasks, desk.dropped, desk.spending.stages, self.tried, complete)

    def _wave(self, domains: Sequence[DomainAtWork]) -> None:
        sound = self._tasks(self._intents(domains))
        latest = sound
        for level in range(1, 1 + self.desk.settings.harder):
            latest = self._harder(latest, level)
            sound += latest
        tasks = [task for _, _, task in sound]
        if self.desk.settings.tries:
            tasks, counts = tried(self.desk, self.solver, tasks)
            self.tried |= counts
        for item in domains:
            new = [task for task in tasks if task.domain == item.schema.name]
            item.kept += new
            item.barren = 0 if new else item.barren + 1

    def _intents(self, domains: Sequence[DomainAtWork]) -> list[tuple[DomainAtWork, Brief, str]]:
        batches: list[tuple[DomainAtWork, int, list[Pattern]]] = []
        for item in domains:
            patterns = item.missing(self.desk.settings)
            batches += [
                (item, item.begun + start, patterns[start : start + BATCH]) for start in range(0, len(patterns), BATCH)
            ]
            item.begun += len(patterns)
        questions = [
            Question(
                f"domain {item.text!r}, intents {begun + 1} to {begun + len(patterns)}",
                prompts.intents_prompt(
                    item.text, item.schema, self._state_of(item, begun), patterns, self._labels(item, begun)
                ),
                partial(read_intents, len(patterns)),
            )
            for item, begun, patterns in batches
        ]
        found = []
        answers = self.desk.ask("intents", questions)
        for (item, begun, patterns), intents in zip(batches, answers, strict=True):
            for place, (pattern, intent) in enumerate(zip(patterns, intents or (), strict=False)):
                name = f"{item.schema.name}-m{self.desk.settings.seed}-{begun + place + 1}"
                brief = Brief(name, item.schema, self._state_of(item, begun), pattern, self.desk.settings.seed)
                found.append((item, brief, intent))
        return found

    def _state_of(self, item: DomainAtWork, begun: int) -> State:
        return item.states[begun // BATCH % len(item.states)]

    def _labels(self, item: DomainAtWork, begun: int) -> list[str]:
        """Draw entries to speak of, or a model would say the same each time."""
        state = self._state_of(item, begun)
        labels = [
            f"the {entity.noun} {row[entity.label]!r}"
            for entity in item.schema.entities
            for row in state.rows[entity.name].values()
        ]
        draw = random.Random(f"{self.desk.settings.seed} {item.schema.name} labels {begun}")
        return draw.sample(labels, min(3, len(labels)))

    def _tasks(self, briefs: Sequence[tuple[DomainAtWork, Brief, str]]) -> list[_Sound]:
        questions = []
        for item, brief, intent in briefs:
            prompt = prompts.task_prompt(item.text, brief.schema, brief.state, brief.pattern, intent)
            questions.append(Question(f"task {brief.task_id} ({intent})", prompt, partial(_built, item, brief, None)))
        made = self.desk.ask("tasks", questions)
        return self._new("tasks", made)

    def _harder(self, sound: Sequence[_Sound], level: int) -> list[_Sound]:
        questions = []
        for item, draft, task in sound:
            name = f"{task.id.removesuffix(f'-h{level - 1}')}-h{level}"
            brief = Brief(name, item.schema, task.initial, task.pattern, self.desk.settings.seed, bound=False)
            prompt = prompts.harder_prompt(item.text, item.schema, task.initial, draft.model_dump_json())
            questions.append(Question(f"task {name}", prompt, partial(_built, item, brief, task)))
        made = self.desk.ask("harder", questions)
        return self._new("harder", made)

    def _new(self, stage: str, made: Sequence[_Sound | None]) -> list[_Sound]:
        """Leave out tasks that ask the same as an earlier one."""
        new: list[_Sound] = []
        for sound in made:
            if sound is None:
                continue
            task = sound[2]
            words = f"{task.domain} {' '.join(task.request.casefold().split())}"
            earlier = self.requests.setdefault(words, task.id)
            if earlier == task.id:
                new.append(sound)
            else:
                self.desk.drop(stage, f"task {task.id}", f"its request is that of {earlier}")
        return new


_Sound = tuple[DomainAtWork, Draft, Task]
"""A sound task, and the draft that it was made of."""


def _built(item: DomainAtWork, brief: Brief, easier: Task | None, data: dict[str, object]) -> _Sound:
    draft = read(Draft, data)
    task = build(draft, brief)
    if easier is not None and not _is_harder(task, easier):
        raise AnswerError("it is not harder: give it more calls, or more that must be said or left alone")
    return item, draft, task


def _is_harder(task: Task, easier: Task) -> bool:
    more = len(task.must_say) + len(task.forbidden) > len(easier.must_say) + len(easier.forbidden)
    return len(task.calls) > len(easier.calls) or (more and len(task.calls) == len(easier.calls))
