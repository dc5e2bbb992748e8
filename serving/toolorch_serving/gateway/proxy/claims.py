"""Whose a trace is that a client names: asked of the store where the index has forgotten, or never knew."""

from __future__ import annotations

import logging
import time
from functools import partial

from toolorch_integrations.steps import awithin
from toolorch_integrations.store import TraceStore
from toolorch_integrations.wire_call import CALLER
from toolorch_integrations.workers import in_worker
from toolorch_serving.gateway.proxy.conversations import trace_taken

logger = logging.getLogger(__name__)

_SECONDS = 1.0
"""How long a call waits for the store's answer."""
_PAUSE = 5.0
"""Seconds for which the store is not asked again after it did not answer."""


class Claims:
    """Knows who began the traces of a store, whichever gateway captured them. Used on one event loop.

    It takes no part in capture: a call whose trace's owner cannot be asked for now passes as if nobody had begun it.

    Args:
        store: Where the traces are; read only.
    """

    def __init__(self, store: TraceStore) -> None:
        self._store = store
        self._not_before = 0.0

    async def check(self, trace_id: str, caller: str) -> None:
        """Refuse a caller who names a trace that the store has, and that he did not begin.

        Raises:
            ConflictError: Another began it, or it was not captured by a proxy.
        """
        if time.monotonic() < self._not_before:
            return
        try:
            header = await awithin(_SECONDS, in_worker(partial(self._store.header, trace_id)))
        except Exception as error:  # whatever it is: the client's call is worth more
            self._not_before = time.monotonic() + _PAUSE
            logger.warning("the store cannot be asked who began trace %s: %s", trace_id, error)
            return
        if header is not None and header.metadata.get(CALLER) != caller:
            raise trace_taken(trace_id)
