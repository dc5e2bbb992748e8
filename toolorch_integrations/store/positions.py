"""How much of each spool a store has: written with the events, so that none is stored twice."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, select
from sqlalchemy.dialects import postgresql, sqlite

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
    values = {"spool": step.spool, "position": step.after, "written": time.time()}
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(spool_positions).values(values)
    if step.before == 0:
        statement = statement.on_conflict_do_nothing(index_elements=["spool"])
    else:
        changed = {name: statement.excluded[name] for name in ("position", "written")}
        same = spool_positions.c.position == step.before
        statement = statement.on_conflict_do_update(index_elements=["spool"], set_=changed, where=same)
    if connection.execute(statement).rowcount != 1:
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
