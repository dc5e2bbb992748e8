"""What a spool costs: `put` with and without one, and what stores take from one and from four processes.

    python -m benchmarks.capture_spool

The calls are those of `capture_store`: prompts that grow to 2,000 ids, 150 sampled ids with log-probabilities. Ratios
compare figures of one run; the limit is that a call is put within 200 microseconds, as without a spool. PostgreSQL is
a real server, of the machine's own binaries or the embedded wheel's, with fsync as it comes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
import uuid
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.capture_store import CALLS, PUT_LIMIT, conversation
from tests.postgres import running_server
from toolorch_integrations.events import Event, PolicyCalled
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.spool import Spool
from toolorch_integrations.store import TraceStore


def microseconds_of_put(store: Path, runs: list[list[Event]], spool: Spool | None) -> float:
    """Return the median time of `put`, with an app that pauses between calls as one that waits for a server does."""
    recorder = Recorder(store, spool=spool)
    recorder.put(runs[0][0])
    recorder.flush()
    times = []
    for run in runs:
        for event in run:
            begun = time.perf_counter()
            recorder.put(event)
            if isinstance(event, PolicyCalled):
                times.append(time.perf_counter() - begun)
                recorder.flush()
    assert recorder.close()
    assert not recorder.dropped
    return statistics.median(times) * 1e6


def record(url: str, spool: Path | None, seeds: range, ready: Barrier, seconds: SimpleQueue[float]) -> None:
    """Write conversations as fast as the store takes them; one process."""
    runs = [conversation(seed) for seed in seeds]
    recorder = Recorder(url, spool=spool, max_events=10**6, max_bytes=10**10)
    ready.wait()
    begun = time.perf_counter()
    for run in runs:
        for event in run:
            recorder.put(event)
    assert recorder.flush(None)
    seconds.put(time.perf_counter() - begun)
    assert recorder.close()
    assert not recorder.dropped


def calls_per_second(url: str, spool: Path | None, processes: int, runs: int) -> float:
    """Return how many policy calls so many processes store in a second, together."""
    TraceStore.open(url).close()
    context = multiprocessing.get_context("spawn")
    ready, seconds = context.Barrier(processes), context.SimpleQueue()
    started = [
        context.Process(
            target=record, args=(url, spool, range(number * runs, (number + 1) * runs), ready, seconds), daemon=True
        )
        for number in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
        assert process.exitcode == 0
    with TraceStore.open(url) as store:
        assert store.stats().turns == processes * runs * CALLS
    return processes * runs * CALLS / max(seconds.get() for _ in started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="conversations a process")
    number = parser.parse_args().runs
    runs = [conversation(seed) for seed in range(number)]
    table = Table("measured", "value", "beside", "value", "ratio", title=f"{number * CALLS} policy calls a process")

    def row(what: str, value: float, unit: str, beside: str, other: float) -> None:
        table.add_row(what, f"{value:,.1f} {unit}", beside, f"{other:,.1f} {unit}", f"{value / other:.2f}")

    with tempfile.TemporaryDirectory() as name, running_server() as server:
        folder = Path(name)
        plain = microseconds_of_put(folder / "plain.db", runs, None)
        spooled = microseconds_of_put(folder / "spooled.db", runs, Spool(folder / "put"))
        synced = microseconds_of_put(folder / "synced.db", runs[:10], Spool(folder / "synced", fsync=True))
        rates = {
            (processes, spool): calls_per_second(
                server.new_database(), folder / uuid.uuid4().hex if spool else None, processes, number
            )
            for processes in (1, 4)
            for spool in (False, True)
        }
    row("put with a spool, median", spooled, "us", "put without", plain)
    row("put with a spool, median", spooled, "us", "limit a call", PUT_LIMIT)
    row("put with a spool and fsync, median", synced, "us", "put with a spool", spooled)
    row("PostgreSQL, 1 process, spool", rates[1, True], "calls/s", "without a spool", rates[1, False])
    row("PostgreSQL, 4 processes, spool", rates[4, True], "calls/s", "without a spool", rates[4, False])
    row("PostgreSQL, 4 processes, spool", rates[4, True], "calls/s", "1 process, spool", rates[1, True])
    Console(width=120).print(table)
    if spooled > PUT_LIMIT:
        raise SystemExit("a limit is not kept")


if __name__ == "__main__":
    main()
