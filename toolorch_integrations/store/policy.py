"""Retention as a policy: what a store lets go of by itself, and when."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from toolorch_integrations.errors import StoreError
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.store.engine import WRITES
from toolorch_integrations.store.retention import Purged
from toolorch_integrations.store.schema import holds

if TYPE_CHECKING:
    from toolorch_integrations.store.store import TraceStore

logger = logging.getLogger(__name__)

HOLD_SECONDS = 24 * 3600.0
"""How long a hold lasts whose process has died."""

_LOCK = 7308332042
"""Key of the advisory lock under which one process at a time applies a policy."""


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Which traces a store keeps. Traces that run always stay.

    Example:
        >>> schedule = RetentionSchedule(store, RetentionPolicy(days=90, keep=1_000))
        >>> schedule.start()
    """

    days: float | None = None
    """Traces that started longer ago go."""
    keep: int | None = None
    """The newest so many stay, however old they are; without `days` all others go."""
    status: TraceStatus | None = None
    """Only traces that ended so go."""

    def __post_init__(self) -> None:
        if self.days is None and self.keep is None:
            raise StoreError("retention needs days or keep: by status alone it would delete traces as they end")
        if (self.days is not None and not self.days > 0) or (self.keep is not None and self.keep < 0):
            raise StoreError(f"retention: days={self.days} must be above 0, keep={self.keep} not below 0")
        if self.status is TraceStatus.RUNNING:
            raise StoreError("retention never deletes running traces; give another status")

    def apply(self, store: TraceStore) -> Purged | None:
        """Delete what the policy does not keep, some hundred traces a transaction.

        Returns:
            None when another process is at it, or somebody holds the store's traces.

        Raises:
            StoreError: The store cannot be used now.
        """
        try:
            with _alone(store) as alone:
                if not alone or held(store):
                    return None
                older_than = None if self.days is None else self.days * 86400
                return store.purge(older_than=older_than, status=self.status, keep=self.keep)
        except SQLAlchemyError as error:
            raise StoreError(f"retention in {store}: {error}") from error


class RetentionSchedule:
    """Applies a policy every so often, on a thread of its own. Several processes may run one on the same store."""

    def __init__(self, store: TraceStore, policy: RetentionPolicy, every_seconds: float = 3600.0) -> None:
        """Take a store, a policy, and how often it is applied; nothing happens before `start`."""
        self._store = store
        self._policy = policy
        self._every = every_seconds
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; the first time comes at a random moment of the first interval."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="toolorch-retention", daemon=True)
            self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """End, after the transaction that runs."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        wait = self._every * random.random()
        while not self._stopped.wait(wait):
            wait = self._every
            try:
                purged = self._policy.apply(self._store)
                if purged is not None and purged.traces:
                    logger.info("retention deleted %d traces", purged.traces)
            except Exception:
                logger.exception("retention failed; it is tried again in %.0f s", wait)


@contextmanager
def hold(store: TraceStore, reason: str, seconds: float = HOLD_SECONDS) -> Iterator[None]:
    """Keep retention from deleting anything in the block: for a reader that comes back to the traces it has read.

    Args:
        store: The store that is read.
        reason: For people who ask why nothing is deleted.
        seconds: After so long it ends by itself.

    Raises:
        StoreError: The store cannot be written now.
    """
    key = uuid.uuid4().hex
    try:
        with store.engine.connect().execution_options(**WRITES) as connection, connection.begin():
            connection.execute(delete(holds).where(holds.c.until < time.time()))
            connection.execute(insert(holds).values(id=key, reason=reason, until=time.time() + seconds))
    except SQLAlchemyError as error:
        raise StoreError(f"the traces of {store} cannot be held: {error}") from error
    try:
        yield
    finally:
        with (
            contextlib.suppress(SQLAlchemyError),
            store.engine.connect().execution_options(**WRITES) as connection,
            connection.begin(),
        ):
            connection.execute(delete(holds).where(holds.c.id == key))


def held(store: TraceStore) -> bool:
    """Whether somebody holds the traces of a store."""
    with store.engine.connect() as connection:
        return bool(connection.scalar(select(func.count()).where(holds.c.until >= time.time())))


@contextmanager
def _alone(store: TraceStore) -> Iterator[bool]:
    """Hold the lock of retention, if no other process has it. SQLite's write lock is enough for that one."""
    if store.file is not None:
        yield True
        return
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        locked = bool(connection.scalar(select(func.pg_try_advisory_lock(_LOCK))))
        try:
            yield locked
        finally:
            if locked:
                with contextlib.suppress(SQLAlchemyError):
                    connection.execute(select(func.pg_advisory_unlock(_LOCK)))
