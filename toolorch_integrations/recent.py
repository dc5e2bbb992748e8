"""Values that were used of late, by key: what can be made again is kept only while somebody works with it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """At most `limit` values; of more, those that were not used for longest are let go. Safe across threads.

    Example:
        >>> recent = Recent(limit=2)
        >>> recent.get("a", lambda: 1), recent.get("a", lambda: 2)
        (1, 1)
    """

    def __init__(self, limit: int) -> None:
        self._kept: OrderedDict[Key, Value] = OrderedDict()
        self._limit = limit
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Key) -> Value | None:
        """Return a value, or None where it is not kept."""
        with self._lock:
            value = self._kept.get(key)
            if value is not None:
                self._kept.move_to_end(key)
        return value

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return a value, made where it is not kept; the one of another thread, should that have been quicker."""
        found = self.find(key)
        if found is not None:
            return found
        made = make()
        with self._lock:
            value = self._kept.setdefault(key, made)
            self._kept.move_to_end(key)
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        return value

    def end(self, key: Key) -> None:
        """Let a value go, if it is kept."""
        with self._lock:
            self._kept.pop(key, None)
