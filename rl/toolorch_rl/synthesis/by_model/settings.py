"""What synthesis by model is asked for."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from toolorch_integrations.entry import Specialist
from toolorch_rl.fan_out import Workers
from toolorch_rl.synthesis.mix import Mix

_WORD = re.compile(r"[a-z0-9]+")


class Settings(BaseModel):
    """What synthesis by model is asked for.

    Attributes:
        author: The model that makes schemas, entries, intents and tasks: its endpoint, price and retries.
        domains: What the environments are about, in a few words each, such as `airline support`.
        count: Tasks wanted, over all domains together; all that pass are kept, so there may be some more.
        mix: Shares of the patterns.
        databases: Initial states of a domain.
        entries: Entries of an entity in a state, about.
        harder: Times that a sound task is made harder; each version is a task of its own.
        tries: Tries of the solver at each task; 0 keeps what is sound without trying.
        solved_least: A task is kept if so many tries solve it at least.
        solved_most: And so many at most; None for no limit, `tries - 1` for tasks that are not always solved.
        repairs: Times that a model is told what is wrong with an answer and asked again.
        dollars: Most that all calls may cost together, those of earlier runs in the same work folder included.
        seed: Decides all that is drawn: patterns, ids, preferences, tool subsets, aliases, price tables.
        workers: Calls under way at a time.
        backend: Where calls are made: on an event loop here, or on Ray workers.
        ray_workers: How many of these; they share out `workers`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    author: Specialist
    domains: tuple[str, ...]
    count: int = Field(100, ge=1)
    mix: Mix = Field(default_factory=Mix)
    databases: int = Field(2, ge=1)
    entries: int = Field(5, ge=2)
    harder: int = Field(1, ge=0, le=5)
    tries: int = Field(8, ge=0)
    solved_least: int = Field(1, ge=0)
    solved_most: int | None = Field(None, ge=0)
    repairs: int = Field(2, ge=0, le=10)
    dollars: float | None = Field(None, ge=0)
    seed: int = 0
    workers: int = Field(16, ge=1)
    backend: Literal["asyncio", "ray"] = "asyncio"
    ray_workers: int = Field(2, ge=1)

    @field_validator("domains")
    @classmethod
    def _check_domains(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        if not domains:
            raise ValueError("there is none: give at least one, such as 'airline support'")
        names: dict[str, str] = {}
        for number, text in enumerate(domains, 1):
            name = slug(text)
            if not name:
                raise ValueError(f"number {number} is empty ({text!r}): say in a few words what it is about")
            if name in names:
                raise ValueError(f"{text!r} and {names[name]!r} are the same: leave one out")
            names[name] = text
        return domains

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if self.author.endpoint is None:
            raise ValueError("author: it has no `endpoint`")
        if self.tries and self.solved_least > self.tries:
            raise ValueError(f"solved_least is {self.solved_least}, but there are {self.tries} tries")
        if self.solved_most is not None and self.solved_most < self.solved_least:
            raise ValueError(f"solved_most is {self.solved_most}, less than solved_least, {self.solved_least}")
        return self

    def crew(self) -> Workers:
        """Return the workers that make the calls.

        Raises:
            FanOutError: Ray is asked for and not installed, or its cluster has too few cores.
        """
        if self.backend == "asyncio":
            return Workers(self.workers, "asyncio")
        return Workers(self.ray_workers, "ray", at_once=-(-self.workers // self.ray_workers))


def slug(text: str) -> str:
    """Return a domain's name as schemas write it: `Airline support` becomes `airline_support`."""
    name = "_".join(_WORD.findall(text.casefold()))[:40].strip("_")
    return f"domain_{name}" if name[:1].isdigit() else name
