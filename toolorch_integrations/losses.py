"""What capture lost: counted, and said once."""

from __future__ import annotations

import threading
import warnings
from collections import Counter

from toolorch_integrations.errors import CaptureWarning

_REMEMBERED_TRACES = 10_000


class Losses:
    """Counts of lost events, by reason, and by trace until they are written with it. Safe across threads."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self._by_trace: dict[str, Counter[str]] = {}
        self._lock = threading.RLock()
        self._warning = ""
        self._warned = False

    def count(self, reason: str, trace_id: str = "", number: int = 1) -> None:
        """Count lost events."""
        with self._lock:
            self.dropped[reason] += number
            if trace_id:
                self.give_back({trace_id: Counter({reason: number})})
            if not self._warned:
                self._warned = True
                self._warning = f"capture loses events ({reason}); Recorder.dropped counts them, the app goes on"

    def take(self) -> dict[str, Counter[str]]:
        """Return the counts by trace that no trace's metadata has yet, and forget them."""
        with self._lock:
            taken, self._by_trace = self._by_trace, {}
            return taken

    def take_of(self, trace_id: str) -> Counter[str]:
        """Return the counts of one trace that its metadata does not have yet, and forget them."""
        with self._lock:
            return self._by_trace.pop(trace_id, Counter())

    def give_back(self, counts: dict[str, Counter[str]]) -> None:
        """Keep counts for traces that are not open now."""
        with self._lock:
            for trace_id, lost in counts.items():
                if trace_id in self._by_trace or len(self._by_trace) < _REMEMBERED_TRACES:
                    self._by_trace.setdefault(trace_id, Counter()).update(lost)

    def warn(self) -> None:
        """Warn once after the first loss: on a thread of the app, since from another nobody would see it."""
        if self._warning:
            text, self._warning = self._warning, ""
            warnings.warn(text, CaptureWarning, stacklevel=3)
