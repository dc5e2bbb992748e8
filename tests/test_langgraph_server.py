"""`langgraph dev` serves the example's orchestrator: a real server, driven over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from toolorch_integrations.testing import Reply, ScriptedPolicy

FOLDER = Path(__file__).parent.parent / "examples" / "langgraph_server"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    script = [Reply(calls=[("word_count", {"text": "one two three"})]), "Three words."]
    with ScriptedPolicy(script) as policy, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload", "--port", str(port)]
        environment = os.environ | {"POLICY_URL": policy.url, "POLICY_MODEL": "scripted", "LANGSMITH_TRACING": "false"}
        process = subprocess.Popen(
            command,
            cwd=FOLDER,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(url, process)
            yield url
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        if process.poll() is not None:
            assert process.stdout is not None
            pytest.fail(f"langgraph dev ended: {process.stdout.read().decode()[-2000:]}")
        try:
            if httpx.get(f"{url}/ok", timeout=1).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.25)
    pytest.fail("langgraph dev did not come up in 60 s")


@pytest.mark.slow
def test_a_run_with_context_from_plain_json(server: str) -> None:
    run = {
        "assistant_id": "orchestrator",
        "input": {"messages": [{"role": "user", "content": "How many words?"}]},
        "context": {"preferences": {"cost": 1.0}, "budget": {"turns": 4}},
    }
    state = httpx.post(f"{server}/runs/wait", json=run, timeout=60).raise_for_status().json()
    assert state["messages"][-1]["content"] == "Three words."
    assert [call["name"] for call in state["ledger"]] == ["scripted", "word_count", "scripted"]


@pytest.mark.slow
def test_the_schema_offers_preferences_and_budget(server: str) -> None:
    assistant = httpx.post(f"{server}/assistants/search", json={}, timeout=30).json()[0]
    schemas = httpx.get(f"{server}/assistants/{assistant['assistant_id']}/schemas", timeout=30).json()
    assert {"preferences", "budget", "catalog"} <= set(schemas["context_schema"]["properties"])
