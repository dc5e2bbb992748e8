"""Where a store's spool is: one place, so that whatever opens the store next finds what another has left."""

from __future__ import annotations

from pathlib import Path

from toolorch_integrations.store import TraceStore
from toolorch_integrations.store.engine import parse_url


def spool_folder(store: TraceStore | str | Path) -> Path:
    """Return the folder in which events wait for a store: `traces.db.spool` beside an SQLite file, else `spool` here.

    Args:
        store: The store, or its file name or URL.

    Raises:
        StoreError: The URL is none that a store can be.
    """
    url = store.url if isinstance(store, TraceStore) else parse_url(store)
    return Path(f"{url.database}.spool" if url.get_backend_name() == "sqlite" else "spool").absolute()
