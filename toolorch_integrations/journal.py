"""The open traces of a recorder: events go in, and what a store has to add comes out.

Only the recorder's writer thread uses a journal. `prepare` may read the store and can be repeated; `apply` reads
nothing and changes memory only; `pending` says what is not in the store yet.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from toolorch_integrations.events import (
    CallEnded,
    Event,
    PolicyCalled,
    TraceAnnotated,
    TraceEnded,
    TraceStarted,
    TraceStatus,
)
from toolorch_integrations.open_trace import OpenTrace
from toolorch_integrations.owner import Owner
from toolorch_integrations.plain import plain
from toolorch_integrations.store import TraceStore, TraceWrite
from toolorch_integrations.trace import TraceHeader

MAX_OPEN = 256
"""Traces whose graphs are kept in memory; one more is loaded from the store when an event asks for it."""

MAX_ALIASES = 10_000
"""Resumed runs whose own id is still mapped to their trace."""


class Journal:
    """Open traces, by id.

    Attributes:
        store: Where traces are read from.
        running: Ids of traces that this journal knows as running.
    """

    def __init__(self, store: TraceStore, app: str = "") -> None:
        self._app = app
        self.store = store
        self.running: set[str] = set()
        self._open: OrderedDict[str, OpenTrace] = OrderedDict()
        self._aliases: OrderedDict[str, str] = OrderedDict()
        self._owner = Owner.current()
        self._absent: set[str] = set()

    def look_up(self, events: Sequence[Event]) -> None:
        """Ask the store once which traces of a batch it lacks, so that `prepare` does not ask for each.

        Raises:
            SQLAlchemyError: The store cannot be read now.
        """
        wanted = {self.resolve(event.trace_id) for event in events} - self._open.keys()
        self._absent = wanted - self.store.known(wanted) if len(wanted) > 1 else set()

    def resolve(self, trace_id: str) -> str:
        """Return the id of the trace that a run writes to: another than its own where it resumed one."""
        return self._aliases.get(trace_id, trace_id)

    def prepare(self, event: Event) -> None:
        """Have the event's trace in memory; reads the store where it must.

        Raises:
            SQLAlchemyError: The store cannot be read now; nothing has changed.
        """
        if isinstance(event, TraceStarted) and event.resume and event.thread_id:
            found = self._interrupted(event)
            if found is not None and event.trace_id not in self._open:
                self._alias(event.trace_id, found)
        key = self.resolve(event.trace_id)
        trace = self._open.get(key)
        if trace is not None and not trace.lost:
            self._open.move_to_end(key)
            return
        loaded = self._load(key)
        if loaded is None and trace is None and not isinstance(event, TraceStarted):
            found = self.store.trace_of_run(key)
            if found is not None:  # A run that a process before this one resumed.
                self._alias(key, found)
                self.prepare(event)
                return
        if trace is None:
            self._open[key] = loaded or OpenTrace(TraceHeader(id=key, owner=self._owner))
        else:
            trace.take_graph(loaded or OpenTrace(TraceHeader(id=key)))
        self._open.move_to_end(key)

    def reopen(self, trace_ids: Iterable[str]) -> None:
        """Have those traces in memory that the store has, and whole again those that lost a part; reads the store.

        Raises:
            SQLAlchemyError: The store cannot be read now.
        """
        wanted = {self.resolve(trace_id) for trace_id in trace_ids} - self._open.keys()
        for key in self.store.known(wanted) if wanted else ():
            if (loaded := self._load(key)) is not None:
                self._open[key] = loaded
        for key, trace in self._open.items():
            if trace.lost:
                trace.take_graph(self._load(key) or OpenTrace(TraceHeader(id=key)))

    def apply(self, event: Event) -> None:
        """Add an event to its trace, which `prepare` has put in memory."""
        trace = self._open[self.resolve(event.trace_id)]
        header = trace.header
        trace.changed = True
        match event:
            case TraceStarted():
                self._start(header, event)
                if header.id != event.trace_id:
                    trace.runs_pending.append(event.trace_id)
            case TraceAnnotated():
                trace.annotate(event)
            case PolicyCalled():
                trace.add_policy_call(event)
            case CallEnded():
                trace.add_call(event)
            case TraceEnded():
                trace.end(event)
        if header.status is TraceStatus.RUNNING:
            self.running.add(header.id)
        else:
            self.running.discard(header.id)

    def count_lost(self, trace_id: str, lost: Mapping[str, int]) -> bool:
        """Note in a trace's metadata that events of it were dropped; False for a trace that is not open."""
        trace = self._open.get(self.resolve(trace_id))
        if trace is not None:
            trace.count_lost(lost)
        return trace is not None

    def pending(self) -> list[TraceWrite]:
        """Return what the store does not have yet."""
        return [trace.pending() for trace in self._open.values() if trace.changed and not trace.lost]

    @property
    def lacks_part(self) -> bool:
        """Whether a part of a trace was given up, and the store does not know of it: `reopen` is the way out."""
        return any(trace.lost for trace in self._open.values())

    def stored(self, writes: list[TraceWrite]) -> None:
        """Take note that the store has what `pending` returned; traces that ended are let go."""
        self._absent.clear()
        for entry in writes:
            trace = self._open[entry.header.id]
            trace.nodes_stored += len(entry.nodes)
            trace.clear_pending()
            trace.changed = False
            if trace.header.status is not TraceStatus.RUNNING:
                del self._open[entry.header.id]
        excess = len(self._open) - MAX_OPEN
        if excess > 0:
            whole = [key for key, trace in self._open.items() if not trace.changed]
            for key in whole[:excess]:
                del self._open[key]

    def forget(self, writes: list[TraceWrite], reason: str = "") -> None:
        """Give up what could not be stored: graphs are read back from the store before anything is added.

        Args:
            writes: What `pending` returned.
            reason: Why, for the traces' metadata; empty: the events will be applied again, nothing is lost.
        """
        self._absent.clear()
        for entry in writes:
            trace = self._open[entry.header.id]
            lost = len(entry.nodes) + len(entry.calls)
            trace.clear_pending()
            if not reason:
                del self._open[entry.header.id]
                continue
            trace.lost = True
            if lost:
                trace.count_lost({reason: lost})

    def reset(self) -> None:
        """Forget all open traces: they are read back from the store, which is the truth. Resumed runs stay known."""
        self._open.clear()
        self._absent.clear()

    def interrupt_running(self) -> None:
        """Mark the traces in memory that still run as interrupted, as their recorder ends."""
        for trace in self._open.values():
            if trace.header.status is TraceStatus.RUNNING:
                trace.header.status, trace.header.ended = TraceStatus.INTERRUPTED, time.time()
                trace.changed = True

    def _alias(self, run_id: str, trace_id: str) -> None:
        self._aliases[run_id] = trace_id
        while len(self._aliases) > MAX_ALIASES:
            self._aliases.popitem(last=False)

    def _start(self, header: TraceHeader, event: TraceStarted) -> None:
        if header.id == event.trace_id and not header.totals.turns:  # Else it goes on, perhaps in another process.
            header.started = event.started
            header.request = event.request or header.request
        header.framework = event.framework or header.framework
        header.app = self._app or event.app or header.app
        header.thread_id = event.thread_id or header.thread_id
        header.metadata |= plain(dict(event.metadata))
        header.status, header.ended, header.owner, header.error = TraceStatus.RUNNING, None, self._owner, ""

    def _interrupted(self, event: TraceStarted) -> str | None:
        """Return the trace that a resumed run goes on with: of the same conversation, app and framework."""
        app = self._app or event.app
        for key, trace in reversed(self._open.items()):
            header = trace.header
            same = header.thread_id == event.thread_id and header.app == (app or header.app)
            same = same and header.framework == (event.framework or header.framework)
            if same and header.status is TraceStatus.INTERRUPTED:
                return key
        return self.store.interrupted_trace(event.thread_id, app, event.framework)

    def _load(self, key: str) -> OpenTrace | None:
        trace = None if key in self._absent else self.store.find(key)
        if trace is None:
            return None
        header = TraceHeader(**{name: getattr(trace, name) for name in TraceHeader.__dataclass_fields__})
        return OpenTrace(header, trace.graph, len(trace.calls), len(trace.graph), changed=False)
