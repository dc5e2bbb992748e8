"""Trace stores in SQLite and PostgreSQL."""

from toolorch_integrations.store.filters import TraceFilters, cursor
from toolorch_integrations.store.policy import RetentionPolicy, RetentionSchedule, hold
from toolorch_integrations.store.positions import SpoolMovedError, SpoolPosition
from toolorch_integrations.store.retention import Purged, StoreStats
from toolorch_integrations.store.store import TraceStore
from toolorch_integrations.store.writing import StoreConflictError, TraceWrite

__all__ = [
    "Purged",
    "RetentionPolicy",
    "RetentionSchedule",
    "SpoolMovedError",
    "SpoolPosition",
    "StoreConflictError",
    "StoreStats",
    "TraceFilters",
    "TraceStore",
    "TraceWrite",
    "cursor",
    "hold",
]
