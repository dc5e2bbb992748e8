"""Which traces a reader wants."""

from __future__ import annotations

import math
from typing import TypedDict

from sqlalchemy import ColumnElement, tuple_

from toolorch_integrations.errors import StoreError
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.plain import storable_json
from toolorch_integrations.store.schema import traces
from toolorch_integrations.trace import TraceHeader


class TraceFilters(TypedDict, total=False):
    """Conditions on traces; all that are given hold. Absent and None mean no condition."""

    status: TraceStatus | str | None
    app: str | None
    framework: str | None
    thread_id: str | None
    model: str | None
    """A policy version that answered at least one call."""
    exact: bool | None
    since: float | None
    """Started at this epoch second or later."""
    until: float | None
    """Started before this epoch second."""
    before: str | None
    """Only what a listing shows after this trace: its `cursor`, or that of the last one of the page before."""
    limit: int | None
    """The newest so many."""


def cursor(header: TraceHeader) -> str:
    """Return a trace's place in listings, for `TraceFilters.before`."""
    return f"{header.started!r}_{header.id}"


def place(cursor: str) -> tuple[float, str]:
    """Read what `cursor` gave.

    Raises:
        StoreError: It did not give that.
    """
    started, separator, trace_id = cursor.partition("_")
    try:
        found = float(started), trace_id
    except ValueError:
        separator = ""
    if not separator or not math.isfinite(found[0]):
        raise StoreError(f"before={cursor!r} is no place in a listing: give the cursor that the last page ended with")
    return found


def conditions(filters: TraceFilters, after: tuple[float, str] | None = None) -> list[ColumnElement[bool]]:
    """Return the SQL conditions of filters, for traces that come after one in a listing, newest first."""
    columns = traces.c
    found: list[ColumnElement[bool]] = []
    if (status := filters.get("status")) is not None:
        found.append(columns.status == TraceStatus(status).value)
    if (app := filters.get("app")) is not None:
        found.append(columns.app == app)
    if (framework := filters.get("framework")) is not None:
        found.append(columns.framework == framework)
    if (thread_id := filters.get("thread_id")) is not None:
        found.append(columns.thread_id == thread_id)
    if (model := filters.get("model")) is not None:
        found.append(columns.policy_versions.contains(storable_json(model), autoescape=True))
    if (exact := filters.get("exact")) is not None:
        found.append(columns.exact.is_(exact))
    if (since := filters.get("since")) is not None:
        found.append(columns.started >= since)
    if (until := filters.get("until")) is not None:
        found.append(columns.started < until)
    if (before := filters.get("before")) is not None:
        found.append(tuple_(columns.started, columns.id) < place(before))
    if after is not None:
        found.append(tuple_(columns.started, columns.id) < after)
    return found
