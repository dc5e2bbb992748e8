"""The recorder whose writer is a process of its own: nothing is lost, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from toolorch_integrations.detached import DetachedRecorder
from toolorch_integrations.detached_writer import DetachedWriter
from toolorch_integrations.errors import CaptureWarning
from toolorch_integrations.events import Deferred, PolicyCalled, TraceEnded, TraceStarted, TraceStatus
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.spool import FIRST_KIND, Spool
from toolorch_integrations.spool.folder import OwnPart
from toolorch_integrations.store import TraceStore
from toolorch_integrations.wire_call import WireCall, WireFacts

APP = """
import sys, time
from tests.test_detached import call
from toolorch_integrations.detached import DetachedRecorder
recorder = DetachedRecorder(sys.argv[1], spool=sys.argv[2])
for number in range(200):
    recorder.put(call(number))
    print(number, flush=True)
time.sleep(60)
"""


def call(number: int) -> WireCall:
    """A call of a trace of its own."""
    choice = {"index": 0, "message": {"role": "assistant", "content": f"answer {number}"}, "token_ids": [number]}
    choice |= {"finish_reason": "stop", "logprobs": {"content": [{"logprob": -1.0}]}}
    answer = {"id": "x", "model": "policy", "choices": [choice], "prompt_token_ids": [1, 2]}
    request: dict[str, Any] = {"messages": [{"role": "user", "content": f"question {number}"}]}
    facts = WireFacts(uuid.UUID(int=number + 1).hex, started=1000.0 + number)
    return WireCall(facts, json.dumps(request).encode(), json.dumps(answer).encode())


def put_many(recorder: DetachedRecorder, number: int) -> None:
    for one in range(number):
        recorder.put(call(one))


def answers(store: Path) -> list[str]:
    """The answers of all traces; each has to be exact and ended."""
    traces = sorted(TraceStore(store).full_traces(), key=lambda trace: trace.started)
    assert all(trace.exact and trace.status is TraceStatus.ANSWERED for trace in traces)
    return [trace.answer for trace in traces]


def eventually(store: Path, number: int) -> list[str]:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        if store.exists():
            try:
                found = answers(store)
            except Exception:  # The tables are being made.
                found = []
            if len(found) >= number:
                return found
        time.sleep(0.2)
    return answers(store)


def test_all_that_is_put_is_stored_and_no_file_is_left(tmp_path: Path) -> None:
    recorder = DetachedRecorder(tmp_path / "t.db", spool=tmp_path / "spool", app="shop")
    recorder.put(TraceStarted("a" * 32, request="waits"))
    for number in range(100):
        recorder.put(call(number))
    assert recorder.flush(60)
    assert recorder.close(60)
    assert not recorder.dropped
    assert list((tmp_path / "spool").iterdir()) == []
    traces = {trace.id: trace for trace in TraceStore(tmp_path / "t.db").traces()}
    assert len(traces) == 101
    assert {trace.app for trace in traces.values()} == {"shop"}
    assert traces["a" * 32].status is TraceStatus.INTERRUPTED


def test_a_writer_that_is_killed_is_started_again_and_stores_each_call_once(tmp_path: Path) -> None:
    recorder = DetachedRecorder(tmp_path / "t.db", spool=tmp_path / "spool")
    for number in range(150):
        recorder.put(call(number))
        if number == 70:
            assert recorder.flush(60)
            assert recorder._writer is not None
            recorder._writer.kill()
            recorder._writer.wait()
    assert recorder.flush(60)
    assert recorder.close(60)
    assert answers(tmp_path / "t.db") == [f"answer {number}" for number in range(150)]


@pytest.mark.parametrize("writer_too", [False, True])
def test_nothing_is_lost_with_an_app_that_is_killed(tmp_path: Path, writer_too: bool) -> None:
    command = [sys.executable, "-c", APP, str(tmp_path / "t.db"), str(tmp_path / "spool")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as app:
        assert app.stdout is not None
        put = next(number for number, line in enumerate(app.stdout, start=1) if number == 120)
        if writer_too:
            children = Path(f"/proc/{app.pid}/task/{app.pid}/children").read_text().split()
            for child in children:
                os.kill(int(child), signal.SIGKILL)
        app.kill()
        put += sum(1 for _ in app.stdout)
    if writer_too:  # Any process that uses the spool adopts what they left.
        with_spool = Recorder(tmp_path / "t.db", spool=tmp_path / "spool")
        found = eventually(tmp_path / "t.db", put)
        with_spool.close()
    else:
        found = eventually(tmp_path / "t.db", put)
        deadline = time.monotonic() + 30
        while list((tmp_path / "spool").iterdir()):
            assert time.monotonic() < deadline, "the writer leaves files that another process would store again"
            time.sleep(0.05)
    assert found[:put] == [f"answer {number}" for number in range(put)]


def test_a_store_that_is_locked_for_a_while_delays_and_loses_nothing(tmp_path: Path) -> None:
    TraceStore(tmp_path / "t.db").prepare()
    recorder = DetachedRecorder(tmp_path / "t.db", spool=tmp_path / "spool")
    locked = sqlite3.connect(tmp_path / "t.db", isolation_level=None)
    locked.execute("BEGIN EXCLUSIVE")
    for number in range(20):
        recorder.put(call(number))
    assert not recorder.flush(1)
    locked.execute("COMMIT")
    locked.close()
    assert recorder.flush(60)
    assert recorder.close(60)
    assert len(answers(tmp_path / "t.db")) == 20


def test_a_full_spool_asks_for_patience_then_counts_what_is_lost(tmp_path: Path) -> None:
    TraceStore(tmp_path / "t.db").prepare()
    with sqlite3.connect(tmp_path / "t.db", isolation_level=None) as locked:
        locked.execute("BEGIN EXCLUSIVE")
        recorder = DetachedRecorder(tmp_path / "t.db", spool=Spool(tmp_path / "spool", max_bytes=20_000))
        assert recorder.pause() == 0.0
        with pytest.warns(CaptureWarning):
            put_many(recorder, 100)
        assert recorder.pause() > 0.3
        lost = recorder.dropped["spool"]
        locked.execute("COMMIT")
    locked.close()
    assert recorder.close(60)
    assert 0 < lost < 100
    assert len(answers(tmp_path / "t.db")) == 100 - lost


def test_a_faulty_record_is_counted_once_while_a_store_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "spool")
    spool.check()
    store = TraceStore.open(tmp_path / "traces.db")
    part = OwnPart(spool, store.key, "")
    part.append(FIRST_KIND, 1, b"no call")
    part.append(FIRST_KIND, 2, call(7).pack())
    facts = {"store": str(store), "spool": str(spool.folder), "part": str(part.folder), "app": "", "niceness": 0}
    monkeypatch.setattr("toolorch_integrations.detached_writer._PATIENCE", 0.0)
    writer = DetachedWriter(facts)
    works = TraceStore.write

    def down(*_: object) -> None:
        raise OperationalError("", {}, sqlite3.OperationalError("disk full"))

    monkeypatch.setattr(TraceStore, "write", down)
    assert [writer._step(), writer._step()] == [None, None]
    monkeypatch.setattr(TraceStore, "write", works)
    assert [writer._step(), writer._step()] == [False, False]
    assert writer._losses.dropped == {"decode": 1}
    assert answers(tmp_path / "traces.db") == ["answer 7"]
    part.leave()


def test_what_the_app_loses_is_counted_in_its_trace(tmp_path: Path):
    trace_id = "a" * 32
    recorder = DetachedRecorder(tmp_path / "traces.db", spool=Spool(tmp_path / "spool", max_bytes=10_000))
    recorder.put(TraceStarted(trace_id))
    with pytest.warns(CaptureWarning):
        recorder.put(Deferred(trace_id, lambda: 1 / 0))  # type: ignore[arg-type, return-value]
    recorder.put(PolicyCalled(trace_id, [{"role": "user", "content": "x" * 20_000}]))
    recorder.put(TraceEnded(trace_id))
    assert recorder.close()
    trace = TraceStore(tmp_path / "traces.db").trace(trace_id)
    assert trace.status is TraceStatus.ANSWERED
    assert trace.metadata["dropped"] == recorder.dropped == {"decode": 1, "spool": 1}
