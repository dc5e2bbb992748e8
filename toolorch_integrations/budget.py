"""The limits of a run, and the account that enforces them.

Invariant: money that calls in flight may still cost is reserved before they start, so a run goes past its dollar
limit by at most the cost of one call, however many calls run side by side.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from toolorch_integrations.ledger import Call, CallKind, Ledger

DEFAULT_TURNS = 30
"""Policy calls a run may make when the caller sets no limit: an orchestrator always ends."""


class Budget(BaseModel):
    """Limits of one run; None means no limit.

    Attributes:
        turns: Policy calls. The last one is made with tools withheld, so that the policy answers.
        dollars: Money for all calls together, the policy's own tokens included.
        seconds: Wall clock from the start of the run, less the time in which it stood still. That is the time from the
            end of one run of the graph or workflow to its resume, whatever stopped it, and from a tool's or an
            orchestrator's question to a person, by the framework's own means, to the answer. A tool that waits in any
            other way uses the run's time up. Where only the stored state is known, as in another process, and in
            LlamaIndex where a workflow stopped or confirmation is asked for, the time begins with the end of the last
            policy call: tools that worked after it are left out too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    turns: int | None = Field(DEFAULT_TURNS, ge=0)
    dollars: float | None = Field(None, ge=0)
    seconds: float | None = Field(None, ge=0)

    def over(self, base: Budget) -> Budget:
        """Return a budget with the limits that were set here, and those of `base` for the rest.

        A limit counts as set when it was named, also as None; so one that is named may be wider than the base's.

        Example:
            >>> Budget(dollars=0.01).over(Budget(dollars=0.05, seconds=60))
            Budget(turns=30, dollars=0.01, seconds=60.0)
        """
        return base.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})

    def within(self, bounds: Budget) -> Budget:
        """Return `over(bounds)`, with each limit that `bounds` sets in so many words at most as wide as it.

        For callers who may ask for less only.

        Example:
            >>> Budget(dollars=1.0, turns=2).within(Budget(dollars=0.05, turns=9))
            Budget(turns=2, dollars=0.05, seconds=None)
        """
        asked = self.over(bounds)
        both = self.model_fields_set & bounds.model_fields_set
        return asked.model_copy(update={name: _stricter(getattr(self, name), getattr(bounds, name)) for name in both})

    def sentence(self) -> str:
        """Return the limits in words, or an empty string when there is none but the default."""
        parts = []
        if self.turns is not None and self.turns != DEFAULT_TURNS:
            parts.append(f"{self.turns} turns")
        if self.dollars is not None:
            parts.append(f"${self.dollars:g}")
        if self.seconds is not None:
            parts.append(f"{self.seconds:g} seconds")
        return f"Budget: {', '.join(parts)}." if parts else ""


class Limit(StrEnum):
    """Which limit ended a run."""

    TURNS = "turns"
    DOLLARS = "dollars"
    SECONDS = "seconds"


@dataclass
class Account:
    """A run's budget at work: admits calls, holds reservations, knows what is left. Safe across threads.

    Attributes:
        budget: The limits.
        ledger: Calls that have ended.
        started: `time.time()` at the start of the run.
        paused: Seconds in which the run stood still, up to the last time that it went on; see `Budget.seconds`.
    """

    budget: Budget
    ledger: Ledger = field(default_factory=Ledger)
    started: float = field(default_factory=time.time)
    paused: float = 0.0
    _reserved: dict[str, float] = field(default_factory=dict)
    _recorded: set[tuple[str, str, int]] = field(default_factory=set)
    _waiting: dict[str, float] = field(default_factory=dict)
    _resumed: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._recorded.update(_identity(call) for call in self.ledger)

    def admit(self, key: str, upper_bound: float, kind: CallKind) -> Limit | None:
        """Reserve money for a call; return the limit that forbids it, or None when it may start.

        Args:
            key: Identifies the call until `settle`.
            upper_bound: The most that the call can cost, in dollars.
            kind: Who is called; only policy calls count as turns.
        """
        with self._lock:
            limit = self._exhausted(kind)
            if limit is None:
                self._reserved[key] = upper_bound
            return limit

    def limit(self, kind: CallKind) -> Limit | None:
        """Return the limit that forbids another call of this kind now, or None."""
        with self._lock:
            return self._exhausted(kind)

    def settle(self, key: str, call: Call | None = None) -> None:
        """Release a reservation and record what the call cost, once even when a step is replayed."""
        with self._lock:
            self._reserved.pop(key, None)
            if call is not None and (identity := _identity(call)) not in self._recorded:
                self._recorded.add(identity)
                self.ledger.calls.append(call)

    def catch_up(self, calls: Iterable[Call]) -> None:
        """Add calls that another process recorded before this run was resumed here."""
        for call in calls:
            self.settle("", call)

    def wait(self, key: str) -> None:
        """Take note that a call waits for a person from now on: its reservation is released, the clock stands."""
        with self._lock:
            self._reserved.pop(key, None)
            self._waiting[key] = time.time()

    def resume(self, key: str) -> None:
        """Take note that a call goes on, if it has waited; time in which several calls waited counts once."""
        with self._lock:
            since = self._waiting.pop(key, None)
            if since is not None:
                self._pause_since(since)

    def stood_still(self, since: float) -> None:
        """Take note that the run goes on now and that nothing of it was under way since then (epoch seconds)."""
        with self._lock:
            self._pause_since(since)

    def last_turn(self) -> bool:
        """Whether the next policy call is the last that the budget allows."""
        return self.budget.turns is not None and self.ledger.turns + 1 >= self.budget.turns

    def seconds_left(self) -> float | None:
        """Seconds until the deadline (not under 0), or None without one."""
        if self.budget.seconds is None:
            return None
        return max(0.0, self.budget.seconds - (time.time() - self.started - self.paused))

    def _pause_since(self, since: float) -> None:
        now = time.time()
        self.paused += max(0.0, now - max(since, self._resumed))
        self._resumed = now

    def _exhausted(self, kind: CallKind) -> Limit | None:
        budget = self.budget
        if budget.turns is not None and kind is CallKind.POLICY and self.ledger.turns >= budget.turns:
            return Limit.TURNS
        committed = self.ledger.dollars + sum(self._reserved.values())
        if budget.dollars is not None and committed >= budget.dollars:
            return Limit.DOLLARS
        if budget.seconds is not None and time.time() - self.started - self.paused >= budget.seconds:
            return Limit.SECONDS
        return None


def _stricter(first: float | None, second: float | None) -> float | None:
    return min((limit for limit in (first, second) if limit is not None), default=None)


def _identity(call: Call) -> tuple[str, str, int]:
    return str(call.kind), call.call_id, call.turn  # some servers number the calls of each turn from 0
