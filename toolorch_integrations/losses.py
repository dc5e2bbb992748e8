"""What capture lost: counted, and said once."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from toolorch_integrations.errors import CaptureWarning
from toolorch_integrations.events import Event, TraceAnnotated

_REMEMBERED_TRACES = 10_000


class Losses:
    """Counts of lost events, by reason, and by trace until they are written with it. Safe across threads."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self._by_trace: dict[str, Counter[str]] = {}
        self._of_unknown: dict[str, Counter[str]] = {}
        self._lock = threading.RLock()
        self._warning = ""
        self._warned = False

    def count(self, reason: str, trace_id: str = "", number: int = 1) -> None:
        """Count lost events."""
        with self._lock:
            self.dropped[reason] += number
            if trace_id and isinstance(trace_id, str):  # A faulty event may have anything for an id.
                _add(self._by_trace, {trace_id: Counter({reason: number})})
            if not self._warned:
                self._warned = True
                self._warning = f"capture loses events ({reason}); Recorder.dropped counts them, the app goes on"

    def take(self, most: int | None = None) -> dict[str, Counter[str]]:
        """Return the counts by trace that no trace's metadata has yet, and forget them.

        Args:
            most: Traces; None: all.
        """
        with self._lock:
            return {trace_id: self._by_trace.pop(trace_id) for trace_id in list(self._by_trace)[:most]}

    def take_of(self, trace_ids: Iterable[str]) -> dict[str, Counter[str]]:
        """Return the counts of some traces that their metadata does not have yet, and forget them."""
        taken: dict[str, Counter[str]] = {}
        if self._by_trace or self._of_unknown:
            with self._lock:
                for trace_id in trace_ids:
                    for counts in (self._by_trace, self._of_unknown):
                        if trace_id in counts:
                            _add(taken, {trace_id: counts.pop(trace_id)})
        return taken

    def give_back(self, counts: Mapping[str, Counter[str]]) -> None:
        """Keep counts that were taken, and could not be written."""
        with self._lock:
            _add(self._by_trace, counts)

    def keep(self, counts: Mapping[str, Counter[str]]) -> None:
        """Keep counts for traces that are not in the store, until an event of theirs comes: `take_of` gives them."""
        with self._lock:
            _add(self._of_unknown, counts)

    def warn(self) -> None:
        """Warn once after the first loss: on a thread of the app, since from another nobody would see it."""
        if self._warning:
            text, self._warning = self._warning, ""
            warnings.warn(text, CaptureWarning, stacklevel=3)


def without_notes(
    events: Sequence[Event], lost: Mapping[str, Counter[str]]
) -> tuple[list[Event], dict[str, Counter[str]]]:
    """Return events without those that only say what another process has lost, and what they say with other losses."""
    rest: list[Event] = []
    total = {trace_id: Counter(counts) for trace_id, counts in lost.items()}
    for event in events:
        if isinstance(event, TraceAnnotated) and event.is_note:
            total.setdefault(event.trace_id, Counter()).update(event.lost)
        else:
            rest.append(event)
    return rest, total


def _add(known: dict[str, Counter[str]], counts: Mapping[str, Counter[str]]) -> None:
    for trace_id, lost in counts.items():
        if trace_id in known or len(known) < _REMEMBERED_TRACES:
            known.setdefault(trace_id, Counter()).update(lost)
