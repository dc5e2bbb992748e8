"""What `toolorch eval` works on: the tasks, the served policy, and those who answer as the tasks' specialists."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from pydantic import TypeAdapter, ValidationError

from toolorch_integrations.entry import Endpoint, Price, Specialist
from toolorch_integrations.preferences import Preferences
from toolorch_rl.evaluation.errors import EvaluationError
from toolorch_rl.evaluation.faces import EndpointOf
from toolorch_rl.evaluation.policy_at import PolicyAt
from toolorch_rl.evaluation.task_baselines import offered
from toolorch_rl.imports import BenchmarkError, ImportedTask, LeftOut, bfcl_tasks, tau2_tasks
from toolorch_rl.imports.task import AnyTask
from toolorch_rl.replay import sound
from toolorch_rl.synthesis import Split, synthesize
from toolorch_rl.tasks import read_tasks

SIMULATED = "simulated"
BENCHMARKS: dict[str, Callable[[Any, str | None], Iterator[ImportedTask | LeftOut]]] = {
    "bfcl": bfcl_tasks,
    "tau2": tau2_tasks,
}
_MODELS = (("code", "coder"), ("math", "mathematician"), ("data", "mathematician"), ("reasoning", "expert"))
"""Which simulated specialist answers for whom, by capability; the generalist answers for all others."""
_LOOK_SECONDS = 10.0


@dataclass
class Tasks:
    """Tasks to run, and those that cannot be."""

    usable: list[AnyTask] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Tells these tasks from others."""
        return hashlib.sha256("".join(task.to_json() for task in self.usable).encode()).hexdigest()[:16]


def load_tasks(
    files: Sequence[Path],
    count: int | None,
    seed: int,
    split: Split | None,
    preferences: Preferences | None,
    benchmarks: Sequence[str] = (),
) -> Tasks:
    """Read, import and make tasks; broken lines and unsound tasks are skipped, with the reason.

    Raises:
        OSError: A file cannot be read.
        BenchmarkError: A benchmark is not there.
    """
    found = Tasks()
    read = (task for path in files for task in read_tasks(path, found.skipped.append))
    checked = sound(read, lambda _, reason: found.skipped.append(reason))
    made = synthesize(seed, count) if count else ()
    imported = (task for name in benchmarks for task in _imported(name, found.skipped.append))
    seen: set[str] = set()
    every: Iterator[AnyTask] = itertools.chain(checked, imported, made)
    for task in every:
        if split is not None and split.part(task) != "test":
            continue
        if task.id in seen:
            found.skipped.append(f"Task {task.id}: there is an earlier task of that id.")
            continue
        seen.add(task.id)
        found.usable.append(task if preferences is None else _with(task, preferences))
    return found


def _with(task: AnyTask, preferences: Preferences) -> AnyTask:
    if isinstance(task, ImportedTask):
        return replace(task, preferences=preferences)
    return task.model_copy(update={"preferences": preferences})


def _imported(given: str, skip: Callable[[str], None]) -> Iterator[ImportedTask]:
    """Import a benchmark such as `tau2:retail` or `bfcl:base@CHECKOUT`; say which of its tasks are left out."""
    name, _, checkout = given.partition("@")
    benchmark, _, part = name.partition(":")
    if benchmark not in BENCHMARKS or not part:
        raise BenchmarkError(
            f"--benchmark is {given!r}: give bfcl:CATEGORY or tau2:DOMAIN, then @FOLDER for a checkout"
        )
    for task in BENCHMARKS[benchmark](part, checkout or None):
        if isinstance(task, LeftOut):
            skip(f"Task {task.id}: {task.reason}.")
        else:
            yield task


def read_price(text: str) -> Price:
    """Read a price such as `0.05,0.1`: dollars per million input and output tokens.

    Raises:
        EvaluationError: It is none.
    """
    parts = text.split(",")
    try:
        if len(parts) != 2:
            raise ValueError(text)
        return Price(input=float(parts[0]), output=float(parts[1]))
    except ValueError as error:
        raise EvaluationError(
            f"--price is {text!r}: give dollars per million input and output tokens, such as 0.05,0.1"
        ) from error


@dataclass(frozen=True)
class Sampling:
    """How a policy is asked."""

    temperature: float
    max_tokens: int
    timeout: float
    key_variable: str | None
    price: Price
    exact: bool


@contextmanager
def policy_at(policy: str, model: str | None, engine: str, dtype: str, sampling: Sampling) -> Iterator[PolicyAt]:
    """Find a served policy, or serve one while the context is open.

    Raises:
        EvaluationError: Nobody answers there, or the model's name is not known.
        PolicyServerError: It cannot be served.
    """

    def at(url: str, name: str) -> PolicyAt:
        endpoint = Endpoint(
            url=url,
            model=name,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            timeout=sampling.timeout,
            key_variable=sampling.key_variable,
        )
        return PolicyAt(endpoint, sampling.price, sampling.exact)

    if re.match(r"https?://", policy):
        url = policy.rstrip("/")
        yield at(url, model or _served_model(url, at(url, "").endpoint.key()))
        return
    from toolorch_serving.policy import policy_server

    with policy_server(policy, engine=engine, dtype=dtype, name=model) as server:
        yield at(server.url, server.name)


def _served_model(url: str, key: str | None) -> str:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        reply = httpx.get(f"{url}/models", headers=headers, timeout=_LOOK_SECONDS)
        return str(reply.raise_for_status().json()["data"][0]["id"])
    except httpx.TransportError as error:
        raise EvaluationError(f"nobody answers at {url}: {error}; start the policy, or give another URL") from error
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise EvaluationError(f"{url}/models names no model: give --model") from error


@dataclass(frozen=True)
class Answering:
    """Who answers as the tasks' specialists."""

    endpoint_of: EndpointOf | None
    roster: Callable[[AnyTask], Sequence[Specialist]]
    """Whom baselines may put to work on a task."""
    real: bool
    """Whether somebody was named, rather than simulated."""


@contextmanager
def specialists_at(given: str, tasks: Sequence[AnyTask]) -> Iterator[Answering]:
    """Say who answers as the tasks' specialists.

    Args:
        given: `simulated`; a URL where each is served as a model of its own name; or a JSON file with a list of
            catalogue entries, whose endpoints hold for specialists of the same name.
        tasks: The tasks. The simulated specialists start only where one is needed.

    Raises:
        EvaluationError: The file holds something else.
    """
    if re.match(r"https?://", given):
        yield _answering(lambda item: Endpoint(url=given.rstrip("/"), model=item.name), real=True)
    elif given != SIMULATED:
        entries = {item.name: item for item in _read_specialists(Path(given))}

        def named(item: Specialist) -> Endpoint | None:
            return entries[item.name].endpoint if item.name in entries else None

        yield Answering(named, lambda _: list(entries.values()), real=True)
    elif all(item.endpoint is not None for task in tasks for item in task.specialists):
        yield _answering(None, real=any(task.specialists for task in tasks))
    else:
        from toolorch_serving.simulated.service import SimulatedSpecialists

        with SimulatedSpecialists() as simulated:
            url = simulated.url

            def stand_in(item: Specialist) -> Endpoint:
                name = next((model for word, model in _MODELS if word in item.capabilities), "generalist")
                return Endpoint(url=url, model=name, timeout=30.0, max_tokens=256, temperature=0.0)

            yield _answering(stand_in, real=False)


def _answering(endpoint_of: EndpointOf | None, real: bool) -> Answering:
    return Answering(endpoint_of, lambda task: offered(task, endpoint_of), real)


def _read_specialists(path: Path) -> list[Specialist]:
    try:
        found = TypeAdapter(list[Specialist]).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise EvaluationError(
            f"{path}: {place + ': ' if place else ''}{first['msg']}; give a list of specialists"
        ) from error
    without = next((item.name for item in found if item.endpoint is None), None)
    if without is not None:
        raise EvaluationError(f"{path}: the specialist {without!r} has no `endpoint`")
    return found
