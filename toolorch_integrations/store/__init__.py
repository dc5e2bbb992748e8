"""Trace stores in SQLite and PostgreSQL."""

from toolorch_integrations.store.filters import TraceFilters
from toolorch_integrations.store.retention import Purged, StoreStats
from toolorch_integrations.store.store import StoreConflictError, TraceStore, TraceWrite

__all__ = ["Purged", "StoreConflictError", "StoreStats", "TraceFilters", "TraceStore", "TraceWrite"]
