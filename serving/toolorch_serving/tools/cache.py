"""Results that are kept for a while, so that the same question is not paid for twice."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Cache(Generic[Value]):
    """The newest results by question; safe for threads.

    Args:
        size: Results that are kept; 0 keeps none.
        seconds: Age at which a result is asked for again.
        clock: Seconds that only go forwards.
    """

    def __init__(self, size: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._seconds = seconds
        self._clock = clock
        self._kept: OrderedDict[Hashable, tuple[float, Value]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return a kept result, or make it and keep it; what raises is not kept."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None and self._clock() - found[0] < self._seconds:
                self._kept.move_to_end(key)
                return found[1]
        value = make()
        with self._lock:
            self._kept[key] = (self._clock(), value)
            self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return value
