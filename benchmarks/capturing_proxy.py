"""What the capturing proxy costs: requests a second and added time against the policy server asked directly.

    python benchmarks/capturing_proxy.py
    python benchmarks/capturing_proxy.py --calls 200000 --gateway full
    PATH=~/peers/bin:$PATH python benchmarks/capturing_proxy.py

A mock policy server answers at once, with 2,000 prompt ids and more and 150 sampled ids with log-probabilities: with
JSON that FastAPI builds for each request, or with bytes made beforehand (`--mock`, see `proxy_load.py`). Server,
gateway, the gateway's writer and the clients are processes of their own. Direct and through the gateway take turns, in
short rounds, and each figure is the median of the rounds' ratios: so what else the machine does meets both. Peers
(rllm-model-gateway, litellm) are measured in the same rounds where their commands are found.

Bytes a call are those of conversations of ten calls that end at 2,000 prompt ids, as in `capture_store.py`. `--calls`
holds as many calls, and says what memory the gateway and its writer took on the way.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

LOAD = Path(__file__).with_name("proxy_load.py")
MANY = 32
BAR_RATIO, BAR_MILLISECONDS, BAR_BYTES = 0.5, 1.0, 4096
BAR_GROWTH = 0.1
"""Share by which memory may grow over the second half of many calls."""


@dataclass
class Way:
    """One way to the policy server."""

    name: str
    url: str
    process: subprocess.Popen[bytes] | None = None
    calls: list[int] = field(default_factory=list)
    """Answered calls of each measurement."""
    rates: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], url: str, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends.

    Raises:
        TimeoutError: It does not listen within two minutes.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | environment)
    try:
        wait_for(url, process)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until something listens at a URL."""
    give_up = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        if time.monotonic() > give_up or process.poll() is not None:
            raise TimeoutError(f"{process.args!r} does not listen")
        time.sleep(0.1)


_numbers = count(1_000_000, 1_000_000)
"""Where each measurement begins to number its conversations: no two are alike."""


def ask(way: Way, clients: int, seconds: float, calls: int | None = None) -> dict[str, float]:
    """Have a process of its own hold conversations."""
    first = next(_numbers)
    command = [sys.executable, str(LOAD), "ask", way.url, str(clients), str(seconds), str(first)]
    done = subprocess.run(
        command + ([] if calls is None else [str(calls)]), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{way.name}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout)
    way.calls.append(int(found["calls"]))
    return found


def gateway_command(kind: str, port: int, upstream: str, folder: Path) -> list[str]:
    """Return the command of the gateway: the proxy alone, or the whole gateway."""
    if kind == "proxy":
        return [sys.executable, str(LOAD), "gateway", str(port), upstream, str(folder / "traces.db")]
    config = folder / "gateway.toml"
    store = f'[store]\nurl = "sqlite:///{folder}/traces.db"\n'
    config.write_text(f'[server]\nport = {port}\n{store}[policy]\nurl = "{upstream}"\nmodel = "policy"\n')
    return [str(Path(sys.executable).with_name("toolorch")), "serve", "gateway", str(config)]


@dataclass(frozen=True)
class Peer:
    """A gateway of others."""

    command: tuple[str, ...]
    health: str
    path: str
    config: str = ""
    environment: tuple[tuple[str, str], ...] = ()


PEERS = {
    "rllm-model-gateway": Peer(
        ("--worker", "{upstream}", "--db-path", "{folder}/rllm.db"), "/health", "/sessions/one/v1"
    ),
    "litellm": Peer(
        ("--config", "{folder}/litellm.yaml"),
        "/health/liveliness",
        "/v1",
        "model_list:\n  - model_name: policy\n    litellm_params:\n      model: openai/policy\n"
        "      api_base: {upstream}\n      api_key: none\n",
        # It looks for a list of prices on the network, and refuses to start without a key.
        (("LITELLM_LOCAL_MODEL_COST_MAP", "True"), ("LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY", "true")),
    ),
}


@contextlib.contextmanager
def peers(upstream: str, folder: Path) -> Iterator[list[Way]]:
    """Start the peers whose commands are found; say which are not."""
    found: list[Way] = []
    with contextlib.ExitStack() as stack:
        for name, peer in PEERS.items():
            program = shutil.which(name)
            if program is None:
                print(f"{name}: its command is not found, so it is not measured")
                continue
            (folder / f"{name}.yaml").write_text(peer.config.format(upstream=upstream))
            port = free_port()
            url = f"http://127.0.0.1:{port}"
            options = [word.format(upstream=upstream, folder=folder) for word in peer.command]
            try:
                command = [program, "--port", str(port), *options]
                log = folder / f"{name}.log"
                stack.enter_context(running(command, url + peer.health, log, **dict(peer.environment)))
                way = Way(name, f"{url}{peer.path}/chat/completions")
                ask(way, 1, 60.0, 10)
                found.append(way)
            except (TimeoutError, SystemExit) as error:
                print(f"{name}: it is not measured: {str(error)[-300:]}")
        yield found


def measure(ways: list[Way], rounds: int, seconds: float) -> None:
    """Ask all ways in turn, with one client and with many."""
    for way in ways:
        ask(way, MANY, 1.0)
    for _ in range(rounds):
        for way in ways:
            way.medians.append(ask(way, 1, seconds)["median"])
        for way in ways:
            way.rates.append(ask(way, MANY, seconds)["rate"])


def show(ways: list[Way]) -> tuple[float, float]:
    """Print the figures; return the gateway's ratio of requests a second, and the milliseconds that it adds."""
    direct = ways[0]
    head = ("", "requests/s, 32 clients", "of direct", "median ms, 1 client", "added ms")
    table = Table(*head, title="medians of the rounds")
    figures = {}
    for way in ways:
        ratio = statistics.median(ours / theirs for ours, theirs in zip(way.rates, direct.rates, strict=True))
        added = statistics.median(ours - theirs for ours, theirs in zip(way.medians, direct.medians, strict=True))
        rate, median = statistics.median(way.rates), statistics.median(way.medians)
        table.add_row(way.name, f"{rate:,.0f}", f"{ratio:.2f}", f"{median:.2f}", f"{added:.2f}")
        figures[way.name] = ratio, added
    Console(width=110).print(table)
    return figures["gateway"]


def memory(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Return the megabytes that the gateway and its writer hold."""
    gateway = psutil.Process(process.pid)
    sizes = {"gateway": gateway.memory_info().rss / 1e6}
    for child in gateway.children():
        if "detached_writer" in " ".join(child.cmdline()):
            sizes["writer"] = child.memory_info().rss / 1e6
    return sizes


def processor_seconds(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Return the processor time that the gateway and its writer have taken."""
    gateway = psutil.Process(process.pid)
    return {
        "gateway" if one is gateway else "writer": sum(one.cpu_times()[:2]) for one in (gateway, *gateway.children())
    }


def hold(way: Way, process: subprocess.Popen[bytes], calls: int) -> bool:
    """Make many calls; say whether memory stayed flat over the second half of them."""
    begin = memory(process)
    begun = time.perf_counter()
    ask(way, MANY, 1e6, calls // 2)
    middle = memory(process)
    ask(way, MANY, 1e6, calls - calls // 2)
    end = memory(process)
    print(f"{calls:,} calls in {time.perf_counter() - begun:.0f} s; megabytes at the start, in the middle, at the end:")
    for name in end:
        print(f"  {name:<8} {begin.get(name, 0.0):6.0f} {middle.get(name, 0.0):6.0f} {end[name]:6.0f}")
    return all(size <= middle.get(name, size) * (1 + BAR_GROWTH) for name, size in end.items())


def stored(folder: Path, least: int) -> tuple[int, int, float]:
    """Return calls and bytes of a store once it has so many calls, and the seconds that this took."""
    begun = time.perf_counter()
    with contextlib.closing(sqlite3.connect(folder / "traces.db", timeout=30)) as connection:
        while True:
            found = connection.execute("SELECT coalesce(sum(turns), 0) FROM traces").fetchone()[0]
            if found >= least or time.perf_counter() - begun > 600:
                break
            time.sleep(0.2)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return int(found), (folder / "traces.db").stat().st_size, time.perf_counter() - begun


def bytes_a_call(kind: str, folder: Path, conversations: int = 100) -> float:
    """Return what a call takes in the store, in conversations of ten that end at 2,000 prompt ids."""
    folder.mkdir()
    first = {"PROXY_LOAD_FIRST": str(2_000 - 9 * (150 + 25))}
    os.environ.update(first)
    with mock("ready", folder) as upstream, gateway(kind, upstream, folder) as (way, _):
        calls = int(ask(way, 8, 1e6, conversations * 10)["calls"])
        number, size, _ = stored(folder, calls)
    del os.environ["PROXY_LOAD_FIRST"]
    if number < calls:
        raise SystemExit(f"{calls - number} of {calls} calls are not in the store")
    return size / calls


@contextlib.contextmanager
def mock(kind: str, folder: Path) -> Iterator[str]:
    """Run the policy server, `ready` or `built`; gives its base URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    with running([sys.executable, str(LOAD), "serve", str(port), kind], f"{url}/models", folder / "mock.log"):
        yield url


@contextlib.contextmanager
def gateway(kind: str, upstream: str, folder: Path) -> Iterator[tuple[Way, subprocess.Popen[bytes]]]:
    """Run the gateway."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    with running(gateway_command(kind, port, upstream, folder), f"{url}/models", folder / "gateway.log") as process:
        yield Way("gateway", f"{url}/chat/completions"), process


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--calls", type=int, default=0, help="hold so many calls to see the memory; 0: leave it out")
    parser.add_argument("--gateway", choices=("proxy", "full"), default="proxy", help="the proxy alone, or all of it")
    parser.add_argument("--mock", choices=("built", "ready"), default="built", help="what its answers are")
    options = parser.parse_args()
    kept: list[tuple[str, bool]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = bytes_a_call(options.gateway, folder / "bytes")
        with mock(options.mock, folder) as upstream, gateway(options.gateway, upstream, folder) as (way, process):
            with peers(upstream, folder) as others:
                ways = [Way("direct", f"{upstream}/chat/completions"), way, *others]
                before, earlier = processor_seconds(process), sum(way.calls)
                measure(ways, options.rounds, options.seconds)
                ratio, added = show(ways)
                stored(folder, sum(way.calls))
                for name_of, seconds in processor_seconds(process).items():
                    spent = (seconds - before[name_of]) / (sum(way.calls) - earlier)
                    print(f"{name_of} takes {spent * 1e3:.2f} ms of a processor a call")
            if options.calls:
                kept.append(("memory is flat", hold(way, process, options.calls)))
            number, total, seconds = stored(folder, sum(way.calls))
    print(f"the writer had stored all {number:,} calls {seconds:.0f} s after the last answer")
    if number < sum(way.calls):
        raise SystemExit(f"{sum(way.calls) - number} calls are not in the store")
    print(f"stored: {size:,.0f} bytes a call (limit {BAR_BYTES:,}); of the heavier load {total / max(number, 1):,.0f}")
    kept += [("ratio", ratio >= BAR_RATIO), ("added", added <= BAR_MILLISECONDS), ("bytes", size <= BAR_BYTES)]
    missed = [what for what, fine in kept if not fine]
    if missed:
        raise SystemExit(f"a limit is not kept: {', '.join(missed)}")


if __name__ == "__main__":
    main()
