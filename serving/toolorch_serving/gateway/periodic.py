"""Chores of a gateway that come again and again, on threads of their own: never on the event loop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)


class Periodic:
    """Calls a function at intervals while it is open; what it raises is logged and the next turn comes.

    A failure that goes on is logged once, and when it is over: a database may be away for an hour.

    Args:
        name: Of the thread.
        seconds: Between the end of one call and the next.
        function: What is called.
        last: Whether it is called once more as it closes.
    """

    def __init__(self, name: str, seconds: float, function: Callable[[], Any], *, last: bool = False) -> None:
        self._seconds = seconds
        self._function = function
        self._last = last
        self._fails = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"toolorch-{name}", daemon=True)

    def __enter__(self) -> Periodic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(timeout=10)
        if self._last and not self._thread.is_alive():
            self._once()

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            self._once()

    def _once(self) -> None:
        try:
            self._function()
        except Exception:  # whatever it is, the next turn may succeed
            if not self._fails:
                logger.exception("%s failed; it is tried again every %g s", self._thread.name, self._seconds)
            self._fails = True
        else:
            if self._fails:
                logger.warning("%s works again", self._thread.name)
            self._fails = False
