from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import insert, text

from tests.sample_events import CATALOG, TOOLS, run
from toolorch_integrations.errors import StoreError
from toolorch_integrations.events import PolicyCalled, TraceEnded, TraceStarted, TraceStatus
from toolorch_integrations.ledger import CallStatus
from toolorch_integrations.owner import Owner
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.store import TraceStore, TraceWrite
from toolorch_integrations.store.schema import SCHEMA_VERSION, schema_version
from toolorch_integrations.trace import Feedback, Reward, TraceHeader


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'traces.db'}"


@pytest.fixture
def store(url: str) -> Iterator[TraceStore]:
    with TraceStore.open(url) as opened:
        yield opened


def record(store: TraceStore, *runs: object) -> None:
    recorder = Recorder(store)
    for events in runs:
        for event in events:  # type: ignore[attr-defined]
            recorder.put(event)
    assert recorder.close()
    assert not recorder.dropped


def test_a_run_comes_back_as_it_was(store: TraceStore):
    trace_id = uuid.uuid4().hex
    record(store, run(trace_id, turns=3, thread_id="thread-7", started=1000.5))
    trace = store.trace(trace_id)
    assert trace.status is TraceStatus.ANSWERED
    assert (trace.started, trace.framework, trace.app, trace.thread_id) == (1000.5, "langgraph", "adder", "thread-7")
    assert (trace.request, trace.answer, trace.error) == ("Add.", "4", "")
    assert (trace.preferences, trace.budget, trace.catalog) == ({"cost": 0.5}, {"dollars": 1.0}, CATALOG)
    assert trace.metadata == {"tags": ["nightly"]}
    assert trace.policy_versions == ["policy-1"]
    assert trace.exact
    assert trace.owner == Owner.current()
    (path,) = trace.paths()
    assert path.token_ids.dtype == np.uint32
    expected = [0, 1, 2, 3, 4, 1000, 1000, 1000, 7, 7, 1001, 1001, 1001, 7, 7, 1002, 1002, 1002]
    assert path.token_ids.tolist() == expected
    assert path.logprobs.dtype == np.float32
    assert path.logprobs[path.sampled].tolist() == [-0.25, -0.5, 0.0, -0.25, -0.5, -1.0, -0.25, -0.5, -2.0]
    turn = path.nodes[2].turn
    assert turn is not None
    assert (turn.sampling, turn.logprobs_mode) == ({"temperature": 0.7}, "processed_logprobs")
    assert (turn.response_id, turn.finish_reason, turn.seconds) == ("r0", "tool_calls", 0.5)
    assert trace.tools(path.nodes[2]) == TOOLS
    assert [(entry.node, entry.arguments, entry.result) for entry in trace.calls] == [
        (2, {"turn": 0}, "4"),
        (4, {"turn": 1}, "4"),
    ]
    ledger = trace.ledger()
    assert ledger.turns == trace.totals.turns == 3
    assert trace.totals.calls == 2
    assert ledger.dollars == pytest.approx(trace.totals.dollars) == pytest.approx(0.023)
    assert ledger.tokens == (trace.totals.input_tokens, trace.totals.output_tokens) == (30, 9)


def test_arguments_that_differ_from_the_message_are_kept(store: TraceStore):
    trace_id = uuid.uuid4().hex
    events = list(run(trace_id, turns=3))
    events[3] = dataclasses.replace(events[3], arguments={"turn": "edited by a person"})  # type: ignore[call-arg]
    events[5] = dataclasses.replace(events[5], arguments=None)  # type: ignore[call-arg]
    record(store, events)
    assert [entry.arguments for entry in store.trace(trace_id).calls] == [{"turn": "edited by a person"}, {"turn": 1}]


def test_texts_that_databases_refuse_and_odd_values_do_not_lose_a_trace(store: TraceStore):
    trace_id = uuid.uuid4().hex
    odd = "NUL \x00, surrogate \ud800, 字, 🙂"
    reply = {"role": "assistant", "content": odd}
    record(
        store,
        [
            TraceStarted(trace_id, request=odd, metadata={"path": Path("/x"), "odd": odd}),
            PolicyCalled(trace_id, [{"role": "user", "content": odd}], reply, [1], [2], [-np.inf], model="m"),
            TraceEnded(trace_id, answer=odd),
        ],
    )
    trace = store.trace(trace_id)
    assert [node.message["content"] for node in trace.graph.nodes] == [odd, odd], "messages are exact"
    assert trace.metadata == {"path": "/x", "odd": odd}
    assert trace.request == "NUL \N{REPLACEMENT CHARACTER}, surrogate ?, 字, 🙂"
    assert trace.graph.nodes[1].logprobs is not None
    assert np.isneginf(trace.graph.nodes[1].logprobs).all()


def test_a_catalogue_is_stored_once(store: TraceStore):
    record(store, *(run(uuid.uuid4().hex) for _ in range(5)))
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM snapshots")).scalar_one() == 2


def test_a_failed_policy_call_is_a_call_of_the_trace(store: TraceStore):
    trace_id = uuid.uuid4().hex
    failed = PolicyCalled(
        trace_id, [{"role": "user", "content": "x"}], None, status=CallStatus.TIMEOUT, error="slow", seconds=9
    )
    record(store, [TraceStarted(trace_id), failed, TraceEnded(trace_id, TraceStatus.ERROR, error="slow")])
    trace = store.trace(trace_id)
    assert trace.status is TraceStatus.ERROR
    assert trace.ledger().calls[0].status is CallStatus.TIMEOUT
    assert trace.totals.turns == 1
    assert trace.calls[0].node == 0


def test_a_long_result_is_cut_and_its_length_kept(store: TraceStore):
    trace_id = uuid.uuid4().hex
    events = list(run(trace_id))
    events[3] = dataclasses.replace(events[3], result="x" * 1_000_000)  # type: ignore[call-arg]
    record(store, events)
    (entry,) = store.trace(trace_id).calls
    assert len(entry.result) == 65_536
    assert entry.result_length == 1_000_000


def test_filters(store: TraceStore):
    for number in range(120):
        header = TraceHeader(id=f"{number:032x}", started=float(number // 2), app=f"app-{number % 3}", exact=number > 9)
        header.status = TraceStatus.ERROR if number % 4 == 0 else TraceStatus.ANSWERED
        header.policy_versions = ['odd "name"', f"policy_{number % 2}"]
        store.write([TraceWrite(header)])
    assert [int(header.id, 16) for header in store.traces()] == list(reversed(range(120))), "pages join without a gap"
    assert len(list(store.traces(status="error"))) == 30
    assert len(list(store.traces(app="app-1", status=TraceStatus.ANSWERED))) == 30
    assert len(list(store.traces(exact=False))) == 10
    assert len(list(store.traces(since=10.0, until=20.0))) == 20
    assert len(list(store.traces(model="policy_1"))) == 60
    assert len(list(store.traces(model='odd "name"'))) == 120
    assert len(list(store.traces(model="policy"))) == 0
    assert [int(header.id, 16) for header in store.traces(limit=3)] == [119, 118, 117]
    assert len(list(store.full_traces(limit=70))) == 70
    with pytest.raises(ValueError, match="nonsense"):
        list(store.traces(status="nonsense"))


def test_a_prefix_of_an_id_is_enough_if_it_is_unique(store: TraceStore):
    for trace_id in ("abc1" * 8, "abd2" * 8):
        store.write([TraceWrite(TraceHeader(id=trace_id))])
    assert store.trace("abc").id == "abc1" * 8
    with pytest.raises(StoreError, match="more than one"):
        store.trace("ab")
    with pytest.raises(StoreError, match="no trace 'x'"):
        store.trace("x")
    with pytest.raises(StoreError, match="no trace '%'"):
        store.trace("%")


def test_feedback_and_rewards_come_later(store: TraceStore):
    trace_id = uuid.uuid4().hex
    record(store, run(trace_id))
    entry = Feedback(trace_id, "thumb", 1.0, "right", "ann")
    store.add_feedback(entry, Feedback(trace_id, "style", None, "dry"))
    store.add_feedback(dataclasses.replace(entry, score=0.0))
    store.add_rewards(Reward(trace_id, {"outcome": 1.0, "cost": -0.2}, "exact-match"))
    trace = store.trace(trace_id)
    assert [(one.name, one.score) for one in trace.feedback] == [("thumb", 0.0), ("style", None)]
    assert trace.rewards[0].values == {"outcome": 1.0, "cost": -0.2}
    with pytest.raises(StoreError, match="no trace"):
        store.add_feedback(Feedback("f" * 32, "thumb", 1.0))
    with pytest.raises(StoreError, match="no trace"):
        store.add_rewards(Reward("f" * 32, {"outcome": 1.0}))


def test_purge_takes_what_was_chosen_with_all_that_hangs_on_it(store: TraceStore):
    now = time.time()
    old, young, running = (uuid.uuid4().hex for _ in range(3))
    record(store, run(old, started=now - 40 * 86400), run(young, started=now))
    store.write([TraceWrite(TraceHeader(id=running, started=now - 50 * 86400, owner=Owner.current()))])
    store.add_feedback(Feedback(old, "thumb", 1.0))
    would = store.purge(older_than=30 * 86400, dry_run=True)
    assert (would.traces, would.turns) == (1, 2)
    assert store.stats().traces == 3
    assert store.purge(older_than=30 * 86400) == would
    assert {header.id for header in store.traces()} == {young, running}
    with store.engine.connect() as connection:
        for table in ("nodes", "calls", "feedback"):
            ids = connection.execute(text(f"SELECT DISTINCT trace_id FROM {table}")).scalars().all()
            assert set(ids) <= {young}
        assert connection.execute(text("SELECT count(*) FROM snapshots")).scalar_one() == 2, "young still uses them"
    assert store.purge(status="running").traces == 1
    assert store.purge(keep=0).traces == 1
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM snapshots")).scalar_one() == 0
    with pytest.raises(ValueError, match="needs"):
        store.purge()


def test_purge_keeps_the_newest(store: TraceStore):
    for number in range(5):
        store.write([TraceWrite(TraceHeader(id=f"{number:032x}", started=number, status=TraceStatus.ANSWERED))])
    assert store.purge(keep=2).traces == 3
    assert [int(header.id, 16) for header in store.traces()] == [4, 3]


def test_stats(store: TraceStore):
    record(store, run(uuid.uuid4().hex), run(uuid.uuid4().hex, turns=3))
    stats = store.stats()
    assert (stats.traces, stats.exact, stats.turns, stats.calls) == (2, 2, 5, 3)
    assert stats.by_status == {"answered": 2}
    assert stats.dollars == pytest.approx(0.035)
    assert stats.bytes > 0


def test_traces_of_dead_processes_are_interrupted_when_the_store_is_opened(store: TraceStore, url: str):
    me = Owner.current()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    owners = {
        "alive": me,
        "other host": dataclasses.replace(me, host="elsewhere", pid=2**22 - 1),
        "same pid, other process": dataclasses.replace(me, started=me.started + 1),
        "before the last boot": dataclasses.replace(me, boot="another"),
        "killed": dataclasses.replace(me, pid=child.pid),
    }
    ids = {name: uuid.uuid4().hex for name in owners}
    for name, owner in owners.items():
        store.write([TraceWrite(TraceHeader(id=ids[name], owner=owner))])
    child.kill()
    child.wait()
    with TraceStore.open(url) as again:
        status = {name: again.trace(trace_id).status.value for name, trace_id in ids.items()}
    assert status == {
        "alive": "running",
        "other host": "running",
        "same pid, other process": "interrupted",
        "before the last boot": "interrupted",
        "killed": "interrupted",
    }


def test_a_newer_schema_is_refused(store: TraceStore, url: str):
    with store.engine.begin() as connection:
        connection.execute(insert(schema_version).values(version=SCHEMA_VERSION + 1))
    with pytest.raises(StoreError, match="newer than this release"):
        TraceStore.open(url)


def test_a_purge_gives_disk_space_back(tmp_path: Path):
    with TraceStore.open(tmp_path / "t.db") as store:
        trace_id = uuid.uuid4().hex
        record(store, [TraceStarted(trace_id, request="x" * 2_000_000), TraceEnded(trace_id)])
        before = store.stats().bytes
        store.purge(keep=0)
        assert store.stats().bytes < before - 1_900_000
        assert (tmp_path / "t.db").stat().st_size < before - 1_900_000


@pytest.mark.parametrize("where", ["traces.db", "sqlite:///traces.db", "sub/folder/traces.db"])
def test_a_file_name_is_enough_and_a_later_chdir_changes_nothing(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with TraceStore.open(where) as store:
        os.chdir("/")
        store.write([TraceWrite(TraceHeader(id="a" * 32))])
    name = where.removeprefix("sqlite:///")
    assert (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("mysql://host/db", "mysql is not supported"),
        ("sqlite://", "give a file"),
        (":memory:", "give a file"),
        ("postgresql://", "cannot be opened|could not"),
        ("://", "not a database URL"),
    ],
)
def test_urls_that_are_not_usable(where: str, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PGHOST", "/nonexistent")
    with pytest.raises(StoreError, match=message):
        TraceStore.open(where)


def test_a_store_that_is_not_there_and_one_that_is_no_database(tmp_path: Path):
    with pytest.raises(StoreError, match="there is no trace store"):
        TraceStore.open(tmp_path / "none.db", create=False)
    (tmp_path / "text.db").write_text("not a database, but long enough to look like a file of one" * 50)
    with pytest.raises(StoreError, match="cannot be opened"):
        TraceStore.open(tmp_path / "text.db")
    with pytest.raises(StoreError, match="cannot be opened"):
        TraceStore.open(tmp_path / "text.db" / "below.db")


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(StoreError) as caught:
        TraceStore.open("postgresql://ann:hidden@127.0.0.1:1/db")
    assert "hidden" not in str(caught.value)


def test_the_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("toolorch_integrations.store.engine.find_spec", lambda name: None)
    with pytest.raises(StoreError, match=r"toolorch-integrations\[postgres\]"):
        TraceStore("postgresql://host/db")
