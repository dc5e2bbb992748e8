"""One run's capture in memory: whatever the app calls, the run becomes one trace, and only once it has ended."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

from toolorch_integrations.capture import CaptureSession
from toolorch_integrations.decoding import Decoder
from toolorch_integrations.events import EncodedEvents, Event, PolicyCalled, TraceAnnotated, TraceStarted
from toolorch_integrations.graph import TraceGraph
from toolorch_integrations.journal import Journal
from toolorch_integrations.losses import Losses
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.store import TraceStore
from toolorch_integrations.trace import Trace, TraceHeader

logger = logging.getLogger(__name__)


class RunRecorder:
    """Stands where a `Recorder` stands in a capture session, and keeps what happens for one trace.

    An app may start several graphs, or ask models outside of any: all of it is the same run. Nothing is written
    anywhere, so that a run which is given up leaves nothing half written; what comes after `close` is not heard.

    Args:
        trace_id: Id of the trace.
        before: Events of an earlier run that this one goes on from.
    """

    def __init__(self, trace_id: str, before: Iterable[Event] = ()) -> None:
        self.trace_id = trace_id
        self.dropped: Counter[str] = Counter()
        self._items: list[Event | EncodedEvents] = list(before)
        self._closed = False

    @property
    def trace_ids(self) -> list[str]:
        """The run's id."""
        return [self.trace_id]

    def put(self, event: Event | EncodedEvents, *, durable: bool = False) -> None:
        """Keep an event, or what it is decoded from; from any thread."""
        if not self._closed:
            self._items.append(event)

    def flush(self, timeout: float | None = None) -> bool:
        """Return at once: nothing is waiting."""
        return True

    def close(self, timeout: float | None = None) -> bool:
        """Hear nothing more."""
        self._closed = True
        return True

    def session(self) -> CaptureSession:
        """Return a capture scope that this recorder hears."""
        return CaptureSession(cast(Recorder, self), False, 0.0)

    def events(self) -> list[Event]:
        """Return what happened, in order; what cannot be decoded is counted in `dropped`."""
        losses = Losses()
        decode = Decoder(losses)
        found = [replace(event, trace_id=self.trace_id) for item in self._items for event in decode(item)]
        self.dropped += losses.dropped
        self._items = list(found)
        return found

    def trace(self, metadata: Mapping[str, Any] | None = None) -> Trace:
        """Return the run as a trace.

        Args:
            metadata: JSON values for the trace's own.
        """
        events = self.events()
        journal = Journal(cast(TraceStore, _Nowhere()))
        begun = False
        for event in [*events, TraceAnnotated(self.trace_id, metadata=dict(metadata or {}))]:
            if isinstance(event, TraceStarted):
                if begun and not event.resume:
                    continue  # the run is one, however many graphs the app starts in it
                begun = True
            try:
                journal.prepare(event)
                journal.apply(event)
            except Exception:
                logger.exception("an event of rollout %s could not be applied", self.trace_id)
                self.dropped["decode"] += 1
        if self.dropped:
            journal.count_lost(self.trace_id, self.dropped)
        return _trace_of(journal)


def policy_failure(events: Iterable[Event]) -> str:
    """Return the words in which a policy call failed that the policy itself is not to blame for, or an empty text."""
    for event in events:
        if not isinstance(event, PolicyCalled) or not event.is_policy or event.reply is not None:
            continue
        if not any(name in event.error for name in _OWN_FAULTS):
            return event.error or event.status.value
    return ""


_OWN_FAULTS = ("BadRequest", "ContextOverflow", "UnprocessableEntity")
"""Errors that a request itself causes, such as a conversation that has grown too long."""


def _trace_of(journal: Journal) -> Trace:
    [written] = journal.pending()
    header = {name: getattr(written.header, name) for name in TraceHeader.__dataclass_fields__}
    graph = TraceGraph()
    for node in written.nodes:
        graph.append(node)
    trace = Trace(**header, graph=graph, snapshots=dict(written.snapshots))
    for call in written.calls:
        trace.add_call(call)
    return trace


class _Nowhere:
    """A store without traces."""

    def find(self, trace_id: str) -> None:
        return None

    def interrupted_trace(self, thread_id: str, app: str, framework: str) -> None:
        return None

    def trace_of_run(self, run_id: str) -> None:
        return None
