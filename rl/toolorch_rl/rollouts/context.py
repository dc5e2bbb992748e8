"""What a rollout is told about itself."""

from __future__ import annotations

import hashlib
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RolloutContext:
    """One run of the app on a task.

    Attributes:
        task: The task.
        key: The task's name; runs of one task carry the same.
        group: Number of the group, from 0: a task that comes again makes another group.
        repetition: Number of the run in its group, from 0.
        seed: Decides what is random in the run, as far as app and policy server go by it; 31 bits.
        policy_version: Name under which the policy is asked that makes the run; None: as the app has it.
    """

    task: Any
    key: str
    group: int
    repetition: int
    seed: int
    policy_version: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    """Put into the trace's metadata, as JSON."""


_current: ContextVar[RolloutContext | None] = ContextVar("toolorch_rollout", default=None)


def current_rollout() -> RolloutContext | None:
    """Return the rollout that runs here, or None: an app asks it for its seed, if it needs one."""
    return _current.get()


def seed_of(seed: int, group: int, repetition: int) -> int:
    """Return a run's seed: the same for the same place, and of no other place's but by chance."""
    digest = hashlib.sha256(f"{seed}|{group}|{repetition}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
