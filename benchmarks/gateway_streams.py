"""Many streaming clients at once: errors, lost traces, memory and the time to the first byte.

    python -m benchmarks.gateway_streams                         1,000 clients, 5 minutes
    python -m benchmarks.gateway_streams --clients 50 --seconds 15 --tokens 120
    python -m benchmarks.gateway_streams --postgres --outage 30

The gateway is the real command, with a key, the capturing proxy and a built-in orchestrator. Half of the clients hold
conversations with the policy through the proxy, the others ask the orchestrator, which asks the policy, one specialist
and the policy again. Policy and specialist are mocks that give so many tokens a second to each, in pieces as vLLM's
stream interval makes them, and think of nothing; they, the gateway, its writer and the clients are processes of their
own. Some clients leave in the middle, some read slowly, all think between two requests. `--outage` stops PostgreSQL for
so many seconds in the middle.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.streams_load import Load, Told
from benchmarks.streams_traces import lost
from benchmarks.streams_world import Server, world
from tests.postgres import PostgresServer, running_server

_SAMPLES = 11
"""Times at which memory is read."""
_FILES_A_CLIENT = 4


def main() -> None:
    """Measure and print."""
    options = _options()
    _allow_files(options.clients * _FILES_A_CLIENT + 1_000)
    pace = {
        "STREAMS_TOKENS": str(options.tokens),
        "STREAMS_RATE": str(options.rate),
        "STREAMS_PIECE": str(options.piece),
    }
    os.environ.update(pace)
    # They come within one cycle of asking and thinking: else all would ask at the same moments from then on.
    ramp = min(options.seconds / 4, 1.5 * options.tokens / options.rate + options.think)
    load = Load(options.clients, options.seconds, options.think, ramp)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(running_server()) if options.postgres else None
        store = server.new_database() if server is not None else str(folder / "traces.db")
        made = stack.enter_context(world(folder, store, pace))
        (gateway,) = made.gateways
        print(f"{load.clients:,} clients for {load.seconds:g} s; load average {os.getloadavg()[0]:.1f} at the start")
        begun, before = time.monotonic(), gateway.processor_seconds()
        clients = made.clients(gateway, load)
        memory = _watched(gateway, options.seconds, server, options.outage)
        told = clients.told(options.seconds + 600)
        took = time.monotonic() - begun
        print(f"load average {os.getloadavg()[0]:.1f} at the end")
        print(f"the gateway and its writer took {(gateway.processor_seconds() - before) / took:.2f} processors")
        wrong = lost(store, told)
        print(f"all traces were there {time.monotonic() - begun - took:.1f} s after the last answer")
        status = gateway.end()
        said = [line for line in gateway.said().splitlines() if "ERROR" in line or "Traceback" in line]
    _show(told, took, options)
    _show_memory(memory)
    print(f"lost or wrong traces: {len(wrong)}", *wrong[:10], sep="\n  ")
    print(f"the gateway ended with {status}", *said[:10], sep="\n  ")
    if told.errors or wrong or status:
        raise SystemExit("there are errors, or traces are lost")


def _watched(
    gateway: Server, seconds: float, server: PostgresServer | None, outage: float
) -> list[tuple[float, dict[str, float]]]:
    """Return memory over time; PostgreSQL is away in between, if so asked."""
    begun = time.monotonic()
    seen: list[tuple[float, dict[str, float]]] = []
    for moment in _moments(seconds):
        time.sleep(max(0.0, begun + moment - time.monotonic()))
        seen.append((time.monotonic() - begun, gateway.memory()))
        if server is not None and outage and len(seen) == _SAMPLES // 3:
            server.stop()
            time.sleep(outage)
            server.start()
            print(f"PostgreSQL was away for {outage:g} s")
    return seen


def _moments(seconds: float) -> Iterator[float]:
    return (seconds * number / (_SAMPLES - 1) for number in range(_SAMPLES))


def _show(told: Told, took: float, options: argparse.Namespace) -> None:
    orchestrated = len(told.orchestrated)
    proxied = sum(told.finished.values()) - orchestrated
    tokens = proxied * options.tokens + orchestrated * 3 * options.tokens // 2
    print(
        f"{told.requests:,} streams came to their end ({proxied:,} of the proxy, {orchestrated:,} of the "
        f"orchestrator), {len(told.left):,} were left; {len(told.finished):,} traces"
    )
    print(
        f"{told.requests / took:.1f} requests/s, {tokens / took:,.0f} tokens/s of the policy and the specialist, "
        f"{told.received / took / 1e3:,.0f} kB/s; {told.open_seconds / took:,.0f} streams open on average"
    )
    first = sorted(told.first_bytes)
    if first:
        late = first[min(len(first) - 1, int(len(first) * 0.99))]
        print(f"time to the first byte: median {statistics.median(first) * 1e3:.1f} ms, 99 % {late * 1e3:.0f} ms")
    print(f"errors: {len(told.errors)}", *Counter(words for words, _ in told.errors).most_common(10), sep="\n  ")


def _show_memory(memory: list[tuple[float, dict[str, float]]]) -> None:
    table = Table("seconds", *memory[0][1], title="megabytes")
    for moment, sizes in memory:
        table.add_row(f"{moment:.0f}", *(f"{size:.0f}" for size in sizes.values()))
    Console(width=80).print(table)


def _allow_files(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < number:
        raise SystemExit(f"so many clients need {number} open files and the limit is {hard}: raise `ulimit -n`")
    if soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=300.0, help="after which no new request begins")
    parser.add_argument("--tokens", type=int, default=600, help="of a streamed answer")
    parser.add_argument("--rate", type=float, default=30.0, help="tokens a second of each answer")
    parser.add_argument("--piece", type=int, default=8, help="tokens in a piece of a stream")
    parser.add_argument("--think", type=float, default=15.0, help="mean seconds between two requests of a client")
    parser.add_argument("--postgres", action="store_true", help="PostgreSQL in place of SQLite")
    parser.add_argument("--outage", type=float, default=0.0, help="seconds for which PostgreSQL stops")
    options = parser.parse_args()
    if options.outage and not options.postgres:
        parser.error("--outage stops PostgreSQL: give --postgres too")
    return options


if __name__ == "__main__":
    main()
