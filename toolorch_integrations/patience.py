"""Using a store that may be locked, full or down: again and again for a while, and said in the log once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from sqlalchemy.exc import IntegrityError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from toolorch_integrations.errors import StoreError
from toolorch_integrations.store import StoreConflictError, TraceStore

logger = logging.getLogger(__name__)

CONFLICTS = (IntegrityError, StoreConflictError)
"""Another process has written what was to be written: these come out, as only the caller knows what follows."""
_TRANSIENT = (OperationalError, InterfaceError, InternalError, PoolTimeoutError, OSError)
_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Patience:
    """Runs what needs a store; used by one thread.

    Attributes:
        seconds: How long something is tried again.
        deadline: `time.monotonic()` after which nothing is tried again.
        in_store: Held while the database is used: a child forked in the middle of that would inherit the locks of
            its library.
    """

    def __init__(self, store: TraceStore, seconds: float, in_store: threading.RLock) -> None:
        self.seconds = seconds
        self.deadline: float | None = None
        self.in_store = in_store
        self._store = store
        self._ready = False
        self._problem = ""

    def __call__(self, attempt: Callable[[], None], *, patient: bool = True, prepare: bool = False) -> bool:
        """Run something that needs the store.

        Args:
            attempt: What to run.
            patient: Whether to try more than once.
            prepare: Whether the store is prepared before, where that has not been done.

        Returns:
            False when it did not work within the time.
        """
        give_up = time.monotonic() + (self.seconds if patient else 0.0)
        for pause in _endless(_PAUSES):
            try:
                with self.in_store:
                    if prepare and not self._ready:
                        self._store.prepare()
                        self._ready = True
                    attempt()
                self._say("")
                return True
            except CONFLICTS:
                raise
            except StoreError as error:
                self._say(f"capture: {error}")
                return False
            except _TRANSIENT as error:
                limit = give_up if self.deadline is None else min(give_up, self.deadline)
                if time.monotonic() + pause > limit:
                    self._say(f"capture: store {self._store}: {error}")
                    return False
                time.sleep(pause)
        return False

    def _say(self, problem: str) -> None:
        """Log a problem with the store when it begins and when it is over, and not at each attempt between."""
        if problem and not self._problem:
            logger.warning("%s", problem)
        elif self._problem and not problem:
            logger.warning("capture: store %s takes events again", self._store)
        self._problem = problem


def _endless(pauses: tuple[float, ...]) -> Iterator[float]:
    yield from pauses
    while True:
        yield pauses[-1]
