"""From what adapters put to plain, redacted events: the work that a recorder does before anything is stored."""

from __future__ import annotations

import logging

from toolorch_integrations.events import EncodedEvents, Event
from toolorch_integrations.losses import Losses
from toolorch_integrations.redaction import Redact, Redactor

logger = logging.getLogger(__name__)


class Decoder:
    """Decodes what is no event yet, and redacts. Safe across threads as far as the hook is.

    Attributes:
        redacts: Whether a hook takes private text out.
    """

    def __init__(self, losses: Losses, redact: Redact | None = None, *, redact_token_ids: bool = True) -> None:
        """Take a recorder's hook; see `Redact`."""
        self.redacts = redact is not None
        self._redact = redact
        self._token_ids = redact_token_ids
        self._losses = losses

    def __call__(self, item: Event | EncodedEvents) -> list[Event]:
        """Return the events of an item; never raises: what is faulty is counted, and left out."""
        try:
            events = _events(item)
            if self._redact is None or not events:
                return events
            redactor = Redactor(self._redact, token_ids=self._token_ids)
            events = [redactor.event(event) for event in events]
            if redactor.failures:
                self._losses.count("redaction", events[0].trace_id, redactor.failures)
            return events
        except Exception:
            logger.exception("an event could not be decoded")
            self._losses.count("decode", trace_of(item))
            return []


def trace_of(item: object) -> str:
    """Return the trace of something that was put; empty for what is neither an event nor names one."""
    return getattr(item, "trace_id", "")


def _events(item: Event | EncodedEvents) -> list[Event]:
    events = [item] if isinstance(item, Event) else list(item.events())
    for event in events:
        if not isinstance(event, Event):
            raise TypeError(f"a recorder takes the events of toolorch_integrations.events, got {event!r}")
        if not isinstance(event.trace_id, str):  # It would cost all that is written with it.
            raise TypeError(f"trace_id of an event must be text, such as uuid.uuid4().hex, got {event.trace_id!r}")
    return events
