"""The ground on which tasks are made: domains with schemas and states."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from toolorch_rl.environments import EnvironmentSchema, State
from toolorch_rl.synthesis.by_model import prompts
from toolorch_rl.synthesis.by_model.asking import Desk, Question
from toolorch_rl.synthesis.by_model.domain_answers import read_schema, read_state
from toolorch_rl.synthesis.by_model.settings import Settings, slug
from toolorch_rl.tasks import PATTERNS, Pattern, Task

WAVE = 64
"""Tasks of a domain that are begun in one wave."""

_VARIANTS = ("an ordinary day", "a busy day", "a quiet day", "the end of a month", "a day on which things went wrong")


@dataclass
class DomainAtWork:
    """A domain on its way.

    Attributes:
        text: As it was asked for.
        goal: Tasks wanted.
        schema: Of its environments.
        states: Initial states that tasks begin with.
        kept: Tasks that passed everything.
        begun: Intents asked for so far.
        barren: Waves in a row of which nothing was kept.
    """

    text: str
    goal: int
    schema: EnvironmentSchema
    states: list[State] = field(default_factory=list)
    kept: list[Task] = field(default_factory=list)
    begun: int = 0
    barren: int = 0

    def missing(self, settings: Settings) -> list[Pattern]:
        """Return the patterns that the next wave is to have."""
        quotas = settings.mix.quotas(self.goal)
        for task in self.kept:
            quotas[task.pattern] -= 1
        lacking = [pattern for pattern in PATTERNS for _ in range(max(0, quotas[pattern]))]
        random.Random(f"{settings.seed} {self.schema.name} {self.begun}").shuffle(lacking)
        return lacking[: min(WAVE, self.goal - len(self.kept))]


def prepared(desk: Desk) -> list[DomainAtWork]:
    """Return the domains whose schema and at least one state is usable; the others are dropped."""
    settings = desk.settings
    texts = settings.domains
    questions = [
        Question(f"domain {text!r}", prompts.schema_prompt(text), partial(read_schema, slug(text))) for text in texts
    ]
    found = []
    schemas = desk.ask("schemas", questions)
    for place, schema in enumerate(schemas):
        if schema is not None:
            goal = settings.count // len(texts) + (place < settings.count % len(texts))
            found.append(DomainAtWork(texts[place], goal, schema))
    _fill(desk, found)
    for item in found:
        if not item.states:
            desk.drop("states", f"domain {item.text!r}", "given up: none of its states is usable")
    return [item for item in found if item.states]


def _fill(desk: Desk, domains: Sequence[DomainAtWork]) -> None:
    settings = desk.settings
    places = [(item, number) for item in domains for number in range(settings.databases)]
    questions = [
        Question(
            f"domain {item.text!r}, state {number + 1}",
            prompts.entries_prompt(
                item.text, item.schema, f"{_VARIANTS[number % len(_VARIANTS)]}, {number + 1}", settings.entries
            ),
            partial(_state, desk.settings.seed, item.schema, number),
        )
        for item, number in places
    ]
    states = desk.ask("states", questions)
    for (item, _), state in zip(places, states, strict=True):
        if state is not None:
            item.states.append(state)


def _state(seed: int, schema: EnvironmentSchema, number: int, data: dict[str, object]) -> State:
    draw = random.Random(f"{seed} {schema.name} state {number}")
    return read_state(schema, data, draw)
