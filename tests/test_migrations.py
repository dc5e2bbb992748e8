from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import textwrap
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from typer.testing import CliRunner

from toolorch_integrations.cli.traces import traces
from toolorch_integrations.errors import StoreError
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.store import TraceStore, TraceWrite, upgrade
from toolorch_integrations.store.schema import SCHEMA_VERSION, metadata
from toolorch_integrations.trace import TraceHeader
from toolorch_serving.promotion.records import PromotionRecord, PromotionRecords, Step

FIRST_RELEASE = Path(__file__).parent / "golden" / "store_v1.sql"
TRACE = "1" * 32


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'traces.db'}"


def first_release(url: str) -> None:
    """Make a store as the first release did, which knew no migrations; with one trace of the release's own (SQLite)."""
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.executescript(FIRST_RELEASE.read_text())
        connection.close()
        return
    with TraceStore(url) as store, store.engine.begin() as connection:
        config = upgrade._config()
        config.attributes |= {"connection": connection, "version_table": upgrade.VERSION_TABLE}
        command.upgrade(config, "0001")
        connection.execute(text(f"DROP TABLE {upgrade.VERSION_TABLE}"))
        connection.execute(text("INSERT INTO toolorch_schema VALUES (1)"))
    with TraceStore(url) as store:
        store.write([TraceWrite(TraceHeader(id=TRACE, started=1000.0, status=TraceStatus.ANSWERED, answer="4"))])


def differences(connection: Connection) -> list[object]:
    options = {"compare_type": True, "version_table": upgrade.VERSION_TABLE}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def test_the_migrations_make_the_tables_that_queries_are_written_with(url: str):
    with TraceStore.open(url) as store, store.engine.connect() as connection:
        assert differences(connection) == []
        assert upgrade.version(connection) == SCHEMA_VERSION
        mark = connection.execute(text(f"SELECT version_num FROM {upgrade.VERSION_TABLE}")).scalars().all()
        assert [int(one) for one in mark] == [SCHEMA_VERSION], "the two marks agree"


def test_a_store_of_the_first_release_is_upgraded_as_it_is_opened(url: str):
    first_release(url)
    with TraceStore.open(url) as store:
        trace = store.trace(TRACE)
        assert (trace.status, trace.started, trace.answer) == (TraceStatus.ANSWERED, 1000.0, "4")
        if url.startswith("sqlite"):
            (path,) = trace.paths()
            assert path.token_ids.tolist() == [0, 1, 2, 3, 4, 1000, 1000, 1000, 7, 7, 1001, 1001, 1001]
        with store.engine.connect() as connection:
            assert differences(connection) == []


def test_a_record_of_promotions_that_is_there_is_kept(url: str):
    first_release(url)
    columns = "candidate text not null, incumbent text not null, folder text not null, share double precision not null"
    number = "number integer primary key" if url.startswith("sqlite") else "number serial primary key"
    with TraceStore(url) as store, store.engine.begin() as connection:
        connection.execute(
            text(
                f"CREATE TABLE promotions ({number}, promotion text not null, step text not null, "
                f"time double precision not null, {columns}, reason text not null, evidence text not null, "
                "UNIQUE (promotion, step))"
            )
        )
        values = "('p', 'begun', 1.0, 'v2', 'v1', '', 0, '', '{}')"
        names = "promotion, step, time, candidate, incumbent, folder, share, reason, evidence"
        connection.execute(text(f"INSERT INTO promotions ({names}) VALUES {values}"))
    with TraceStore(url) as store:
        records = PromotionRecords(store)
        (begun,) = records.history()
        records.append(PromotionRecord("p", Step.STAYED, "v2", "v1"), begun)
        assert records.unfinished() is None


def test_several_processes_open_an_old_store_at_once(url: str):
    first_release(url)
    assert open_in_processes(url) == ["1\n"] * 3


def open_in_processes(url: str) -> list[str]:
    """Have three processes open a store at once; return what each says of the number of its traces."""
    script = """
        import sys
        from toolorch_integrations.store import TraceStore
        import alembic.command
        print("ready", flush=True)
        sys.stdin.readline()
        with TraceStore.open(sys.argv[1]) as store:
            print(len(list(store.traces())))
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [process.communicate(timeout=60)[0] for process in processes]


def test_a_store_in_another_journal_mode_is_opened_once_nobody_uses_it(tmp_path: Path):
    """SQLite does not wait for another's write where it changes the mode."""
    path = tmp_path / "traces.db"
    first_release(f"sqlite:///{path}")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, other.rollback)
        release.start()
        with TraceStore.open(path) as store:
            assert [header.id for header in store.traces()] == [TRACE]
        release.join()


def test_several_processes_make_a_new_store_at_once(url: str):
    assert open_in_processes(url) == ["0\n"] * 3


@pytest.mark.parametrize("old", [False, True], ids=["new stores", "old stores"])
@pytest.mark.parametrize("shared", [False, True], ids=["a store each", "one store"])
def test_several_threads_prepare_stores_at_once(
    request: pytest.FixtureRequest, tmp_path: Path, url: str, old: bool, shared: bool
):
    """Alembic's context is global to a process."""
    urls = [url] * 4
    if not shared and url.startswith("sqlite"):
        urls = [f"sqlite:///{tmp_path / f'{number}.db'}" for number in range(4)]
    elif not shared:
        urls = [new_database(request) for _ in urls]
    for one in set(urls) if old else ():
        first_release(one)
    ready = threading.Barrier(len(urls))

    def prepare(url: str) -> tuple[int, list[str]]:
        ready.wait(30)
        with TraceStore.open(url) as store, store.engine.connect() as connection:
            return upgrade.version(connection), [header.id for header in store.traces()]

    with ThreadPoolExecutor(len(urls)) as threads:
        assert list(threads.map(prepare, urls)) == [(SCHEMA_VERSION, [TRACE] * old)] * len(urls)
    for one in set(urls):
        with TraceStore(one) as store, store.engine.connect() as connection:
            assert differences(connection) == []


def new_database(request: pytest.FixtureRequest) -> str:
    """Return the URL of another new database on the tests' server, which goes with the server."""
    server = request.getfixturevalue("postgres_server")
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server}/{name}"


def test_an_upgrade_that_fails_leaves_the_store_as_it_was(url: str, monkeypatch: pytest.MonkeyPatch):
    first_release(url)
    with TraceStore(url) as store, store.engine.begin() as connection:
        connection.execute(text("CREATE TABLE holds (id integer)"))  # In the way of a table of revision 2.
    with pytest.raises(StoreError, match="holds"):
        TraceStore.open(url)
    with TraceStore(url) as store, store.engine.begin() as connection:
        assert upgrade.version(connection) == 1
        assert not inspect(connection).has_table("run_aliases"), "what came before it is undone"
        connection.execute(text("DROP TABLE holds"))
    with TraceStore.open(url) as store:
        assert [header.id for header in store.traces()] == [TRACE]


def test_the_marks_of_old_releases_refuse_the_new_schema(url: str):
    """The first release refuses a store whose highest number in `toolorch_schema` is above its own, which was 1."""
    first_release(url)
    with TraceStore.open(url) as store, store.engine.connect() as connection:
        assert connection.execute(text("SELECT max(version) FROM toolorch_schema")).scalar_one() == 2


def test_alembic_is_not_imported_for_a_store_that_is_up_to_date(tmp_path: Path):
    path = tmp_path / "traces.db"
    TraceStore.open(path).close()
    script = f"""
        import sys
        from toolorch_integrations.store import TraceStore
        TraceStore.open({str(path)!r}).close()
        print("alembic" in sys.modules)
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True, text=True, timeout=60
    )
    assert found.stdout == "False\n"


def test_the_command_says_what_it_would_do_and_does_it(tmp_path: Path):
    path = tmp_path / "traces.db"

    def migrate(*arguments: str, code: int = 0) -> str:
        result = CliRunner(env={"TOOLORCH_STORE": str(path), "COLUMNS": "160"}).invoke(traces, ["migrate", *arguments])
        assert result.exit_code == code, result.output
        return result.output

    assert "there is no trace store" in migrate(code=1)
    first_release(f"sqlite:///{path}")
    before = _dump(path)
    assert migrate("--dry-run").splitlines()[0].startswith("0002  What many writers need")
    assert "schema 1, would be schema 2" in migrate("--dry-run")
    assert _dump(path) == before
    assert "schema 1, now schema 2" in migrate()
    assert "schema 2: nothing to do" in migrate()


def test_listings_are_read_from_an_index(url: str):
    """No listing of the read API sorts, or looks at, traces that are not on its page."""
    with TraceStore.open(url) as store:
        store.write([TraceWrite(TraceHeader(id=f"{number:032x}", started=number)) for number in range(600)])
        with store.engine.connect() as connection:
            if not url.startswith("sqlite"):
                connection.execute(text("ANALYZE traces"))
                connection.execute(text("SET enable_seqscan = off"))
            for condition in ("status = 'answered' AND", "app = 'a' AND", "thread_id = 't' AND", ""):
                plan = _plan(connection, f"{condition} (started, id) < (500.0, 'a')")
                assert "traces_" in plan, plan
                assert "SORT" not in plan.upper().replace("SORT KEY", ""), plan


def _plan(connection: Connection, where: str) -> str:
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    query = f"{explain} SELECT * FROM traces WHERE {where} ORDER BY started DESC, id DESC LIMIT 50"
    return "\n".join(str(row) for row in connection.exec_driver_sql(query))


def _dump(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def test_an_upgrade_waits_for_a_writer(tmp_path: Path):
    path = tmp_path / "traces.db"
    first_release(f"sqlite:///{path}")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, other.execute, ["COMMIT"])
        release.start()
        with TraceStore.open(path) as store:
            assert [header.id for header in store.traces()] == [TRACE]
        release.join()
