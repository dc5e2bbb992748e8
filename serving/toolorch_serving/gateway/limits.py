"""What a key may use: requests a minute, and dollars a day."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from toolorch_serving.gateway.errors import LimitError
from toolorch_serving.gateway.keys import Caller
from toolorch_serving.gateway.spending import Spending

if TYPE_CHECKING:
    from toolorch_integrations.store import TraceStore

PERMIT = "toolorch.permit"
"""Under which the permit stands in the ASGI scope of a request that may spend money; see `app`."""


class Permit:
    """Leave to make one request, and the place to report what it cost. A context manager; safe across threads."""

    def __init__(self, limits: Limits, caller: Caller) -> None:
        self._limits = limits
        self._caller = caller
        self._reserved = 0.0

    def dollars_left(self) -> float | None:
        """Return what the caller may still spend today, less what is reserved; None: no limit."""
        return self._limits.dollars_left(self._caller)

    def reserve(self, dollars: float) -> None:
        """Hold back the most that the request may cost, until it is spent or the permit is closed."""
        self._reserved += dollars
        self._limits.hold(self._caller.name, dollars)

    def spent(self, dollars: float) -> None:
        """Count what was spent; may be called again and again."""
        if dollars > 0:
            self._limits.spending.add(self._caller.name, dollars)
            self._release(min(dollars, self._reserved))

    def close(self) -> None:
        """Give back what was reserved and not spent."""
        self._release(self._reserved)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _release(self, dollars: float) -> None:
        if dollars:
            self._reserved -= dollars
            self._limits.hold(self._caller.name, -dollars)


@dataclass(slots=True)
class _Bucket:
    """Requests that a key may make at once; it fills up again evenly over a minute."""

    left: float
    at: float = field(default_factory=time.monotonic)


class Limits:
    """Counts requests in this process, and dollars in the store's database for all gateways on it. Safe across threads.

    Attributes:
        spending: Dollars by key and day.

    Args:
        store: In whose database dollars are counted.
        clock: Epoch seconds, for the day.
        monotonic: Seconds, for the minute.

    Raises:
        StoreError: The database cannot be reached.
    """

    def __init__(
        self,
        store: TraceStore,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spending = Spending(store, clock)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}
        self._held: dict[str, float] = {}

    def admit(self, caller: Caller) -> Permit:
        """Count a request.

        Raises:
            LimitError: A limit is reached; its `Retry-After` says when to come again.
        """
        if caller.dollars_per_day is not None:
            self._check_dollars(caller, caller.dollars_per_day)
        if caller.requests_per_minute is not None:
            self._take(caller.name, caller.requests_per_minute)
        return Permit(self, caller)

    def dollars_left(self, caller: Caller) -> float | None:
        """Return what a caller may still spend today, less what is reserved; None: no limit."""
        if caller.dollars_per_day is None:
            return None
        with self._lock:
            held = self._held.get(caller.name, 0.0)
        return max(0.0, caller.dollars_per_day - self.spending.today(caller.name) - held)

    def hold(self, name: str, dollars: float) -> None:
        """Reserve money, or release it when negative."""
        with self._lock:
            self._held[name] = max(0.0, self._held.get(name, 0.0) + dollars)

    def flush(self) -> bool:
        """Bring the account together with those of other gateways; see `Spending.flush`."""
        return self.spending.flush()

    def _check_dollars(self, caller: Caller, limit: float) -> None:
        if (self.dollars_left(caller) or 0.0) > 0:
            return
        spent = self.spending.today(caller.name)
        if spent < limit:
            raise LimitError(
                f"what {caller.name!r} may still spend today (${limit - spent:.4f}) is reserved by its running "
                "requests: try again when one has ended, or give requests smaller budgets",
                headers={"Retry-After": "5"},
            )
        raise LimitError(
            f"{caller.name!r} has spent ${spent:.4f} of its ${limit:g} of today (UTC): try again tomorrow, or have "
            "dollars_per_day raised",
            code="insufficient_quota",
            headers={"Retry-After": str(math.ceil(self.spending.seconds_to_midnight()))},
        )

    def _take(self, name: str, per_minute: float) -> None:
        now, most = self._monotonic(), max(1.0, per_minute)
        with self._lock:
            bucket = self._buckets.setdefault(name, _Bucket(most, now))
            bucket.left = min(most, bucket.left + (now - bucket.at) * per_minute / 60)
            bucket.at = now
            if bucket.left >= 1:
                bucket.left -= 1
                return
            wait = (1 - bucket.left) * 60 / per_minute
        raise LimitError(
            f"{name!r} may make {per_minute:g} requests a minute: try again in {math.ceil(wait)} s",
            headers={"Retry-After": str(math.ceil(wait))},
        )
