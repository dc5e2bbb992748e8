"""Dollars a day, by key, in the store's database: several gateways on one store count together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from toolorch_integrations.errors import StoreError
from toolorch_integrations.plain import storable
from toolorch_integrations.store import TraceStore
from toolorch_integrations.store.engine import WRITES
from toolorch_integrations.store.schema import gateway_spending as spending

logger = logging.getLogger(__name__)

DAY = 86_400


class Spending:
    """An account in this process, which `flush` brings together with those of other gateways. Safe across threads.

    Between two flushes another gateway's spending is not seen: a key can go over its limit by what all gateways spend
    in that time. What a killed process has not flushed is not counted.

    Args:
        store: In whose database it is counted.
        clock: Epoch seconds.

    Raises:
        StoreError: The database cannot be reached.
    """

    def __init__(self, store: TraceStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._stored: dict[tuple[int, str], float] = {}
        self._pending: dict[tuple[int, str], float] = {}
        self._failed = False
        try:
            self._stored = self._read()
        except SQLAlchemyError as error:
            raise StoreError(f"spending by key in {store} cannot be read: {error}") from error

    @property
    def day(self) -> int:
        """Today, in days since 1970 (UTC)."""
        return int(self._clock() // DAY)

    def add(self, name: str, dollars: float) -> None:
        """Count what a key has spent."""
        key = self.day, storable(name)
        with self._lock:
            self._pending[key] = self._pending.get(key, 0.0) + dollars

    def today(self, name: str) -> float:
        """Return what a key has spent today, in all gateways as far as known."""
        key = self.day, storable(name)
        with self._lock:
            return self._stored.get(key, 0.0) + self._pending.get(key, 0.0)

    def seconds_to_midnight(self) -> float:
        """Return how long the day still is."""
        return (self.day + 1) * DAY - self._clock()

    def flush(self) -> bool:
        """Write what is pending, and read what all gateways have written; False: the database is away, try later."""
        with self._flushing:
            try:
                self._write_pending()
                stored = self._read()
            except SQLAlchemyError as error:
                if not self._failed:
                    logger.warning("spending by key cannot be stored now, it is counted here until then: %s", error)
                self._failed = True
                return False
            with self._lock:
                self._stored, self._failed = stored, False
            return True

    def _write_pending(self) -> None:
        """Write what is pending; once that is in the database it is pending no more, whatever fails after."""
        with self._lock:
            taken = {key: dollars for key, dollars in self._pending.items() if dollars}
        if not taken:
            return
        self._write(taken)
        with self._lock:
            for key, dollars in taken.items():
                self._stored[key] = self._stored.get(key, 0.0) + dollars
                left = self._pending.pop(key) - dollars  # what was added meanwhile, but for rounding
                if left > 1e-12:
                    self._pending[key] = left

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._store.engine.connect().execution_options(**WRITES) as connection, connection.begin():
            yield connection

    def _write(self, taken: dict[tuple[int, str], float]) -> None:
        rows = [{"day": day, "name": name, "dollars": dollars} for (day, name), dollars in sorted(taken.items())]
        dialect = sqlite if self._store.file is not None else postgresql
        statement = dialect.insert(spending)
        total = {"dollars": spending.c.dollars + statement.excluded.dollars}
        with self._writing() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["day", "name"], set_=total), rows)

    def _read(self) -> dict[tuple[int, str], float]:
        with self._store.engine.connect() as connection:
            rows = connection.execute(select(spending).where(spending.c.day == self.day))
            return {(row.day, row.name): row.dollars for row in rows}
