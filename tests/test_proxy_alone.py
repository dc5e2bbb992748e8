"""The capturing proxy alone, as an app without the gateway: its limits, its clients, and what a killed one has left."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.test_proxy import USER, listening
from tests.waiting import until
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.spool.place import spool_folder
from toolorch_integrations.store import TraceStore
from toolorch_integrations.testing import ScriptedPolicy
from toolorch_serving.gateway.proxy import capturing_proxy_app

APP = """
import socket, sys, uvicorn
from toolorch_serving.gateway.proxy import capturing_proxy_app
with socket.create_server(("127.0.0.1", 0)) as listener:
    app = capturing_proxy_app(sys.argv[1], sys.argv[2])
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])
"""
REQUEST = {"model": "scripted", "messages": USER}


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with contextlib.closing(Recorder(tmp_path / "traces.db")) as made:
        made.store.prepare()
        yield made


def ask(port: int, body: object = REQUEST) -> httpx.Response:
    return httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60)


def test_what_a_killed_proxy_and_its_killed_writer_have_left_is_stored_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    store = TraceStore.open(path)
    store.prepare()
    with ScriptedPolicy(["Hello."]) as policy, store:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")  # What is answered now, no writer can store.
            command = [sys.executable, "-c", APP, policy.url, str(path)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                answer = ask(int(process.stdout.readline()))
                writers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                for pid in (process.pid, *map(int, writers)):
                    os.kill(pid, signal.SIGKILL)
            connection.execute("ROLLBACK")
        assert (answer.status_code, len(writers)) == (200, 1)
        assert list(store.traces()) == []
        (left,) = spool_folder(path).iterdir()
        with listening(capturing_proxy_app(policy.url, path)):
            until(lambda: list(store.traces()))
            until(lambda: not left.exists())
        (trace,) = store.full_traces()
        assert (trace.id, trace.answer) == (answer.headers["x-toolorch-trace"], "Hello.")
        assert (trace.status, trace.exact, trace.totals.turns) == (TraceStatus.ANSWERED, True, 1)


def test_a_body_over_the_limit_is_refused_by_name_and_goes_nowhere(recorder: Recorder) -> None:
    large = {**REQUEST, "messages": [{"role": "user", "content": "x" * 2_000}]}
    with ScriptedPolicy(["Hello."]) as policy:
        with listening(capturing_proxy_app(policy.url, recorder, request_bytes=1_000)) as port:
            refused, taken = ask(port, large), ask(port)
        assert (refused.status_code, taken.status_code) == (413, 200)
        error = refused.json()["error"]
        assert "over 1000 bytes" in error["message"]
        assert "raise request_bytes" in error["message"]
        assert [request["messages"] for request in policy.requests] == [USER]
    assert recorder.flush()
    assert [header.request for header in recorder.store.traces()] == [USER[0]["content"]]


def test_half_a_request_is_nobodys(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    body = json.dumps(REQUEST).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    with ScriptedPolicy(["Hello."]) as policy, caplog.at_level(logging.ERROR):
        with listening(capturing_proxy_app(policy.url, recorder)) as port:
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(head + body[:-5])
            assert ask(port).status_code == 200
        assert len(policy.requests) == 1
    assert recorder.flush()
    assert len(list(recorder.store.traces())) == 1
    assert caplog.records == []
