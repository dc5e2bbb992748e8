from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sample_events import CATALOG, conversation, run
from tests.waiting import until
from toolorch_integrations.capture import capture
from toolorch_integrations.errors import CaptureWarning, StoreError
from toolorch_integrations.events import (
    CallEnded,
    Deferred,
    Event,
    Message,
    PolicyCalled,
    TraceEnded,
    TraceStarted,
    TraceStatus,
)
from toolorch_integrations.ledger import Call, CallKind
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.spool import Spool, codec, folder
from toolorch_integrations.spool.lane import SUFFIX, Lane, LaneReader, Segment
from toolorch_integrations.spool.reader import SpoolReader
from toolorch_integrations.spool.records import header, read_records
from toolorch_integrations.store import SpoolMovedError, SpoolPosition, TraceStore
from toolorch_integrations.writer import Writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "traces.db"


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, path: Path) -> str:
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgres" else f"sqlite:///{path}"


def new_id() -> str:
    return uuid.uuid4().hex


@contextlib.contextmanager
def recording(where: object, spool: Path | Spool, **options: Any) -> Iterator[Recorder]:
    recorder = Recorder(where, spool=spool, **options)  # type: ignore[arg-type]
    try:
        yield recorder
    finally:
        assert recorder.close(30)


def put_all(recorder: Recorder, events: Iterable[Event]) -> None:
    for event in events:
        recorder.put(event)


def parts(spool: Path) -> list[Path]:
    return sorted(spool.glob("[!.]*")) if spool.exists() else []


def segments(spool: Path) -> list[Path]:
    return sorted(spool.glob(f"*/*{SUFFIX}"))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a SQLite store's write lock, as a stuck process does."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def impatient(path: Path) -> TraceStore:
    store = TraceStore(path, busy_seconds=0.01)
    store.prepare()
    return store


def script(text: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdin.close()


# Records


@given(st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=200)), max_size=20))
def test_records_read_back(items: list[tuple[int, bytes]]):
    data = b"".join(header(kind, number, payload) + payload for number, (kind, payload) in enumerate(items, 1))
    found = [record for record in read_records(data) if record is not None]
    assert [(record.number, record.kind, record.payload) for record in found] == [
        (number, kind, payload) for number, (kind, payload) in enumerate(items, 1)
    ]


@given(st.data())
def test_damage_costs_what_it_touches(data: st.DataObject):
    payloads = data.draw(st.lists(st.binary(min_size=1, max_size=100), min_size=3, max_size=8))
    whole = [header(7, number, payload) + payload for number, payload in enumerate(payloads)]
    victim = data.draw(st.integers(0, len(whole) - 1))
    place = data.draw(st.integers(0, len(whole[victim]) - 1))
    flip = data.draw(st.integers(1, 255))
    broken = bytearray(whole[victim])
    broken[place] ^= flip
    found = list(read_records(b"".join([*whole[:victim], bytes(broken), *whole[victim + 1 :]])))
    numbers = [record.number for record in found if record is not None]
    assert numbers == [number for number in range(len(whole)) if number != victim]
    assert found.count(None) == 1


def test_a_record_that_comes_between_two_looks_keeps_its_place(tmp_path: Path):
    """Number 1 goes to the first lane, and number 2 to the second, after the reader has found the first one empty."""
    lanes = [Lane(tmp_path, name, 2**20, fsync=False) for name in ("a", "b")]

    def first() -> list[Segment]:
        return lanes[0].segments

    def second() -> list[Segment]:
        if not lanes[1].segments:
            lanes[0].append(1, 1, b"one")
            lanes[1].append(1, 2, b"two")
        return lanes[1].segments

    reader = SpoolReader(LaneReader(first), LaneReader(second))
    assert [record.number for record in reader.take(8)] == [1, 2]
    for lane in lanes:
        lane.close()


@given(st.integers(1, 400))
def test_a_torn_end_costs_the_last_record(cut: int):
    whole = [header(3, number, b"x" * 90) + b"x" * 90 for number in range(5)]
    data = b"".join(whole)[:-cut]
    found = list(read_records(data))
    kept = len(data) // len(whole[0])
    assert [record.number for record in found if record is not None] == list(range(kept))
    assert (None in found) == bool(len(data) % len(whole[0]))


# Events


def odd_events(trace_id: str) -> list[Event]:
    user: Message = {"role": "user", "content": "NUL \x00, surrogate \ud800, 字", "odd": {1: Path("/x")}}
    reply: Message = {"role": "assistant", "content": "a"}
    return [
        TraceStarted(trace_id, request="\ud800", metadata={"path": Path("/x"), "big": 2**70}),
        PolicyCalled(
            trace_id,
            (user,),
            reply,
            np.arange(5, dtype="<u4"),
            np.asarray([7, 8], dtype=np.int64)[::1],
            np.asarray([-math.inf, -0.1], dtype="<f4"),
            usage={"prompt_tokens": 5},
        ),
        PolicyCalled(trace_id, [user], reply, [1], [2, 3, 4], [-math.inf, math.nan, -1 / 3]),
        CallEnded(trace_id, Call(CallKind.TOOL, "t", call_id="c", confirmed=True), {"x": [1, None]}, "r"),
        TraceEnded(trace_id, TraceStatus.BUDGET, "\ud800", ended=5.0),
    ]


def test_events_read_back_as_they_would_be_stored(tmp_path: Path):
    """What a spool has read back leaves the same store as the events themselves."""
    events = [*odd_events("a" * 32), *run("b" * 32, turns=3)]
    for name, through in (("one", lambda event: event), ("two", lambda event: codec.unpack(*codec.pack(event)))):
        recorder = Recorder(tmp_path / f"{name}.db")
        for event in events:
            recorder.put(through(event))
        assert recorder.close()
        assert not recorder.dropped
    with TraceStore(tmp_path / "one.db") as one, TraceStore(tmp_path / "two.db") as two:
        for expected, found in zip(one.full_traces(), two.full_traces(), strict=True):
            left, right = dataclasses.asdict(found), dataclasses.asdict(expected)
            for side in (left, right):
                # Times differ, and so do revisions: each counts the transactions that its events came in.
                del side["started"], side["graph"], side["ended"], side["revision"]
            assert left == right
            for node, other in zip(found.graph.nodes, expected.graph.nodes, strict=True):
                assert dataclasses.asdict(node) == dataclasses.asdict(other)


def test_a_class_of_another_module_has_a_format_of_its_own(path: Path, spool: Path):
    @dataclasses.dataclass
    class Wire:
        trace_id: str
        body: bytes

        def size(self) -> int:
            return len(self.body)

        def events(self) -> Iterable[Event]:
            return conversation(self.trace_id, int(self.body))

    def unpack(payload: bytes) -> Wire:
        return Wire(payload[:32].decode(), payload[32:])

    codec.register(200, Wire, lambda wire: wire.trace_id.encode() + wire.body, unpack)
    codec.register(200, Wire, lambda wire: wire.trace_id.encode() + wire.body, unpack)
    with pytest.raises(ValueError, match="stands for Wire"):
        codec.register(200, TraceStarted, lambda _: b"", lambda _: TraceStarted(""))
    with pytest.raises(ValueError, match="16 to 255"):
        codec.register(3, Wire, lambda _: b"", unpack)
    ids = [new_id() for _ in range(2)]
    store = impatient(path)
    with recording(store, spool) as recorder:
        recorder.put(Wire(ids[0], b"2"))
        assert recorder.flush()
        with locked(path):
            recorder.put(Wire(ids[1], b"3"))
            recorder.put(Wire(ids[1], b"broken"))
            until(lambda: recorder._intake.behind)  # type: ignore[attr-defined]
        with pytest.warns(CaptureWarning, match="decode"):
            until(lambda: bool(recorder.flush()) and bool(recorder.dropped))
    assert [store.trace(one).totals.turns for one in ids] == [2, 3]
    assert recorder.dropped == {"decode": 1}
    store.close()


# The short way


def test_nothing_is_left_of_a_spool_that_was_delivered(url: str, spool: Path):
    ids = [new_id() for _ in range(20)]
    with recording(url, spool) as recorder:
        for one in ids:
            put_all(recorder, run(one))
        assert len(parts(spool)) == 1
        assert recorder.flush()
        assert not recorder.dropped
    assert parts(spool) == []
    assert list(spool.iterdir()) == []
    with TraceStore.open(url) as store:
        assert {header.id for header in store.traces()} == set(ids)
        with store.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM spool_positions").scalar_one() == 0


def test_files_are_removed_as_the_store_takes_them(path: Path, spool: Path):
    small = Spool(spool, segment_bytes=20_000)
    with recording(path, small) as recorder:
        for _ in range(50):
            put_all(recorder, run(new_id(), turns=4))
            recorder.flush()
            assert sum(file.stat().st_size for file in segments(spool)) < 60_000


def test_a_redacted_text_is_not_in_the_files(path: Path, spool: Path):
    def hide(message: Message) -> Message:
        return {**message, "content": str(message.get("content") or "").replace("hunter2", "***")}

    store = impatient(path)
    trace_id = new_id()
    with recording(store, spool, redact=hide) as recorder, locked(path):
        recorder.put(TraceStarted(trace_id, request="hunter2"))
        recorder.put(TraceEnded(trace_id, answer="hunter2"), durable=True)
        until(lambda: sum(file.read_bytes().count(b"***") for file in segments(spool)) == 2)
        assert all(b"hunter2" not in file.read_bytes() for file in segments(spool))
    trace = store.trace(trace_id)
    assert (trace.request, trace.answer) == ("***", "***")
    store.close()


def test_what_is_redacted_on_the_writer_thread_outlives_a_store_that_is_down_from_the_beginning(
    path: Path, spool: Path
):
    store = impatient(path)
    trace_id = new_id()
    with recording(store, spool, redact=lambda message: message) as recorder, locked(path):
        recorder.put(TraceStarted(trace_id, request="the first of all"))
        until(lambda: any(b"the first of all" in file.read_bytes() for file in segments(spool)))
    assert not recorder.dropped
    assert store.trace(trace_id).request == "the first of all"
    store.close()


# The store is down


def test_a_locked_store_costs_nothing_and_order_is_kept(path: Path, spool: Path):
    """Events and callables put while nothing can be stored arrive later, in the order in which they were put."""
    ids = [new_id() for _ in range(40)]
    store = impatient(path)
    with recording(store, spool, max_events=50) as recorder:
        with locked(path):
            for one in ids:
                for position, event in enumerate(run(one, turns=5)):
                    # Policy calls deferred, as adapters put them; the rest as it is.
                    recorder.put(Deferred(one, lambda event=event: event) if position % 2 else event)
            assert not recorder.flush(0.5)
            assert recorder._intake.behind  # type: ignore[attr-defined]
        assert recorder.flush(60)
        assert not recorder.dropped
    assert parts(spool) == []
    for one in ids:
        trace = store.trace(one)
        (found,) = trace.paths()
        assert (trace.status, trace.totals.turns, len(trace.calls)) == (TraceStatus.ANSWERED, 5, 4)
        assert [call.node for call in trace.calls] == [2, 4, 6, 8], "each call hangs on the message that asked"
        assert found.exact
        assert trace.catalog == CATALOG
    store.close()


def test_memory_is_bounded_while_the_store_is_down(path: Path, spool: Path):
    store = impatient(path)
    with recording(store, spool, max_events=20) as recorder:
        with locked(path):
            for _ in range(300):
                put_all(recorder, run(new_id()))
            assert recorder._intake._waiting <= 40
        assert recorder.flush(60)
        assert not recorder.dropped
    assert store.stats().traces == 300
    store.close()


def test_the_limit_of_bytes_is_kept_and_what_is_beyond_is_counted(path: Path, spool: Path):
    store = impatient(path)
    first = new_id()
    with recording(store, Spool(spool, max_bytes=50_000), max_events=10) as recorder:
        with locked(path):
            put_all(recorder, run(first))
            until(lambda: recorder._intake.behind)  # type: ignore[attr-defined]
            with pytest.warns(CaptureWarning, match="spool"):
                put_all(recorder, [event for _ in range(100) for event in run(new_id())])
            assert sum(file.stat().st_size for file in segments(spool)) <= 1.05 * 50_000
        assert set(recorder.dropped) == {"spool"}
        assert recorder.flush(60)
        assert store.trace(first).totals.turns == 2
        lost = recorder.dropped["spool"]
        put_all(recorder, run(new_id()))
        assert recorder.flush(60)
        assert recorder.dropped["spool"] == lost, "there is room again"
    store.close()


def test_a_disk_that_is_full_is_counted_and_the_app_goes_on(path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch):
    store = impatient(path)
    full = False
    real = os.writev

    def writev(file: int, buffers: Any) -> int:
        if full:
            return os.write(file, b"".join(buffers)[:10])  # A disk takes what it has room for.
        return real(file, buffers)

    monkeypatch.setattr(os, "writev", writev)
    ids = [new_id() for _ in range(4)]
    with recording(store, spool, max_events=10_000) as recorder:
        put_all(recorder, run(ids[0]))
        assert recorder.flush()
        full = True
        put_all(recorder, run(ids[1]))
        assert recorder.flush()
        assert not recorder.dropped, "the store is there: nothing is lost"
        full = False
        with locked(path):
            put_all(recorder, run(ids[2]))
            until(lambda: recorder._intake.behind)  # type: ignore[attr-defined]
            full = True
            with pytest.warns(CaptureWarning, match="spool"):
                put_all(recorder, run(ids[3]))
            full = False
        put_all(recorder, [TraceEnded(ids[3])])
        assert recorder.flush()
        assert recorder.dropped == {"spool": 6}
    assert [store.trace(one).totals.turns for one in ids] == [2, 2, 2, 0]
    assert store.trace(ids[3]).metadata["dropped"] == {"spool": 6}
    store.close()


def test_closing_leaves_in_the_spool_what_the_store_does_not_take(path: Path, spool: Path):
    store = impatient(path)
    ids = [new_id() for _ in range(3)]
    with locked(path):
        recorder = Recorder(store, spool=spool)
        put_all(recorder, run(ids[0]))
        recorder.put(Deferred(ids[1], lambda: list(run(ids[1]))))
        assert not recorder.close(0.5)
        assert not recorder.dropped
    assert len(parts(spool)) == 1
    with recording(store, spool) as again:
        put_all(again, run(ids[2]))
        until(lambda: parts(spool) == [part for part in parts(spool) if part.name == again._intake.part.id])  # type: ignore[attr-defined]
    assert {trace.id: trace.totals.turns for trace in store.full_traces()} == dict.fromkeys(ids, 2)
    store.close()


# Exactly once


def test_a_position_moves_only_from_where_it_stands(url: str):
    with TraceStore.open(url) as store:
        for before, after in ((0, 5), (5, 9)):
            store.write([], SpoolPosition("s", before, after))
        for before, after in ((0, 3), (5, 9), (7, 12)):
            with pytest.raises(SpoolMovedError):
                store.write([], SpoolPosition("s", before, after))
        assert store.spool_position("s") == 9
        store.forget_spool("s")
        assert store.spool_position("s") == 0


@pytest.mark.parametrize("with_spool", [True, False])
def test_a_commit_whose_answer_is_lost_is_not_made_twice(
    url: str, spool: Path, with_spool: bool, monkeypatch: pytest.MonkeyPatch
):
    from sqlalchemy.exc import OperationalError

    real, calls = TraceStore.write, 0

    def write(self: TraceStore, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        revisions = [(entry.header, entry.header.revision) for entry in arguments[0]]
        real(self, *arguments)
        if calls in (1, 3):
            for header, revision in revisions:
                header.revision = revision
            raise OperationalError("", {}, Exception("connection lost"))

    monkeypatch.setattr(TraceStore, "write", write)
    trace_id = new_id()
    events = list(run(trace_id, turns=4))
    recorder = Recorder(url, spool=spool if with_spool else None)
    for half in (events[:4], events[4:]):
        put_all(recorder, half)
        assert recorder.flush()
    assert recorder.close()
    assert not recorder.dropped
    with TraceStore.open(url) as store:
        trace = store.trace(trace_id)
    assert (trace.totals.turns, len(trace.calls), len(list(trace.paths()))) == (4, 3, 1)
    assert trace.totals.dollars == pytest.approx(0.034)


def test_what_was_stored_before_a_kill_is_not_stored_again(path: Path, spool: Path):
    """The files of a part are there whole, and the store has a beginning of them."""
    trace_id = new_id()
    events = list(run(trace_id, turns=4))
    with TraceStore.open(path) as store:
        part = folder.OwnPart(Spool(spool), store.key, "")
        for number, event in enumerate(events, 1):
            part.append(*_numbered(number, event))
        from toolorch_integrations.losses import Losses

        writer = Writer(store, Losses(), "", 1.0)
        assert writer.deliver(events[:5], SpoolPosition(part.id, 0, 5))
        part.leave()
        with recording(store, spool):
            until(lambda: parts(spool) == [])
        trace = store.trace(trace_id)
    assert (trace.status, trace.totals.turns, len(trace.calls)) == (TraceStatus.ANSWERED, 4, 3)
    assert trace.totals.dollars == pytest.approx(0.034)


def _numbered(number: int, event: Event) -> tuple[int, int, bytes]:
    kind, payload = codec.pack(event)
    return kind, number, payload


def test_events_of_a_resumed_run_find_its_trace_after_a_kill(path: Path, spool: Path):
    first, second = new_id(), new_id()
    events = list(run(second, turns=3, thread_id="t"))
    with TraceStore.open(path) as store:
        with recording(store, spool) as recorder:
            put_all(recorder, list(run(first, turns=3, ended=False, thread_id="t"))[:4])
            recorder.put(TraceEnded(first, TraceStatus.INTERRUPTED))
        from toolorch_integrations.losses import Losses

        resumed = TraceStarted(second, thread_id="t", resume=True)
        part = folder.OwnPart(Spool(spool), store.key, "")
        for number, event in enumerate([resumed, *events[4:]], 1):
            part.append(*_numbered(number, event))
        assert Writer(store, Losses(), "", 1.0).deliver([resumed], SpoolPosition(part.id, 0, 1))
        part.leave()
        with recording(store, spool):
            until(lambda: parts(spool) == [])
        (only,) = store.full_traces()
    assert (only.id, only.totals.turns, only.status) == (first, 3, TraceStatus.ANSWERED)


# Kills and adoption

LOADED = """
    import sys, uuid
    from tests.sample_events import run
    from toolorch_integrations.recorder import Recorder
    recorder = Recorder(sys.argv[1], spool=sys.argv[2])
    print("ready", flush=True)
    for number in range(100_000):
        trace_id = uuid.uuid4().hex
        for event in run(trace_id, turns=3):
            recorder.put(event)
        print(trace_id, flush=True)
"""


def finished_before_kill(url: str, spool: Path, runs: int) -> list[str]:
    process = script(LOADED, url, str(spool))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    ids = [process.stdout.readline().strip() for _ in range(runs)]
    kill(process)
    return ids + [line.strip() for line in process.stdout if len(line) == 33]


def test_a_process_killed_under_load_loses_nothing_that_was_put(url: str, spool: Path):
    ids = finished_before_kill(url, spool, 200)
    assert len(parts(spool)) == 1
    with recording(url, spool):
        until(lambda: parts(spool) == [])
    with TraceStore.open(url) as store:
        traces = {trace.id: trace for trace in store.full_traces()}
    assert all(
        (traces[one].status, traces[one].totals.turns, len(traces[one].calls)) == (TraceStatus.ANSWERED, 3, 2)
        for one in ids
    )
    assert len(traces) <= len(ids) + 1, "the run in which the kill came"


def test_a_torn_record_costs_only_itself(path: Path, spool: Path):
    trace_id = new_id()
    events = list(run(trace_id, turns=3))
    with TraceStore.open(path) as store:
        part = folder.OwnPart(Spool(spool), store.key, "")
        for number, event in enumerate(events, 1):
            part.append(*_numbered(number, event))
        part.leave()
        (file,) = segments(spool)
        os.truncate(file, file.stat().st_size - 7)
        with recording(store, spool) as recorder:
            until(lambda: parts(spool) == [])
            assert not recorder.dropped
        trace = store.trace(trace_id)
    assert trace.status is TraceStatus.INTERRUPTED, "its end was torn"
    assert trace.totals.turns == 3


def test_two_processes_adopt_each_part_once(url: str, spool: Path):
    TraceStore.open(url).close()
    ids: list[str] = []
    with TraceStore(url) as store:
        for _ in range(4):
            part = folder.OwnPart(Spool(spool), store.key, "")
            number = 0
            for _ in range(30):
                ids.append(new_id())
                for event in run(ids[-1]):
                    number += 1
                    part.append(*_numbered(number, event))
            part.leave()
    adopting = """
        import sys
        from toolorch_integrations.recorder import Recorder
        print("ready", flush=True)
        sys.stdin.readline()
        recorder = Recorder(sys.argv[1], spool=sys.argv[2])
        sys.stdin.readline()
        recorder.close()
    """
    processes = [script(adopting, url, str(spool)) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    until(lambda: parts(spool) == [])
    for process in processes:
        process.communicate("\n", timeout=60)
        assert process.returncode == 0
    with TraceStore.open(url) as store:
        traces = {trace.id: trace for trace in store.full_traces()}
    assert set(traces) == set(ids)
    assert {(trace.totals.turns, len(trace.calls), trace.status.value) for trace in traces.values()} == {
        (2, 1, "answered")
    }


def test_a_living_process_keeps_its_part_and_another_store_its_own(path: Path, spool: Path, tmp_path: Path):
    with recording(path, spool) as one, recording(path, spool) as two:
        put_all(one, run(new_id()))
        put_all(two, run(new_id()))
        one.flush()
        assert len(parts(spool)) == 2
    with TraceStore.open(path) as store:
        part = folder.OwnPart(Spool(spool), store.key, "")
        part.append(*_numbered(1, TraceStarted(new_id())))
        part.leave()
    with recording(tmp_path / "other.db", spool) as recorder:
        put_all(recorder, run(new_id()))
        assert recorder.flush()
    assert len(parts(spool)) == 1, "it belongs to the first store"


def test_records_of_a_later_release_wait_for_it(path: Path, spool: Path):
    with TraceStore.open(path) as store:
        part = folder.OwnPart(Spool(spool), store.key, "")
        part.append(251, 1, b"from the future")
        part.leave()
        trace_id = new_id()
        with recording(store, spool) as recorder:
            put_all(recorder, run(trace_id))
            assert recorder.flush()
        assert store.trace(trace_id).totals.turns == 2
        assert len(parts(spool)) == 1
        codec.register(251, _Late, lambda late: b"", lambda payload: _Late())
        with recording(store, spool):
            until(lambda: parts(spool) == [])


class _Late:
    trace_id = ""

    def size(self) -> int:
        return 1

    def events(self) -> Iterable[Event]:
        return []


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_a_part_of_its_own(path: Path, spool: Path):
    import multiprocessing

    before, inside = new_id(), new_id()
    with recording(path, spool) as recorder:
        put_all(recorder, run(before))
        child = multiprocessing.get_context("fork").Process(target=put_all, args=(recorder, list(run(inside))))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert len(parts(spool)) == 1
        assert recorder.flush()
    with TraceStore.open(path) as store:
        assert {trace.id: trace.totals.turns for trace in store.full_traces()} == {before: 2, inside: 2}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(StoreError, match="give a folder that is writable"):
        Recorder(tmp_path / "t.db", spool=tmp_path / "closed")


def test_a_spool_that_is_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="give a folder that is writable"):
        Recorder(tmp_path / "t.db", spool=tmp_path / "file" / "spool")


def test_many_threads_put_while_the_store_comes_and_goes(path: Path, spool: Path):
    store = impatient(path)
    ids = [new_id() for _ in range(80)]
    with recording(store, Spool(spool, segment_bytes=10_000), max_events=30) as recorder:
        threads = [
            threading.Thread(target=lambda part=ids[place::4]: [put_all(recorder, run(one)) for one in part])
            for place in range(4)
        ]
        for thread in threads:
            thread.start()
        for _ in range(3):
            with locked(path):
                time.sleep(0.1)
            time.sleep(0.1)
        for thread in threads:
            thread.join()
        assert recorder.flush(60)
        assert not recorder.dropped
    assert {trace.id: (trace.totals.turns, len(trace.calls)) for trace in store.full_traces()} == dict.fromkeys(
        ids, (2, 1)
    )
    store.close()


def test_a_capture_has_a_spool(path: Path, spool: Path):
    with capture(path, spool=spool) as session:
        put_all(session.recorder, run(new_id()))
        assert len(parts(spool)) == 1
        assert session.flush()
    assert parts(spool) == []
    assert not session.dropped


def test_an_eager_spool_has_what_is_deferred_on_disk_when_put_returns(path: Path, spool: Path):
    store = impatient(path)
    trace_id = new_id()
    with recording(store, Spool(spool, eager=True)) as recorder, locked(path):
        recorder.put(Deferred(trace_id, lambda: TraceStarted(trace_id, request="here at once")))
        assert b"here at once" in b"".join(file.read_bytes() for file in segments(spool))
    assert store.trace(trace_id).request == "here at once"
    store.close()
