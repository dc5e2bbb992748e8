"""Making tasks from templates: the same seed makes the same tasks in every process."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from toolorch_rl.environments import EntitySpec, Environment, EnvironmentCallError, State, changes
from toolorch_rl.replay import verify
from toolorch_rl.synthesis.domains import Domain, domain, domains
from toolorch_rl.synthesis.mix import COUNT, Mix
from toolorch_rl.synthesis.scene import Outline, Scene, UnfitError
from toolorch_rl.synthesis.templates import TEMPLATES
from toolorch_rl.synthesis.world import world
from toolorch_rl.tasks import Pattern, Task, TaskError

_ATTEMPTS = 60
"""Scenes that are drawn for a task until a template fits one."""

_REFUSALS = 0.2
"""Share of destructive requests that the user takes back when asked."""

Discarded = Callable[[str], None]
"""Is told of each draft that was no sound task."""


def synthesize(
    seed: int = 0,
    count: int | None = None,
    names: Sequence[str] | None = None,
    *,
    mix: Mix | None = None,
    discarded: Discarded | None = None,
) -> Iterator[Task]:
    """Make verified tasks from templates.

    Args:
        seed: The same seed gives the same tasks.
        count: How many, over all domains together; by default so many that each reaches its minimum counts.
        names: Of the domains; by default all.
        mix: Shares of the patterns.
        discarded: Is told of drafts that were no sound task; others take their place.

    Raises:
        SchemaError: A domain is unknown.
        TaskError: No template of a pattern fits a domain.
        ValueError: `count` is negative, or `names` is empty.

    Example:
        >>> [task.pattern for task in synthesize(seed=1, count=2, names=["projects"])]
        ['sequential', 'single']
    """
    chosen = [domain(name) for name in dict.fromkeys(names)] if names is not None else list(domains().values())
    if not chosen:
        raise ValueError("names is empty: give at least one domain, or None for all.")
    total = COUNT * len(chosen) if count is None else count
    if total < 0:
        raise ValueError(f"count is {total}: it must not be negative.")
    plan: list[tuple[Domain, Pattern, int]] = []
    for place, item in enumerate(chosen):
        share = total // len(chosen) + (place < total % len(chosen))
        for pattern, quota in (mix or Mix()).quotas(share).items():
            plan += [(item, pattern, number) for number in range(quota)]
    random.Random(f"order {seed}").shuffle(plan)
    environments = {item.name: Environment(item.schema) for item in chosen}
    for item, pattern, number in plan:
        yield make(item, pattern, f"{seed}-{number}", environments[item.name], discarded)


def make(
    item: Domain,
    pattern: Pattern,
    seed: str,
    environment: Environment | None = None,
    discarded: Discarded | None = None,
) -> Task:
    """Make one verified task.

    Args:
        item: The domain.
        pattern: What the task exercises.
        seed: Decides everything else.
        environment: One of the domain's schema, to use again; its state is replaced.
        discarded: Is told of drafts that were no sound task.

    Raises:
        TaskError: No template fits.
    """
    environment = environment or Environment(item.schema)
    task_id = f"{item.name}-{pattern}-{seed}"
    for attempt in range(_ATTEMPTS):
        draw = random.Random(f"{task_id} {attempt}")
        template = draw.choice(TEMPLATES[pattern])
        try:
            scene = Scene(item, environment, draw, approval=draw.random() >= _REFUSALS)
            task = _task(task_id, pattern, template.__name__, scene, template(scene))
            verify(task, environment)
        except UnfitError:
            continue
        except (TaskError, EnvironmentCallError) as error:
            if discarded is not None:
                discarded(f"{template.__name__}: {error}")
            continue
        return task
    raise TaskError(f"Task {task_id}: none of {_ATTEMPTS} drafts of the pattern {pattern!r} fits.")


def _task(task_id: str, pattern: Pattern, template: str, scene: Scene, outline: Outline) -> Task:
    state = scene.environment.state()
    turns = [turn for turn in scene.turns if turn]
    for turn in turns:
        for call in turn:
            for argument in [name for name in call.sources if str(call.arguments[name]) in outline.request]:
                del call.sources[argument]  # the request itself tells the id
    calls = [call for turn in turns for call in turn]
    around = world(scene.draw, list(scene.environment.operations), [call.name for call in calls], len(turns))
    return Task(
        id=task_id,
        domain=scene.domain.name,
        pattern=pattern,
        template=template,
        request=outline.request,
        follow_ups=outline.follow_ups,
        initial=scene.initial,
        golden=tuple(tuple(turn) for turn in turns),
        answer=outline.answer,
        changes=changes(scene.initial, state),
        must_say=tuple(outline.must_say),
        forbidden=spared(scene.draw, scene.domain.order, scene.initial, state.touched),
        approval=scene.approval if scene.asked_destructive else None,
        preferences=around.preferences,
        budget=around.budget,
        catalog=around.catalog,
        specialists=around.specialists,
        price_table=around.price_table,
    )


def spared(
    draw: random.Random, entities: Iterable[EntitySpec], initial: State, touched: Iterable[tuple[str, str]]
) -> tuple[tuple[str, str], ...]:
    """Draw two entries that no call may change, among the untouched ones of entities of which others are touched."""
    changed = set(touched)
    rest = [
        (entity.name, key)
        for entity in entities
        if any(name == entity.name for name, _ in changed)
        for key in initial.rows[entity.name]
        if (entity.name, key) not in changed
    ]
    return tuple(sorted(draw.sample(rest, min(len(rest), 2))))
