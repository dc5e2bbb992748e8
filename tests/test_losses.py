"""What capture loses of a trace stands in that trace, also when nothing more is put of it; trainers go by that."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DataError

from tests.sample_events import conversation, run
from tests.waiting import until
from toolorch_integrations.detached import DetachedRecorder
from toolorch_integrations.events import (
    CallEnded,
    Deferred,
    Event,
    PolicyCalled,
    TraceEnded,
    TraceStarted,
    TraceStatus,
)
from toolorch_integrations.journal import MAX_OPEN
from toolorch_integrations.ledger import Call, CallKind
from toolorch_integrations.losses import Losses
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.spool import Spool
from toolorch_integrations.store import TraceStore
from toolorch_integrations.store import writing as store_writing
from toolorch_integrations.writer import Writer

pytestmark = pytest.mark.filterwarnings("ignore::toolorch_integrations.errors.CaptureWarning")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TraceStore]:
    with TraceStore.open(tmp_path / "traces.db") as made:
        made.prepare()
        yield made


def new_id() -> str:
    return uuid.uuid4().hex


def broken(trace_id: str) -> Deferred:
    """An event that cannot be decoded."""

    def decode() -> Event:
        raise RuntimeError("decoding failed")

    return Deferred(trace_id, decode)


def dropped(store: TraceStore, trace_id: str) -> Any:
    return store.trace(trace_id).metadata.get("dropped")


@contextlib.contextmanager
def locked(store: TraceStore) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(str(store.file), isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("kind", ["queue", "spool", "eager spool", "detached"])
@pytest.mark.parametrize("end", ["flush", "close"])
def test_a_loss_after_a_traces_end_stands_in_it(store: TraceStore, tmp_path: Path, kind: str, end: str) -> None:
    spool = Spool(tmp_path / "spool", eager=kind == "eager spool")
    recorder: Recorder | DetachedRecorder
    if kind == "detached":
        recorder = DetachedRecorder(store, spool=spool)
    else:
        recorder = Recorder(store, spool=None if kind == "queue" else spool)
    lossy, whole = new_id(), new_id()
    for item in (*run(lossy), *run(whole)):
        recorder.put(item)
    assert recorder.flush()
    recorder.put(broken(lossy))
    assert recorder.flush() if end == "flush" else recorder.close()
    assert dropped(store, lossy) == recorder.dropped == {"decode": 1}
    assert dropped(store, whole) is None
    found = store.trace(lossy)
    assert (found.status, found.answer, found.totals.turns) == (TraceStatus.ANSWERED, "4", 2)
    assert recorder.close()
    assert dropped(store, lossy) == {"decode": 1}, "it is counted once"


def test_what_a_process_loses_of_one_trace_goes_to_the_writer_with_another(store: TraceStore, tmp_path: Path) -> None:
    recorder = DetachedRecorder(store, spool=tmp_path / "spool")
    lossy = new_id()
    recorder.put(TraceStarted(lossy))
    recorder.put(TraceEnded(lossy))
    recorder.put(broken(lossy))
    recorder.put(TraceStarted(new_id()))
    assert not recorder._losses.take()
    recorder.put(broken(new_id()))
    assert recorder.close()
    assert dropped(store, lossy) == {"decode": 1}
    assert len(list(store.traces())) == 2, "a run of which there is nothing else is not made up"


def test_a_run_that_ended_while_the_store_was_down_has_its_end_and_says_what_it_lost(tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "traces.db", busy_seconds=0.01)
    store.prepare()
    lossy = new_id()
    start, *rest = run(lossy)
    with store, contextlib.closing(Recorder(store, retry_seconds=0.05)) as recorder:
        recorder.put(start)
        assert recorder.flush()
        with locked(store):
            for item in rest:
                recorder.put(item)
            until(lambda: recorder.flush() and recorder.dropped["store"] == len(rest))
        for item in run(new_id()):
            recorder.put(item)
        assert recorder.flush()
        found = store.trace(lossy)
        assert (found.status, found.answer) == (TraceStatus.ANSWERED, "4")
        assert found.metadata["dropped"]["store"] > 0
        assert len(found.graph) == 0
        assert recorder.dropped == {"store": len(rest)}, "what is noted late is no further loss"


def test_a_run_of_which_nothing_is_known_is_not_made_up_and_counts_once_it_is(store: TraceStore) -> None:
    losses = Losses()
    writer = Writer(store, losses, "", 1.0)
    late = new_id()
    losses.count("overflow", late, 3)
    writer.process(list(run(new_id())))
    assert late not in store.known([late])
    losses.count("overflow", late)
    writer.process([])
    writer.process(list(conversation(late)))
    assert dropped(store, late) == {"overflow": 4}
    writer.finish()
    assert dropped(store, late) == {"overflow": 4}


def test_what_is_lost_of_many_traces_is_noted_in_all(store: TraceStore) -> None:
    losses = Losses()
    writer = Writer(store, losses, "", 1.0)
    ids = [f"{number:032x}" for number in range(MAX_OPEN + 50)]
    running, ended = ids[:10], ids[10:]
    writer.process([*(TraceStarted(one) for one in ids), *(TraceEnded(one) for one in ended)])
    for one in ids:
        losses.count("overflow", one)
    writer.settle()
    found = {header.id: header.metadata.get("dropped") for header in store.traces()}
    assert found == {one: {"overflow": 1} for one in ids}
    assert store.trace(running[0]).status is TraceStatus.RUNNING


def test_another_process_that_writes_to_the_trace_is_added_to(store: TraceStore) -> None:
    losses = Losses()
    mine, others = Writer(store, losses, "", 5.0), Writer(store, Losses(), "", 5.0)
    shared = new_id()
    mine.process([TraceStarted(shared)])
    others.process([CallEnded(shared, Call(CallKind.TOOL, "add", call_id="c1"))])
    losses.count("overflow", shared)
    mine.settle()
    assert dropped(store, shared) == {"overflow": 1}
    assert [entry.call.name for entry in store.trace(shared).calls] == ["add"]


def test_a_store_that_refuses_a_trace_is_asked_once_more_and_the_others_go_on(
    store: TraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, other = new_id(), new_id()
    asked: list[str] = []
    write, write_each = store_writing.write, store_writing.write_each

    def refusing(connection: Any, writes: Any) -> None:
        if any(entry.header.id == refused for entry in writes):
            raise DataError("", {}, Exception("refused"))
        write(connection, writes)

    def refusing_each(connection: Any, writes: Any) -> Any:
        bad = [entry for entry in writes if entry.header.id == refused]
        asked.extend(entry.header.id for entry in bad)
        return bad + write_each(connection, [entry for entry in writes if entry not in bad])

    losses = Losses()
    writer = Writer(store, losses, "", 1.0)
    writer.process([TraceStarted(refused)])
    monkeypatch.setattr(store_writing, "write", refusing)
    monkeypatch.setattr(store_writing, "write_each", refusing_each)
    writer.process([*conversation(refused), *run(other)])
    assert store.trace(other).totals.turns == 2
    assert asked == [refused] * 2, "with its messages, then without them"
    writer.process(list(run(new_id())))
    assert asked == [refused] * 2
    monkeypatch.undo()
    writer.process([TraceEnded(refused)])
    assert store.trace(refused).status is TraceStatus.ANSWERED


def test_what_is_lost_while_the_store_is_down_outlives_the_process_in_its_spool(tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "traces.db", busy_seconds=0.01)
    store.prepare()
    lossy = new_id()
    with store:
        recorder = Recorder(store, spool=tmp_path / "spool", retry_seconds=0.05)
        for item in run(lossy):
            recorder.put(item)
        assert recorder.flush()
        with locked(store):
            recorder.put(broken(lossy))
            assert not recorder.close(0.3)
        assert dropped(store, lossy) is None
        with contextlib.closing(Recorder(store, spool=tmp_path / "spool")):
            until(lambda: dropped(store, lossy) == {"decode": 1})
        assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.parametrize("odd", [["a"], {"a": 1}, 7, None])
def test_an_odd_trace_id_costs_only_its_own_event(store: TraceStore, odd: Any) -> None:
    known = new_id()
    with contextlib.closing(Recorder(store, max_bytes=100_000)) as recorder:
        recorder.put(PolicyCalled(odd, [], None, [1] * 10_000))  # There is no room for it: the app must not hear.
        recorder.put(TraceEnded(odd))
        for item in run(known):
            recorder.put(item)
        assert recorder.flush(20)
        assert recorder.dropped["overflow"] == 1
    assert store.trace(known).totals.turns == 2


def test_losses_are_taken_in_parts_and_given_back_whole() -> None:
    losses = Losses()
    for one in ("a", "b", "c"):
        losses.count("decode", one)
    taken = losses.take(2)
    assert set(taken) == {"a", "b"}
    losses.give_back(taken)
    losses.keep({"c": Counter(overflow=2)})
    assert losses.take_of(["c", "d"]) == {"c": {"decode": 1, "overflow": 2}}
    assert losses.take() == {"a": {"decode": 1}, "b": {"decode": 1}}
    assert losses.take() == {}
    assert losses.dropped == {"decode": 3}
