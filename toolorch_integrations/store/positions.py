"""How much of each spool a store has: written with the events, so that none is stored twice."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from toolorch_integrations.errors import StoreError
from toolorch_integrations.store.engine import WRITES
from toolorch_integrations.store.schema import spool_positions


class SpoolMovedError(StoreError):
    """The store has more, or less, of a spool than its reader thought; nothing was written."""


@dataclass(frozen=True, slots=True)
class SpoolPosition:
    """A step along a spool."""

    spool: str
    before: int
    """Number of the newest event that the store has; 0: none."""
    after: int
    """The same once the step is taken."""


def take_step(connection: Connection, step: SpoolPosition) -> None:
    """Move a spool's position within a transaction.

    Raises:
        SpoolMovedError: It does not stand where the step begins: a commit that seemed lost had been made.
    """
    table = spool_positions
    if step.before == 0:
        try:
            connection.execute(insert(table).values(spool=step.spool, position=step.after, written=time.time()))
        except IntegrityError as error:
            raise SpoolMovedError(f"spool {step.spool} has begun already") from error
        return
    same = (table.c.spool == step.spool) & (table.c.position == step.before)
    if connection.execute(update(table).where(same).values(position=step.after, written=time.time())).rowcount != 1:
        raise SpoolMovedError(f"spool {step.spool} is not at {step.before} any more")


def position(engine: Engine, spool: str) -> int:
    """Return the number of the newest event of a spool that the store has; 0: none."""
    with engine.connect() as connection:
        found = connection.scalar(select(spool_positions.c.position).where(spool_positions.c.spool == spool))
    return found or 0


def forget(engine: Engine, spool: str) -> None:
    """Drop the position of a spool that is no more."""
    with engine.connect().execution_options(**WRITES) as connection, connection.begin():
        connection.execute(delete(spool_positions).where(spool_positions.c.spool == spool))
