"""Finding traces: by id, by conversation, by the run that went on with one, or by filters a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from sqlalchemy import Connection, select

from toolorch_integrations.errors import StoreError
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.store import schema
from toolorch_integrations.store.filters import TraceFilters, conditions
from toolorch_integrations.trace import TraceHeader

PAGE = 50
"""Traces that are read at a time."""
_IDS = 500
"""Ids that are asked for at a time."""

_Header = TypeVar("_Header", bound=TraceHeader)


def pages(
    reading: Callable[[], AbstractContextManager[Connection]],
    filters: TraceFilters,
    read: Callable[[Connection, Sequence[Any]], list[_Header]],
) -> Iterator[list[_Header]]:
    """Yield pages of traces, newest first; each is read by `read` on a connection of its own."""
    table = schema.traces
    left = filters.get("limit")
    after: tuple[float, str] | None = None
    while left is None or left > 0:
        query = select(table).where(*conditions(filters, after))
        query = query.order_by(table.c.started.desc(), table.c.id.desc())
        with reading() as connection:
            rows_of_page = connection.execute(query.limit(PAGE if left is None else min(PAGE, left))).all()
            page = read(connection, rows_of_page) if rows_of_page else []
        if not page:
            return
        yield page
        after = (page[-1].started, page[-1].id)
        left = None if left is None else left - len(page)


def by_beginning(connection: Connection, beginning: str, where: object) -> Any:
    """Return the one row of `traces` whose id begins so; see `TraceStore.trace`. `where` names the store."""
    column = schema.traces.c.id
    found = connection.execute(
        select(schema.traces).where(column.startswith(beginning, autoescape=True)).order_by(column).limit(2)
    ).all()
    if not found:
        raise StoreError(f"{where} holds no trace {beginning!r}; `toolorch traces list` shows their ids")
    if len(found) > 1 and found[0].id != beginning:
        raise StoreError(f"{where} holds more than one trace {beginning!r}...; give more digits of the id")
    return found[0]


def by_id(connection: Connection, trace_id: str) -> Any | None:
    """Return the row of `traces` with exactly this id, or None."""
    return connection.execute(select(schema.traces).where(schema.traces.c.id == trace_id)).one_or_none()


def known(connection: Connection, trace_ids: Iterable[str]) -> set[str]:
    """Return those of the ids that are in `traces`."""
    column, ids = schema.traces.c.id, sorted(trace_ids)
    parts = [ids[start : start + _IDS] for start in range(0, len(ids), _IDS)]
    return {found for part in parts for found in connection.scalars(select(column).where(column.in_(part)))}


def of_run(connection: Connection, run_id: str) -> str | None:
    """Return the trace that a run resumed, or None for a run that did not."""
    table = schema.run_aliases
    return connection.scalar(select(table.c.trace_id).where(table.c.run_id == run_id))


def newest_interrupted(connection: Connection, thread_id: str, app: str, framework: str) -> str | None:
    """Return the newest interrupted trace of a conversation; see `TraceStore.interrupted_trace`."""
    columns = schema.traces.c
    named = {columns.app: app, columns.framework: framework}
    return connection.scalar(
        select(columns.id)
        .where(columns.thread_id == thread_id, columns.status == TraceStatus.INTERRUPTED.value)
        .where(*(column == name for column, name in named.items() if name))
        .order_by(columns.started.desc())
        .limit(1)
    )
