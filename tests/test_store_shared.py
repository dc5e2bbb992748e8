"""A store that several processes and a retention policy use at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.postgres import PostgresServer
from tests.sample_events import run
from tests.waiting import until
from toolorch_integrations.errors import StoreError
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.owner import Owner
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.store import RetentionPolicy, RetentionSchedule, TraceStore, TraceWrite, cursor, hold
from toolorch_integrations.trace import TraceHeader

DAY = 86_400.0


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TraceStore]:
    where = request.getfixturevalue("postgres_url") if request.param == "postgres" else tmp_path / "traces.db"
    with TraceStore.open(where) as opened:
        yield opened


def add(store: TraceStore, number: int, days: float, status: TraceStatus = TraceStatus.ANSWERED) -> str:
    header = TraceHeader(id=f"{number:032x}", started=time.time() - days * DAY, status=status, owner=Owner.current())
    store.write([TraceWrite(header)])
    return header.id


def ids(store: TraceStore) -> list[int]:
    return [int(header.id, 16) for header in store.traces()]


# Listings


def test_a_listing_goes_on_after_a_cursor(store: TraceStore):
    for number in range(7):
        add(store, number, days=3 - number // 2)
    seen: list[int] = []
    before: str | None = None
    while page := list(store.traces(limit=3, before=before)):
        seen += [int(header.id, 16) for header in page]
        before = cursor(page[-1])
    assert seen == ids(store)
    assert sorted(seen) == list(range(7)), "none is missing, and none comes twice"
    for wrong in ("", "x_y", "nan_" + "0" * 32, "5.0"):
        with pytest.raises(StoreError, match="no place in a listing"):
            list(store.traces(before=wrong))


def test_traces_that_vanish_while_they_are_read_are_whole_or_absent(store: TraceStore):
    recorder = Recorder(store)
    for number in range(120):
        for event in run(f"{number:032x}", started=1000.0 + number):
            recorder.put(event)
    assert recorder.close()
    reading = store.full_traces()
    found = [next(reading)]
    store.purge(keep=10)
    found += reading
    assert {len(trace.graph.nodes) for trace in found} == {5}
    assert 50 <= len(found) < 120


# Retention


def test_a_policy_keeps_what_it_says(store: TraceStore):
    for number, days in enumerate((50.0, 40.0, 20.0, 1.0)):
        add(store, number, days)
    add(store, 9, 60.0, TraceStatus.RUNNING)
    assert RetentionPolicy(days=30, keep=3).apply(store) is not None
    assert ids(store) == [3, 2, 1, 9], "the newest three stay though one is old; what runs stays"
    assert RetentionPolicy(days=30, status=TraceStatus.ERROR).apply(store) is not None
    assert ids(store) == [3, 2, 1, 9]
    found = RetentionPolicy(days=30).apply(store)
    assert found is not None
    assert found.traces == 1
    assert ids(store) == [3, 2, 9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs days or keep"),
        ({"status": TraceStatus.ERROR}, "needs days or keep"),
        ({"days": 0}, "must be above 0"),
        ({"keep": -1}, "not below 0"),
        ({"days": 1, "status": TraceStatus.RUNNING}, "never deletes running"),
    ],
)
def test_policies_that_mean_nothing(options: dict[str, object], message: str):
    with pytest.raises(StoreError, match=message):
        RetentionPolicy(**options)  # type: ignore[arg-type]


def test_nothing_is_deleted_while_somebody_holds_the_traces(store: TraceStore):
    add(store, 1, 50.0)
    policy = RetentionPolicy(days=30)
    with hold(store, "training"):
        assert policy.apply(store) is None
    with hold(store, "a process that died", seconds=-1.0):
        assert policy.apply(store) is not None, "a hold ends by itself"
    assert ids(store) == []


def test_transactions_of_retention_are_bounded(store: TraceStore, monkeypatch: pytest.MonkeyPatch):
    from sqlalchemy import event

    for number in range(25):
        add(store, number, 50.0)
    monkeypatch.setattr("toolorch_integrations.store.retention.CHUNK", 10)
    deleted: list[int] = []

    @event.listens_for(store.engine, "after_cursor_execute")
    def count(connection: object, found: object, statement: str, *_: object) -> None:
        if statement.startswith("DELETE FROM traces"):
            deleted.append(found.rowcount)  # type: ignore[attr-defined]

    assert store.purge(keep=2).traces == 23
    assert [number for number in deleted if number] == [10, 10, 3]


def test_a_schedule_applies_its_policy_and_survives_a_failure(store: TraceStore, monkeypatch: pytest.MonkeyPatch):
    add(store, 1, 50.0)
    real, failed = TraceStore.purge, threading.Event()

    def purge(self: TraceStore, **options: object) -> object:
        if not failed.is_set():
            failed.set()
            raise StoreError("down")
        return real(self, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(TraceStore, "purge", purge)
    schedule = RetentionSchedule(store, RetentionPolicy(days=30), every_seconds=0.05)
    schedule.start()
    until(lambda: not ids(store))
    schedule.stop()
    assert failed.is_set()


@pytest.mark.postgres
def test_one_of_several_gateways_applies_a_policy(postgres_url: str):
    with TraceStore.open(postgres_url) as store, psycopg.connect(postgres_url) as other:
        add(store, 1, 50.0)
        other.execute("SELECT pg_advisory_lock(7308332042)")
        assert RetentionPolicy(days=30).apply(store) is None
        other.execute("SELECT pg_advisory_unlock(7308332042)")
        assert RetentionPolicy(days=30).apply(store) is not None


@pytest.mark.postgres
def test_a_snapshot_that_a_writer_relies_on_is_not_tidied_away(postgres_url: str):
    """A transaction that found a snapshot there commits after the purge looked for unused ones."""
    with TraceStore.open(postgres_url) as store:
        header = TraceHeader(id="a" * 32, started=1.0, status=TraceStatus.ANSWERED, catalog_hash="h")
        store.write([TraceWrite(header, snapshots={"h": {"x": 1}})])
        with psycopg.connect(postgres_url) as other:
            other.execute("INSERT INTO snapshots VALUES ('h', '') ON CONFLICT DO NOTHING")
            purging = threading.Thread(target=store.purge, kwargs={"keep": 0})
            purging.start()
            until(lambda: _waits_for_a_lock(postgres_url))
            columns = [column.name for column in other.execute("SELECT * FROM traces LIMIT 0").description or ()]
            row = dict.fromkeys(columns, 0) | dict.fromkeys(
                ("status", "app", "framework", "thread_id", "request", "answer", "error", "host", "boot"), ""
            )
            row |= {
                "id": "b" * 32,
                "status": "answered",
                "catalog_hash": "h",
                "policy_versions": "[]",
                "metadata": "{}",
            }
            row |= {"exact": True, "preferences": None, "budget": None, "revision": 1}
            names, places = ", ".join(row), ", ".join(f"%({name})s" for name in row)
            other.execute(f"INSERT INTO traces ({names}) VALUES ({places})", row)  # type: ignore[arg-type]
        purging.join(60)
        assert store.trace("b" * 32).snapshots == {"h": {"x": 1}}


def _waits_for_a_lock(url: str) -> bool:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone()
    return bool(found and found[0])


# PostgreSQL under load


LOADED = """
    import sys, time, uuid
    from tests.sample_events import conversation, run
    from toolorch_integrations.recorder import Recorder
    url, spool, name, shared, runs = sys.argv[1:]
    recorder = Recorder(url, spool=spool)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(runs)):
        for event in run(uuid.uuid4().hex):
            recorder.put(event)
        if number % 10 == 0:
            for event in conversation(shared, agent=name):
                recorder.put(event)
        time.sleep(0.002)
    print(recorder.close(90), dict(recorder.dropped))
"""


def loaded(url: str, spool: Path, processes: int, runs: int) -> list[subprocess.Popen[str]]:
    shared = uuid.uuid4().hex
    started = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(LOADED), url, str(spool), f"p{number}", shared, str(runs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return started


def check_all_arrived(url: str, spool: Path, started: list[subprocess.Popen[str]], runs: int) -> None:
    assert [process.communicate(timeout=100)[0] for process in started] == ["True {}\n"] * len(started)
    assert list(spool.iterdir()) == []
    with TraceStore.open(url) as store:
        traces = list(store.full_traces())
    shared = [trace for trace in traces if trace.totals.turns > 2]
    assert len(traces) == len(started) * runs + 1
    assert {(trace.totals.turns, len(trace.calls)) for trace in traces if trace not in shared} == {(2, 1)}
    (one,) = shared
    rounds = len(range(0, runs, 10))
    assert one.totals.turns == 2 * rounds * len(started), "all wrote to one trace, and nobody over another"
    agents = [node.turn.agent for node in one.graph.nodes if node.turn is not None]
    assert {agent: agents.count(agent) for agent in set(agents)} == {
        f"p{number}": 2 * rounds for number in range(len(started))
    }


@pytest.mark.postgres
def test_four_gateways_write_one_store_and_one_trace(postgres_url: str, tmp_path: Path):
    TraceStore.open(postgres_url).close()
    started = loaded(postgres_url, tmp_path / "spool", processes=4, runs=50)
    check_all_arrived(postgres_url, tmp_path / "spool", started, 50)


@pytest.mark.postgres
def test_a_server_that_is_stopped_under_load_costs_nothing(own_postgres_server: PostgresServer, tmp_path: Path):
    """Connections are lost in the middle of transactions, the server is gone for seconds, and all arrives once."""
    url = own_postgres_server.new_database()
    TraceStore.open(url).close()
    started = loaded(url, tmp_path / "spool", processes=2, runs=400)
    time.sleep(0.7)
    own_postgres_server.stop()
    time.sleep(3)
    assert all(process.poll() is None for process in started)
    own_postgres_server.start()
    check_all_arrived(url, tmp_path / "spool", started, 400)
