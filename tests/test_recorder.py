from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event as sqlalchemy_event

from tests.sample_events import asks, conversation, run
from tests.waiting import until
from toolorch_integrations.errors import CaptureWarning
from toolorch_integrations.events import (
    CallEnded,
    Deferred,
    Event,
    Message,
    PolicyCalled,
    TraceAnnotated,
    TraceEnded,
    TraceStarted,
    TraceStatus,
)
from toolorch_integrations.journal import MAX_OPEN
from toolorch_integrations.ledger import Call, CallKind
from toolorch_integrations.losses import Losses
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.store import TraceStore, TraceWrite
from toolorch_integrations.trace import TraceHeader
from toolorch_integrations.writer import Writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "traces.db"


@contextlib.contextmanager
def warned(match: str) -> Iterator[pytest.WarningsRecorder]:
    with pytest.warns(CaptureWarning, match=match) as caught:
        yield caught


def new_id() -> str:
    return uuid.uuid4().hex


@contextlib.contextmanager
def recording(path: Path, **options: object) -> Iterator[Recorder]:
    recorder = Recorder(path, **options)  # type: ignore[arg-type]
    try:
        yield recorder
    finally:
        with contextlib.suppress(CaptureWarning):
            assert recorder.close(20)


def read(path: Path, trace_id: str):
    with TraceStore.open(path) as store:
        return store.trace(trace_id)


# Order, threads, callables


def test_events_from_many_threads_and_loops_all_arrive(path: Path):
    ids = [new_id() for _ in range(24)]
    with recording(path) as recorder:

        def put(trace_id: str) -> None:
            for item in run(trace_id, turns=4):
                recorder.put(item)

        async def put_all() -> None:
            await asyncio.gather(*(asyncio.to_thread(put, one) for one in ids[12:]))

        threads = [threading.Thread(target=put, args=(one,)) for one in ids[:12]]
        for thread in threads:
            thread.start()
        asyncio.run(put_all())
        for thread in threads:
            thread.join()
        assert recorder.flush()
        assert not recorder.dropped
        assert sorted(recorder.trace_ids) == sorted(ids)
    with TraceStore.open(path) as store:
        traces = list(store.full_traces())
    assert {trace.id for trace in traces} == set(ids)
    assert all(trace.totals.turns == 4 and len(list(trace.paths())) == 1 for trace in traces)


def test_what_is_deferred_runs_on_the_writer_thread_and_gives_none_one_or_many_events(path: Path):
    trace_id = new_id()
    threads: list[str] = []

    def many() -> list[Event]:
        threads.append(threading.current_thread().name)
        return list(conversation(trace_id))

    with recording(path) as recorder:
        recorder.put(Deferred(trace_id, lambda: TraceStarted(trace_id)))
        recorder.put(Deferred(trace_id, many))
        recorder.put(Deferred(trace_id, lambda: None))
        recorder.put(Deferred(trace_id, lambda: TraceEnded(trace_id)))
    assert threads == ["toolorch-recorder"]
    assert read(path, trace_id).totals.turns == 2


def test_a_decoding_that_raises_and_an_event_that_does_not_fit_cost_only_themselves(path: Path):
    trace_id = new_id()

    def broken() -> Event:
        raise RuntimeError("decoding failed")

    with recording(path) as recorder:
        with warned("decode"):
            recorder.put(Deferred(trace_id, broken))
            recorder.put(PolicyCalled(trace_id, [{"role": "user"}], {"role": "assistant"}, [-1], [1]))
            recorder.put("nonsense")  # type: ignore[arg-type]
            recorder.put(lambda: TraceEnded(trace_id))  # type: ignore[arg-type]
            until(lambda: bool(recorder.flush()) and recorder.dropped["decode"] >= 4)
        for item in run(trace_id):
            recorder.put(item)
        recorder.flush()
        assert set(recorder.dropped) == {"decode"}
    trace = read(path, trace_id)
    assert trace.totals.turns == 2
    assert trace.metadata["dropped"] == {"decode": 2}, "what is no event has no trace"


def test_events_of_a_trace_that_began_elsewhere_make_it(path: Path):
    trace_id = new_id()
    with recording(path) as recorder:
        for item in conversation(trace_id):
            recorder.put(item)
    trace = read(path, trace_id)
    assert trace.totals.turns == 2
    assert trace.status is TraceStatus.INTERRUPTED, "its recorder ended before it did"


def test_a_trace_that_ended_takes_late_events_and_keeps_its_status(path: Path):
    trace_id = new_id()
    with recording(path) as recorder:
        for item in run(trace_id):
            recorder.put(item)
        recorder.flush()
        recorder.put(CallEnded(trace_id, Call(CallKind.TOOL, "late", call_id="c0")))
        recorder.put(TraceAnnotated(trace_id, metadata={"late": True}))
    trace = read(path, trace_id)
    assert trace.status is TraceStatus.ANSWERED
    assert [(entry.call.name, entry.node) for entry in trace.calls] == [("add", 2), ("late", 2)]
    assert trace.metadata == {"tags": ["nightly"], "late": True}


def test_put_after_close_is_counted(path: Path):
    recorder = Recorder(path)
    recorder.close()
    with warned("closed"):
        recorder.put(TraceStarted(new_id()))
    assert recorder.dropped == {"closed": 1}
    assert not path.exists()


def test_open_traces_in_memory_are_bounded_and_a_reopened_one_goes_on(path: Path):
    first = new_id()
    events = list(run(first, turns=3))
    with recording(path) as recorder:
        for item in events[:4]:
            recorder.put(item)
        recorder.flush()
        for _ in range(MAX_OPEN + 5):
            recorder.put(TraceStarted(new_id()))
        recorder.flush()
        assert first not in recorder._writer._journal._open
        for item in events[4:]:
            recorder.put(item)
    trace = read(path, first)
    assert trace.status is TraceStatus.ANSWERED
    assert len(list(trace.paths())) == 1
    assert trace.totals.turns == 3
    assert [entry.node for entry in trace.calls] == [2, 4]


def test_a_finished_graph_is_let_go(path: Path):
    with recording(path) as recorder:
        for item in run(new_id()):
            recorder.put(item)
        recorder.flush()
        assert not recorder._writer._journal._open


# Resuming


def test_a_run_is_resumed_in_another_process(path: Path):
    first, second = new_id(), new_id()
    script = f"""
        import sys
        from tests.sample_events import run
        from toolorch_integrations.recorder import Recorder
        from toolorch_integrations.events import *
        recorder = Recorder({str(path)!r})
        for item in list(run({first!r}, turns=3, ended=False, thread_id="thread-1"))[:4]:
            recorder.put(item)
        recorder.put(TraceEnded({first!r}, TraceStatus.INTERRUPTED))
        recorder.close()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)
    with recording(path) as recorder:
        events = list(run(second, turns=3, thread_id="thread-1"))
        recorder.put(TraceStarted(second, thread_id="thread-1", resume=True))
        for item in events[4:]:
            recorder.put(item)
        recorder.flush()
        assert recorder.trace_ids == [first]
        recorder.put(TraceStarted(new_id(), thread_id="thread-2", resume=True))
    with TraceStore.open(path) as store:
        assert len(list(store.traces())) == 2
        trace = store.trace(first)
    assert trace.status is TraceStatus.ANSWERED
    assert (trace.request, trace.app) == ("Add.", "adder")
    assert trace.owner.pid == os.getpid()
    assert len(list(trace.paths())) == 1
    assert trace.totals.turns == 3


def test_a_run_is_resumed_in_the_batch_in_which_it_was_interrupted(path: Path):
    first, second = new_id(), new_id()
    blocked = threading.Event()
    with recording(path) as recorder:
        recorder.put(Deferred(first, lambda: [] if blocked.wait(10) else None))
        recorder.put(TraceStarted(first, thread_id="t"))
        recorder.put(TraceEnded(first, TraceStatus.INTERRUPTED))
        recorder.put(TraceStarted(second, thread_id="t", resume=True))
        recorder.put(TraceEnded(second, answer="done"))
        blocked.set()
        recorder.flush()
        assert recorder.trace_ids == [first]
    assert read(path, first).answer == "done"


@pytest.mark.parametrize("stored", [False, True])
def test_a_run_is_resumed_in_its_own_app_and_framework(path: Path, stored: bool):
    """Two apps that share a store may both have a conversation "1"."""
    shop, bank, other = (new_id() for _ in range(3))
    apps = {shop: ("shop", "langgraph"), bank: ("bank", "langgraph"), other: ("shop", "llamaindex")}
    resumed = {new_id(): key for key in apps}
    blocked = threading.Event()
    with recording(path) as recorder:
        if not stored:  # All of it is one batch, so that the traces are found in memory.
            recorder.put(Deferred(shop, lambda: [] if blocked.wait(20) else None))
        for key, (app, framework) in apps.items():
            recorder.put(TraceStarted(key, framework, app, thread_id="1"))
            recorder.put(TraceEnded(key, TraceStatus.INTERRUPTED))
        if stored:
            recorder.flush()
        for run_id, key in resumed.items():
            app, framework = apps[key]
            recorder.put(TraceStarted(run_id, framework, app, thread_id="1", resume=True))
            recorder.put(TraceEnded(run_id, answer=f"{app} of {framework}"))
        blocked.set()
    with TraceStore.open(path) as store:
        assert {trace.id: trace.answer for trace in store.traces()} == {
            key: f"{app} of {framework}" for key, (app, framework) in apps.items()
        }


# Bounds and faults


def test_overflow_is_counted_in_the_recorder_and_in_the_trace(path: Path):
    trace_id = new_id()
    go, blocked = threading.Event(), threading.Event()
    events = list(run(trace_id, turns=20))

    def block() -> None:
        blocked.set()
        go.wait(20)

    with recording(path, max_events=10) as recorder:
        recorder.put(Deferred(new_id(), block))
        blocked.wait(20)
        with warned("overflow") as caught:
            for item in events:
                recorder.put(item)
        assert len(caught) == 1
        lost = recorder.dropped["overflow"]
        assert lost == len(events) - 11
        go.set()
        recorder.flush()
    trace = read(path, trace_id)
    assert trace.status is TraceStatus.ANSWERED, "the end is let in past the bound"
    assert trace.metadata["dropped"] == {"overflow": lost}


def test_bytes_that_wait_are_bounded(path: Path):
    go, blocked = threading.Event(), threading.Event()
    trace_id = new_id()

    def block() -> None:
        blocked.set()
        go.wait(20)

    with recording(path, max_bytes=100_000) as recorder:
        recorder.put(Deferred(trace_id, block))
        blocked.wait(20)
        with warned("overflow"):
            for _ in range(10):
                recorder.put(PolicyCalled(trace_id, [], None, list(range(1000)), [1]))
        assert recorder.dropped["overflow"] == 8
        recorder.put(Deferred(trace_id, lambda: None, 90_000))
        assert recorder.dropped["overflow"] == 9
        go.set()


def test_a_locked_database_is_waited_for(path: Path):
    trace_id = new_id()
    TraceStore.open(path).close()
    script = f"""
        import sqlite3, sys
        connection = sqlite3.connect({str(path)!r}, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        print("locked", flush=True)
        sys.stdin.read()
    """
    locker = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert locker.stdout is not None
    assert locker.stdin is not None
    with locker, recording(TraceStore(path, busy_seconds=0.05)) as recorder:  # type: ignore[arg-type]
        assert locker.stdout.readline() == "locked\n"
        for item in run(trace_id):
            recorder.put(item)
        assert not recorder.flush(0.5), "nothing can be written yet"
        locker.stdin.close()
        assert recorder.flush(60)
        assert not recorder.dropped
    assert read(path, trace_id).totals.turns == 2


def test_a_database_that_stays_locked_costs_events_and_not_the_app(path: Path):
    lost, kept = new_id(), new_id()
    store = TraceStore(path, busy_seconds=0.01)
    store.prepare()
    with recording(store, retry_seconds=0.1) as recorder:  # type: ignore[arg-type]
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            for item in run(lost):
                recorder.put(item)
            with warned("store"):
                until(lambda: bool(recorder.flush()) and recorder.dropped["store"] >= 6)
            connection.execute("ROLLBACK")
        for item in run(kept):
            recorder.put(item)
        assert recorder.flush()
    assert read(path, kept).totals.turns == 2
    store.close()


def test_a_full_disk_costs_events_and_capture_goes_on_when_there_is_room(path: Path):
    big, after = new_id(), new_id()
    limit = 60
    store = TraceStore(path)

    @sqlalchemy_event.listens_for(store.engine, "checkout")
    def set_limit(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {limit}")

    events = list(run(big, turns=4))
    with recording(store, retry_seconds=0.1) as recorder:  # type: ignore[arg-type]
        for item in events[:3]:
            recorder.put(item)
        assert recorder.flush()
        filler = "x" * 1_000_000
        with warned("store"):
            recorder.put(PolicyCalled(big, [{"role": "user", "content": filler}], {"role": "assistant"}, [5], [6]))
            until(lambda: bool(recorder.flush()) and recorder.dropped["store"] == 1)
        limit = 100_000
        for item in events[3:]:
            recorder.put(item)
        for item in run(after):
            recorder.put(item)
        assert recorder.flush()
        assert recorder.dropped == {"store": 1}
    trace = read(path, big)
    assert trace.status is TraceStatus.ANSWERED
    assert trace.metadata["dropped"] == {"store": 2}, "two messages were lost"
    assert trace.totals.turns == 5, "what was spent is not forgotten"
    (found,) = trace.paths()
    assert found.exact
    assert found.token_ids[-3:].tolist() == [1003] * 3
    assert read(path, after).totals.turns == 2
    store.close()


def test_a_store_that_cannot_be_reached_never_reaches_the_app(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    recorder = Recorder(tmp_path / "file" / "traces.db", retry_seconds=0.1)
    for item in run(new_id()):
        recorder.put(item)
    with warned("store"):
        until(lambda: bool(recorder.flush()) and recorder.dropped["store"] == 6)
    recorder.close()


def test_close_gives_up_in_time(path: Path):
    store = TraceStore(path, busy_seconds=0.01)
    store.prepare()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        recorder = Recorder(store)
        for item in run(new_id()):
            recorder.put(item)
        begun = time.monotonic()
        with warned("store"):
            recorder.close(0.5)
            until(lambda: bool(recorder.flush()) and recorder.dropped["store"] == 6)
        assert time.monotonic() - begun < 15, "half of what one batch is retried for"
    store.close()


@pytest.mark.postgres
def test_a_postgres_server_that_goes_away_is_waited_for(postgres_url: str):
    import psycopg

    first, second = new_id(), new_id()
    with recording(postgres_url) as recorder:  # type: ignore[arg-type]
        for item in run(first):
            recorder.put(item)
        assert recorder.flush()
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        for item in run(second):
            recorder.put(item)
        assert recorder.flush()
        assert not recorder.dropped
    with TraceStore.open(postgres_url) as store:
        assert {trace.totals.turns for trace in store.full_traces()} == {2}


def test_two_processes_write_one_store_and_one_trace(path: Path):
    shared = new_id()
    script = f"""
        import sys, uuid
        from tests.sample_events import conversation, run
        from toolorch_integrations.recorder import Recorder
        recorder = Recorder({str(path)!r})
        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(40):
            for item in run(uuid.uuid4().hex):
                recorder.put(item)
            for item in conversation({shared!r}, agent=sys.argv[1]):
                recorder.put(item)
                recorder.flush()
        recorder.close()
        print(dict(recorder.dropped))
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        outputs.append(process.communicate(timeout=90)[0])  # noqa: PERF401
    assert outputs == ["{}\n", "{}\n"]
    with TraceStore.open(path) as store:
        assert store.stats().traces == 81
        agents = [node.turn.agent for node in store.trace(shared).graph.nodes if node.turn is not None]
    assert agents.count("one") == agents.count("two") == 80


def test_a_killed_process_loses_at_most_the_call_in_flight(path: Path):
    script = f"""
        import sys
        from tests.sample_events import run
        from toolorch_integrations.recorder import Recorder
        recorder = Recorder({str(path)!r})
        for number in range(1000):
            for position, item in enumerate(run(f"{{number:032x}}", turns=10)):
                recorder.put(item)
                recorder.flush()
                print(number, position, flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line == "7 12\n":
            process.kill()
            break
    rest = process.stdout.read().splitlines()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    number, position = map(int, (rest[-1] if rest else "7 12").split())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with TraceStore.open(path) as store:
        traces = {int(trace.id, 16): trace for trace in store.full_traces()}
    for finished in range(number):
        assert traces[finished].status is TraceStatus.ANSWERED
        assert traces[finished].totals.turns == 10
    events = list(run(f"{number:032x}", turns=10))[: position + 1]
    last = traces[number]
    assert last.status is TraceStatus.INTERRUPTED
    assert last.totals.turns >= sum(isinstance(one, PolicyCalled) for one in events)
    assert len(last.calls) >= sum(isinstance(one, CallEnded) for one in events)


def test_what_was_put_before_the_interpreter_ends_is_written(path: Path):
    trace_id = new_id()
    script = f"""
        from tests.sample_events import run
        from toolorch_integrations.recorder import Recorder
        recorder = Recorder({str(path)!r})
        for item in run({trace_id!r}, turns=50):
            recorder.put(item)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)
    assert read(path, trace_id).totals.turns == 50


def _record_in_child(recorder: Recorder, trace_id: str) -> None:
    for item in run(trace_id):
        recorder.put(item)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_a_forked_child_writes_with_a_thread_and_connection_of_its_own(
    kind: str, path: Path, request: pytest.FixtureRequest
):
    where = path if kind == "sqlite" else request.getfixturevalue("postgres_url")
    before, inside, after = new_id(), new_id(), new_id()
    with recording(where) as recorder:
        for item in run(before, ended=False):
            recorder.put(item)
        child = multiprocessing.get_context("fork").Process(target=_record_in_child, args=(recorder, inside))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        recorder.put(TraceEnded(before, answer="4"))
        for item in run(after):
            recorder.put(item)
        assert recorder.flush()
        assert not recorder.dropped
    with TraceStore.open(where) as store:
        traces = {trace.id: trace for trace in store.full_traces()}
    assert set(traces) == {before, inside, after}
    assert all(trace.status is TraceStatus.ANSWERED and trace.totals.turns == 2 for trace in traces.values())
    assert traces[inside].owner.pid == child.pid


# Redaction


def hide_secret(message: Message) -> Message:
    return {**message, "content": str(message.get("content") or "").replace("hunter2", "***")}


def secret_run(trace_id: str) -> list[Event]:
    question = {"role": "user", "content": "My password is hunter2."}
    function = {"name": "log_in", "arguments": '{"password": "hunter2"}'}
    reply = {"role": "assistant", "content": "hunter2", "tool_calls": [{"id": "c", "function": function}]}
    return [
        TraceStarted(trace_id, request="My password is hunter2."),
        PolicyCalled(trace_id, [{"role": "user", "content": "Hello."}], {"role": "assistant"}, [1], [2], [-1.0]),
        PolicyCalled(trace_id, [question], reply, [72, 73], [74], [-1.0], raw_text="hunter2"),
        CallEnded(trace_id, Call(CallKind.TOOL, "log_in", error="not hunter2", call_id="c"), {"p": "x"}, "hunter2 ok"),
        TraceEnded(trace_id, answer="It is hunter2.", error="hunter2"),
    ]


def test_redacted_text_is_nowhere_in_the_store_and_its_ids_neither(path: Path):
    trace_id = new_id()
    with recording(path, redact=hide_secret) as recorder:
        for item in secret_run(trace_id)[:2]:
            recorder.put(item)
        for item in secret_run(trace_id)[2:]:
            if isinstance(item, PolicyCalled):
                assert item.reply is not None
                del item.reply["tool_calls"]
            recorder.put(item)
        recorder.flush()
        assert not recorder.dropped
    gc.collect()
    assert all(b"hunter2" not in file.read_bytes() for file in path.parent.iterdir())
    trace = read(path, trace_id)
    assert not trace.exact
    assert [node.token_ids.tolist() for node in trace.graph.nodes] == [[1], [2], [], []]
    assert trace.graph.nodes[0].exact, "a call without redacted text keeps its ids"
    assert (trace.request, trace.answer, trace.error) == ("My password is ***.", "It is ***.", "***")
    assert (trace.calls[0].result, trace.calls[0].call.error) == ("*** ok", "not ***")


def test_ids_of_redacted_text_stay_where_the_caller_says_so(path: Path):
    trace_id = new_id()
    with recording(path, redact=hide_secret, redact_token_ids=False) as recorder:
        for item in secret_run(trace_id):
            recorder.put(item)
    trace = read(path, trace_id)
    assert trace.exact
    assert sorted(found.token_ids.tolist() for found in trace.paths()) == [[1, 2], [72, 73, 74]]


@pytest.mark.parametrize("keep_ids", [True, False])
def test_a_failing_hook_drops_the_message_and_not_the_privacy(path: Path, keep_ids: bool):
    trace_id = new_id()

    def broken(message: Message) -> Message:
        raise RuntimeError("hook failed")

    with recording(path, redact=broken, redact_token_ids=not keep_ids) as recorder:
        with warned("redaction"):
            for item in secret_run(trace_id):
                recorder.put(item)
            recorder.flush()
        assert recorder.dropped["redaction"] >= 6
    assert all(b"hunter2" not in file.read_bytes() for file in path.parent.iterdir())
    trace = read(path, trace_id)
    assert trace.request == "[redaction failed]"
    assert all(not node.ids for node in trace.graph.nodes)
    asked = trace.graph.nodes[-1].message["tool_calls"][0]
    assert (asked["id"], asked["function"]) == ("c", {"name": "log_in", "arguments": "{}"})
    assert trace.calls[0].node == trace.graph.nodes[-1].index


def test_a_hook_may_leave_messages_out(path: Path):
    trace_id = new_id()
    with recording(path, redact=lambda message: None) as recorder:
        for item in secret_run(trace_id):
            recorder.put(item)
    assert all(b"hunter2" not in file.read_bytes() for file in path.parent.iterdir())
    assert read(path, trace_id).answer == "[redacted]"


def test_a_hook_that_changes_its_argument_does_not_reach_the_app(path: Path):
    message = asks(1)

    def empty(message: Message) -> Message:
        message.get("tool_calls", [{}])[0].clear()
        return message

    with recording(path, redact=empty) as recorder:
        recorder.put(PolicyCalled(new_id(), [message], {"role": "assistant"}, [1], [2]))
    assert message == asks(1)


def test_a_batch_asks_once_which_of_its_traces_the_store_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = TraceStore.open(tmp_path / "traces.db")
    old, *new = [f"{number:032x}" for number in range(1, 6)]
    store.write([TraceWrite(TraceHeader(id=old, metadata={"tags": ["kept"]}))])
    found: list[str] = []
    find = TraceStore.find
    monkeypatch.setattr(TraceStore, "find", lambda self, key: (found.append(key), find(self, key))[1])
    writer = Writer(store, Losses(), "", 1.0)
    writer.process([TraceStarted(key, request=key) for key in (old, *new)])
    assert found == [old], "the others are new"
    assert {header.id: header.request for header in store.traces()} == {key: key for key in (old, *new)}
    assert store.trace(old).metadata == {"tags": ["kept"]}
    store.close()
