"""What Prometheus reads: requests, runs, calls, dollars, seconds, tokens, routing shares and capture losses."""

from __future__ import annotations

import threading
import time
from collections import Counter as Counts
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from toolorch_integrations.capture import CaptureSession
from toolorch_integrations.detached import DetachedRecorder
from toolorch_integrations.ledger import Call, CallKind
from toolorch_integrations.versions import VersionRouter

SHARE_SECONDS = 900
"""Over which time routing shares are taken."""
_REASONS = ("overflow", "store", "spool", "decode", "redaction", "closed")
_MOST_NAMES = 500
"""Different models and entries that get figures of their own: more would be somebody's mistake."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_DOLLARS = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1, 5)


class Metrics:
    """The gateway's figures, in a registry of their own. Safe across threads.

    Attributes:
        registry: For figures of one's own.
        running: Requests being answered; set by the app.

    Args:
        session: Whose losses and backlog are shown.
        router: Whose versions are shown.
        wire: Recorder of the proxy, whose losses and backlog are added.
    """

    def __init__(
        self,
        session: CaptureSession | None = None,
        router: VersionRouter | None = None,
        wire: DetachedRecorder | None = None,
    ) -> None:
        self.registry = registry = CollectorRegistry()
        self._names: set[str] = set()
        self._shares = _Shares(SHARE_SECONDS)
        self._requests = Counter("toolorch_requests", "Requests answered.", ["route", "status"], registry=registry)
        self._request_seconds = Histogram(
            "toolorch_request_seconds", "Until the last byte.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.running = 0
        in_flight = Gauge("toolorch_requests_in_flight", "Requests being answered.", registry=registry)
        in_flight.set_function(lambda: self.running)
        self._runs = Counter(
            "toolorch_runs", "Runs of orchestrators.", ["orchestrator", "status", "version"], registry=registry
        )
        self._run_dollars = Histogram(
            "toolorch_run_dollars", "What a run cost.", ["orchestrator"], buckets=_DOLLARS, registry=registry
        )
        labels = ["name", "kind", "status"]
        self._calls = Counter("toolorch_calls", "Policy, specialist and tool calls of runs.", labels, registry=registry)
        self._call_dollars = Counter("toolorch_call_dollars", "What they cost.", labels[:2], registry=registry)
        self._call_seconds = Counter("toolorch_call_seconds", "How long they took.", labels[:2], registry=registry)
        self._tokens = Counter(
            "toolorch_tokens", "Tokens read and written by models.", ["name", "kind", "direction"], registry=registry
        )
        self._proxied = Counter(
            "toolorch_policy_calls", "Calls passed on to the policy server.", ["model", "status"], registry=registry
        )
        self._proxied_seconds = Histogram(
            "toolorch_policy_call_seconds", "Until the last byte.", ["model"], buckets=_SECONDS, registry=registry
        )
        registry.register(_Live(self._shares, session, router, wire))

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Args:
            route: The route's pattern, such as `/v1/traces/{id}`; never what the client wrote.
            status: HTTP status.
            seconds: Until its last byte.
        """
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def run_ended(self, orchestrator: str, status: str, calls: Iterable[Call], version: str = "") -> None:
        """Count a run of an orchestrator.

        Args:
            orchestrator: Its name.
            status: How it ended: answered, budget, error ...
            calls: Its ledger: policy, specialist and tool calls.
            version: Of the policy that answered.
        """
        made = list(calls)
        self._runs.labels(orchestrator, status, self._bounded(version)).inc()
        self._run_dollars.labels(orchestrator).observe(sum(call.dollars for call in made))
        for call in made:
            name, kind = self._bounded(call.name), call.kind.value
            self._calls.labels(name, kind, call.status.value).inc()
            self._call_dollars.labels(name, kind).inc(max(0.0, call.dollars))
            self._call_seconds.labels(name, kind).inc(max(0.0, call.seconds))
            self._count_tokens(name, kind, call.input_tokens, call.output_tokens)
            if call.kind is not CallKind.POLICY:
                self._shares.add(name)

    def policy_call(self, model: str, status: int, seconds: float, input_tokens: int, output_tokens: int) -> None:
        """Count a call that the proxy passed on to the policy server.

        Args:
            model: That answered, as the server names it.
            status: HTTP status; 0: the server gave none.
            seconds: Until its last byte.
            input_tokens: 0 where not known.
            output_tokens: 0 where not known.
        """
        name = self._bounded(model)
        self._proxied.labels(name, str(status)).inc()
        self._proxied_seconds.labels(name).observe(seconds)
        self._count_tokens(name, "policy", input_tokens, output_tokens)

    def exposition(self) -> bytes:
        """Return all figures in Prometheus's text format."""
        return generate_latest(self.registry)

    def _count_tokens(self, name: str, kind: str, read: int, written: int) -> None:
        if read or written:
            self._tokens.labels(name, kind, "input").inc(read)
            self._tokens.labels(name, kind, "output").inc(written)

    def _bounded(self, name: str) -> str:
        if name not in self._names:
            if len(self._names) >= _MOST_NAMES:
                return "other"
            self._names.add(name)
        return name


class _Shares:
    """Calls by name over the last while. Safe across threads."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._width = seconds / 15
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: deque[tuple[int, Counts[str]]] = deque(maxlen=15)

    def add(self, name: str) -> None:
        now = int(self._clock() / self._width)
        with self._lock:
            if not self._buckets or self._buckets[-1][0] != now:
                self._buckets.append((now, Counts()))
            self._buckets[-1][1][name] += 1

    def now(self) -> dict[str, float]:
        oldest = int(self._clock() / self._width) - 15
        with self._lock:
            total = sum((counts for at, counts in self._buckets if at > oldest), Counts())
        return {name: number / total.total() for name, number in total.items()}


class _Live(Collector):
    """Figures that are read when they are asked for."""

    def __init__(
        self,
        shares: _Shares,
        session: CaptureSession | None,
        router: VersionRouter | None,
        wire: DetachedRecorder | None,
    ) -> None:
        self._shares = shares
        self._wire = wire
        self._session = session
        self._router = router

    def collect(self) -> Iterator[Metric]:
        minutes = SHARE_SECONDS // 60
        shares = GaugeMetricFamily(
            "toolorch_routing_share", f"Of the calls of runs that ended in the last {minutes} minutes.", labels=["name"]
        )
        for name, share in self._shares.now().items():
            shares.add_metric([name], share)
        yield shares
        if self._session is not None:
            yield from _capture(self._session, self._wire)
        if self._router is not None:
            routes = self._router.routes
            versions = GaugeMetricFamily(
                "toolorch_policy_version", "Share of the conversations by policy version.", labels=["version", "role"]
            )
            versions.add_metric([routes.current, "current"], 1 - routes.share if routes.candidate else 1.0)
            if routes.candidate:
                versions.add_metric([routes.candidate, "candidate"], routes.share)
            yield versions


def _capture(session: CaptureSession, wire: DetachedRecorder | None) -> Iterator[Metric]:
    lost, waiting = Counts(session.dropped), session.recorder.spooled_bytes
    if wire is not None:
        lost.update(wire.dropped)
        waiting += wire.spooled_bytes
    dropped = CounterMetricFamily("toolorch_capture_dropped", "Captured events that were lost.", labels=["reason"])
    for reason in sorted({*_REASONS, *lost}):
        dropped.add_metric([reason], lost.get(reason, 0))
    yield dropped
    backlog = "Bytes of captured events on disk that the store may not have yet."
    yield GaugeMetricFamily("toolorch_spool_bytes", backlog, waiting)
