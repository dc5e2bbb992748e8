"""What capture costs in process: on the app's thread, on the writer thread, and on disk.

    python benchmarks/capture_store.py

The conversations have ten policy calls that grow to 2,000 prompt ids; each call samples 150 ids with
log-probabilities. Beside each figure stands what the same events cost otherwise, in the same run:

* the app's thread: writing each call to the store in place of putting it into the queue, and receiving the response
  that brings the ids at all (JSON parsing of a response with and without ids and log-probabilities);
* the writer: the same rows with whole prompts, which is what a log of requests and responses writes;
* the disk: the log's rows with ids and log-probabilities as JSON text, and as binary columns.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sqlite3
import statistics
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from toolorch_integrations.events import CallEnded, Event, PolicyCalled, TraceEnded, TraceStarted
from toolorch_integrations.graph import TraceGraph
from toolorch_integrations.journal import Journal
from toolorch_integrations.ledger import Call, CallKind
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.store import TraceStore

CALLS = 10
PROMPT_IDS = 2_000
SAMPLED_IDS = 150
DISK_LIMIT = 4_096
PUT_LIMIT = 200.0
PROSE = " ".join((__doc__ or "").split())


def text(generator: random.Random, tokens: int) -> str:
    """Return prose that a tokeniser would turn into about so many ids: four characters each."""
    start = generator.randrange(len(PROSE))
    return (PROSE[start:] + PROSE * (4 * tokens // len(PROSE) + 1))[: 4 * tokens]


def conversation(seed: int) -> list[Event]:
    """Return a run of `CALLS` policy calls with a tool call between each two; the last prompt has `PROMPT_IDS` ids."""
    generator = random.Random(seed)
    trace_id = uuid.UUID(int=generator.getrandbits(128)).hex
    observation = 25
    first = PROMPT_IDS - (CALLS - 1) * (SAMPLED_IDS + observation)
    prompt = [generator.randrange(150_000) for _ in range(first)]
    system, user = text(generator, first * 3 // 4), text(generator, first // 4)
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    events: list[Event] = [TraceStarted(trace_id, "langgraph", "benchmark", request=user)]
    for turn in range(CALLS):
        call_id = f"chatcmpl-tool-{generator.getrandbits(64):016x}"
        arguments = json.dumps({"query": text(generator, 60)})
        reply = {
            "role": "assistant",
            "content": "",
            "reasoning": text(generator, 80),
            "tool_calls": [{"id": call_id, "type": "function", "function": {"name": "search", "arguments": arguments}}],
        }
        ids = [generator.randrange(150_000) for _ in range(SAMPLED_IDS)]
        events.append(
            PolicyCalled(
                trace_id,
                list(messages),
                reply,
                list(prompt),
                ids,
                [-generator.expovariate(2.0) for _ in ids],
                model="policy-v3",
                response_id=f"chatcmpl-{generator.getrandbits(128):032x}",
                sampling={"temperature": 0.7, "top_p": 0.95, "max_tokens": 1024, "tool_choice": "auto"},
                logprobs_mode="processed_logprobs",
                finish_reason="tool_calls",
                usage={"prompt_tokens": len(prompt), "completion_tokens": len(ids)},
                started=1.7e9 + turn,
                seconds=generator.random(),
                dollars=1e-4,
            )
        )
        result = text(generator, observation)
        call = Call(CallKind.TOOL, "search", seconds=generator.random(), call_id=call_id, turn=turn + 1)
        events.append(CallEnded(trace_id, call, json.loads(arguments), result, 1.7e9 + turn))
        messages += [reply, {"role": "tool", "tool_call_id": call_id, "content": result}]
        prompt += [*ids, *(generator.randrange(150_000) for _ in range(observation))]
    events.append(TraceEnded(trace_id, answer="done"))
    return events


def policy_calls(runs: list[list[Event]]) -> list[PolicyCalled]:
    """Return the policy calls of runs."""
    return [event for run in runs for event in run if isinstance(event, PolicyCalled)]


def microseconds_of_put(folder: Path, runs: list[list[Event]]) -> float:
    """Return the median time of `put`, with an app that pauses between calls as one that waits for a server does."""
    recorder = Recorder(folder / "put.db")
    recorder.put(runs[0][0])
    recorder.flush()
    times = []
    for run in runs:
        for event in run:
            if isinstance(event, PolicyCalled):
                begun = time.perf_counter()
                recorder.put(event)
                times.append(time.perf_counter() - begun)
                recorder.flush()
            else:
                recorder.put(event)
    recorder.close()
    assert not recorder.dropped
    return statistics.median(times) * 1e6


def microseconds_of_writing(folder: Path, runs: list[list[Event]]) -> float:
    """Return the median time of writing a call on the app's thread, by the same code as the writer thread's."""
    store = TraceStore.open(folder / "direct.db")
    journal = Journal(store)
    times = []
    for run in runs:
        for event in run:
            begun = time.perf_counter()
            journal.prepare(event)
            journal.apply(event)
            writes = journal.pending()
            store.write(writes)
            journal.stored(writes)
            if isinstance(event, PolicyCalled):
                times.append(time.perf_counter() - begun)
    store.close()
    return statistics.median(times) * 1e6


def microseconds_of_receiving(call: PolicyCalled, rounds: int = 300) -> tuple[float, float]:
    """Return the median times of parsing a response as vLLM sends it, without and with ids and log-probabilities."""
    assert call.token_ids is not None
    assert call.logprobs is not None
    choice = {"index": 0, "message": call.reply, "finish_reason": "stop"}
    plain = {"id": call.response_id, "model": call.model, "choices": [choice], "usage": dict(call.usage)}
    content = [
        {"token": f"token_id:{token}", "logprob": logprob, "bytes": [1, 2, 3, 4], "top_logprobs": []}
        for token, logprob in zip(call.token_ids, call.logprobs, strict=True)
    ]
    rich_choice = choice | {"token_ids": call.token_ids, "logprobs": {"content": content}}
    rich = plain | {"prompt_token_ids": call.prompt_token_ids, "choices": [rich_choice]}
    medians = []
    for response in (plain, rich):
        body = json.dumps(response)
        times = []
        for _ in range(rounds):
            begun = time.perf_counter()
            json.loads(body)
            times.append(time.perf_counter() - begun)
        medians.append(statistics.median(times) * 1e6)
    return medians[0], medians[1]


def calls_per_second(folder: Path, runs: list[list[Event]]) -> tuple[float, float, Path]:
    """Return what the writer thread stores of policy calls in a second, megabytes of ids a second, and the file."""
    path = folder / "throughput.db"
    recorder = Recorder(path, max_events=10**6, max_bytes=10**11)
    begun = time.perf_counter()
    for run in runs:
        for event in run:
            recorder.put(event)
    recorder.flush(None)
    seconds = time.perf_counter() - begun
    recorder.close()
    assert not recorder.dropped
    calls = policy_calls(runs)
    return len(calls) / seconds, sum(4 * len(call.prompt_token_ids or ()) for call in calls) / seconds / 1e6, path


def log(folder: Path, runs: list[list[Event]], *, binary: bool) -> tuple[float, Path]:
    """Write requests and responses whole, as a log of calls does; return calls a second and the file."""
    path = folder / f"log-{binary}.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE calls (trace TEXT, messages TEXT, reply TEXT, prompt, ids, logprobs, facts TEXT)")
    calls = policy_calls(runs)
    begun = time.perf_counter()
    for start in range(0, len(calls), 128):
        rows = []
        for call in calls[start : start + 128]:
            numbers: list[object] = [call.prompt_token_ids, call.token_ids, call.logprobs]
            if binary:
                kinds = ("<u4", "<u4", "<f4")
                numbers = [np.asarray(one, kind).tobytes() for one, kind in zip(numbers, kinds, strict=True)]
            else:
                numbers = [json.dumps(one) for one in numbers]
            facts = json.dumps([call.model, call.response_id, call.sampling, call.usage, call.seconds, call.dollars])
            rows.append((call.trace_id, json.dumps(call.messages), json.dumps(call.reply), *numbers, facts))
        with connection:
            connection.executemany("INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    rate = len(calls) / (time.perf_counter() - begun)
    connection.close()
    return rate, path


def size(path: Path) -> int:
    """Return a database's size with its log written back."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path.stat().st_size


def growth(calls: int = 100, step: int = 200) -> tuple[float, float]:
    """Return the microseconds of adding an early and a late call to the graph of one long conversation."""
    rounds: list[list[float]] = [[] for _ in range(calls)]
    for _ in range(5):
        graph = TraceGraph()
        messages: list[dict[str, object]] = [{"role": "user", "content": "x" * 1000}]
        prompt = list(range(step))
        for turn in range(calls):
            reply = {"role": "assistant", "content": "y" * 500}
            event = PolicyCalled("t", list(messages), reply, np.asarray(prompt, "<u4"), np.full(step, turn, "<u4"))
            begun = time.perf_counter()
            graph.add_policy_call(event)
            rounds[turn].append(time.perf_counter() - begun)
            messages += [reply, {"role": "user", "content": f"{turn}" + "z" * 500}]
            prompt += [turn] * step + [1] * step
    medians = [statistics.median(times) * 1e6 for times in rounds]
    return statistics.median(medians[1:11]), statistics.median(medians[-10:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=150, help="conversations")
    runs = [conversation(seed) for seed in range(parser.parse_args().runs)]
    gc.collect()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        put = microseconds_of_put(folder, runs)
        direct = microseconds_of_writing(folder, runs)
        plain, rich = microseconds_of_receiving(policy_calls(runs)[CALLS - 1])
        rate, megabytes, path = calls_per_second(folder, runs)
        json_rate, json_path = log(folder, runs, binary=False)
        binary_rate, binary_path = log(folder, runs, binary=True)
        number = len(runs) * CALLS
        disk, json_disk, binary_disk = (size(one) / number for one in (path, json_path, binary_path))
    early, late = growth()
    table = Table("measured", "value", "beside", "value", "ratio", title=f"{number} policy calls in {len(runs)} runs")

    def row(what: str, value: float, unit: str, beside: str, other: float) -> None:
        table.add_row(what, f"{value:,.1f} {unit}", beside, f"{other:,.1f} {unit}", f"{value / other:.3f}")

    row("put, median", put, "us", "limit a call", PUT_LIMIT)
    row("put, median", put, "us", "writing on the app's thread", direct)
    row("response with ids parsed", rich, "us", "response without ids parsed", plain)
    row("writer", rate, "calls/s", "log of whole prompts, JSON text", json_rate)
    row("writer", rate, "calls/s", "log of whole prompts, binary", binary_rate)
    row("disk", disk, "B/call", "limit", float(DISK_LIMIT))
    row("disk", disk, "B/call", "log of whole prompts, JSON text", json_disk)
    row("disk", disk, "B/call", "log of whole prompts, binary", binary_disk)
    row("graph: calls 90 to 100 of a run", late, "us", "graph: calls 2 to 11", early)
    Console(width=120).print(table)
    print(f"the writer takes {megabytes:.0f} MB of prompt ids a second")
    if put > PUT_LIMIT or disk > DISK_LIMIT:
        raise SystemExit("a limit is not kept")


if __name__ == "__main__":
    main()
