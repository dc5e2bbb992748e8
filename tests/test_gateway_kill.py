"""Two real gateways under load, and what may happen to them: kill -9, SIGTERM, and a store or a policy that goes away.

The load is that of the benchmark: clients stream through the proxy and ask an orchestrator.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from benchmarks.streams_load import Load, Told
from benchmarks.streams_traces import lost
from benchmarks.streams_world import Server, World, world
from tests.postgres import PostgresServer, running_server

pytestmark = pytest.mark.slow

PACE = {"STREAMS_TOKENS": "32", "STREAMS_RATE": "40", "STREAMS_PIECE": "2"}
"""A stream takes 0.8 s, an orchestrator's run 1.2 s."""
CLIENTS = 10
"""Of each gateway."""


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("sqlite")
    with world(folder, str(folder / "traces.db"), PACE) as made:
        yield made


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def on_postgres(tmp_path_factory: pytest.TempPathFactory, database: PostgresServer) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("postgres"), database.new_database(), PACE) as made:
        yield made


def load(seconds: float, first: int, *, lasting: bool = True) -> Load:
    return Load(CLIENTS, seconds, think=0.3, ramp=0.5, leaving=0.05, slow=0.1, first=first, lasting=lasting)


def told_of(*all_told: Told) -> Told:
    """What all clients were told, as one."""
    whole = Told()
    for told in all_told:
        assert told.finished, f"nobody was answered: {told.errors}"
        whole.finished |= told.finished
        for name in ("orchestrated", "fallen_back", "left", "broken"):
            getattr(whole, name).extend(getattr(told, name))
    return whole


@pytest.mark.parametrize(
    ("where", "writer"),
    [("on_sqlite", False), pytest.param("on_postgres", True, marks=pytest.mark.postgres)],
    ids=["sqlite", "postgres-and-the-writer-too"],
)
def test_kill_of_one_of_two_gateways_loses_no_finished_trace(
    where: str, writer: bool, request: pytest.FixtureRequest
) -> None:
    made: World = request.getfixturevalue(where)
    doomed, other = made.serve(2)
    killed, well = made.clients(doomed, load(60, 0, lasting=False)), made.clients(other, load(12, 1_000_000))
    killed.warm()
    well.warm()
    time.sleep(1)
    doomed.kill(writer=writer)
    from_doomed, from_other = killed.told(60), well.told(60)
    assert from_other.errors == []
    assert from_doomed.errors, "it was killed under load"
    assert lost(made.store, told_of(from_doomed, from_other)) == []


@pytest.mark.postgres
def test_postgres_goes_away_and_no_client_notices(on_postgres: World, database: PostgresServer) -> None:
    gateways = on_postgres.serve(2)
    clients = [
        on_postgres.clients(gateway, load(12, (2 + number) * 1_000_000)) for number, gateway in enumerate(gateways)
    ]
    for one in clients:
        one.warm()
    database.stop()
    time.sleep(4)
    database.start()
    told = [one.told(60) for one in clients]
    assert [one.errors for one in told] == [[], []]
    assert lost(on_postgres.store, told_of(*told)) == []


def test_a_policy_server_that_restarts_is_a_clear_error_and_nothing_hangs(on_sqlite: World) -> None:
    (gateway, *_) = on_sqlite.serve(1)
    clients = on_sqlite.clients(gateway, load(12, 4_000_000))
    clients.warm()
    on_sqlite.policy.kill(writer=False)
    time.sleep(1)
    on_sqlite.policy.start()
    told = clients.told(60)
    assert told.errors, "it was killed under load"
    unclear = [words for words, _ in told.errors if not re.search(r"policy server|policy endpoint", words)]
    assert unclear == []
    assert max(seconds for _, seconds in told.errors) < 20
    assert lost(on_sqlite.store, told_of(told)) == []
    assert not _failed(gateway)


def test_a_drain_lets_what_runs_end(on_sqlite: World) -> None:
    (gateway, *_) = on_sqlite.serve(1)
    clients = on_sqlite.clients(gateway, load(60, 5_000_000, lasting=False))
    clients.warm()
    assert gateway.end() == 0
    told = clients.told(60)
    refused = re.compile("503: .*about to end|Cannot connect to host")
    assert [words for words, _ in told.errors if not refused.search(words)] == []
    assert lost(on_sqlite.store, told_of(told)) == []
    assert not _failed(gateway)


def _failed(gateway: Server) -> list[str]:
    """Return what a gateway has logged that names no cause."""
    return [line for line in gateway.said().splitlines() if "Traceback" in line or "not foreseen" in line]
