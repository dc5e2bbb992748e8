from __future__ import annotations

import json
import time
import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.sample_events import run
from toolorch_integrations.cli.traces import traces
from toolorch_integrations.events import CallEnded, PolicyCalled, TraceEnded, TraceStarted, TraceStatus
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.store import TraceStore
from toolorch_integrations.trace import Feedback, Reward

GOOD, OLD = "aaaa" + uuid.uuid4().hex[4:], "bbbb" + uuid.uuid4().hex[4:]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "traces.db"
    recorder = Recorder(path)
    for item in run(GOOD, turns=3, thread_id="thread-1"):
        recorder.put(item)
    broken = Call(CallKind.SPECIALIST, "coder", CallStatus.TIMEOUT, "big", 10, 20, 0.5, 9.0, call_id="x", error="slow")
    user = {"role": "user", "content": "[bold]not markup[/bold]"}
    recorder.put(TraceStarted(OLD, app="other", request="Write [red]code", started=time.time() - 40 * 86400))
    recorder.put(PolicyCalled(OLD, [user], {"role": "assistant", "content": "a"}, [1, 2], [3], [-1.0], model="old"))
    recorder.put(PolicyCalled(OLD, [user], {"role": "assistant", "content": "b"}, [1, 2], [4], [-2.0], model="old"))
    recorder.put(CallEnded(OLD, broken, None, "y" * 100_000))
    recorder.put(TraceEnded(OLD, TraceStatus.ERROR, error="slow"))
    assert recorder.close()
    with TraceStore.open(path) as opened:
        opened.add_rewards(Reward(GOOD, {"outcome": 1.0}, "exact-match"))
        opened.add_feedback(Feedback(GOOD, "thumb", 1.0, "nice"))
    return path


def toolorch(store: Path, *arguments: str, code: int = 0) -> Result:
    result = CliRunner(env={"TOOLORCH_STORE": str(store), "COLUMNS": "160"}).invoke(traces, list(arguments))
    assert result.exit_code == code, result.output
    return result


def test_list_shows_the_newest_first(store: Path):
    lines = toolorch(store, "list").output.splitlines()
    assert lines[0].split() == [
        "id", "started", "status", "app", "turns", "calls", "tokens", "dollars", "seconds", "request"
    ]  # fmt: skip
    assert lines[1].split()[0] == GOOD[:8]
    assert lines[1].split()[3:] == ["answered", "adder", "3", "2", "39", "0.0230", "1.7", "Add."]
    assert "Write [red]code" in lines[2]
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["--status", "error"], [OLD]),
        (["--app", "adder"], [GOOD]),
        (["--thread", "thread-1"], [GOOD]),
        (["--model", "old"], [OLD]),
        (["--since", "30d"], [GOOD]),
        (["--limit", "1"], [GOOD]),
        (["--app", "none"], []),
    ],
)
def test_list_filters(store: Path, filters: list[str], found: list[str]):
    lines = toolorch(store, "list", "--json", *filters).output.splitlines()
    assert [json.loads(line)["id"] for line in lines] == found


def test_show_has_messages_tokens_calls_and_totals(store: Path):
    output = toolorch(store, "show", "aaaa").output
    for part in (
        GOOD,
        "exact ids",
        "adder (langgraph)",
        "policy-1",
        "cost 0.5",
        "dollars 1.0",
        "outcome 1.0  exact-match",
        "thumb 1 nice",
        '2 assistant  add({"turn": 0})',
        "+3 tokens, log-probability -0.25, lowest -0.50, policy-1, tool_calls, $0.001000, 0.50 s",
        "tool add ok  $0.010000, 0.10 s",
        "3 turns, 2 calls, 30 tokens in, 9 out, $0.023000, 1.70 s",
    ):
        assert part in output
    assert "[0, 1, 2, 3, 4]" in toolorch(store, "show", "aaaa", "--ids").output


def test_show_has_branches_errors_and_cut_results(store: Path):
    output = toolorch(store, "show", OLD).output
    assert output.count("branch after 0") == 2
    assert "[bold]not markup[/bold]" in output
    assert "specialist coder timeout  $0.500000, 9.00 s, 10 tokens in, 20 out  slow" in output
    assert "(cut, 100000 characters)" in output
    assert "y" * 200 not in output
    assert len(toolorch(store, "show", OLD, "--full").output) > 65_536


def test_export_and_import(store: Path, tmp_path: Path):
    file, other = tmp_path / "t.jsonl", tmp_path / "other.db"
    assert toolorch(store, "export", str(file)).output == f"wrote 2 traces to {file}\n"
    assert toolorch(other, "import", str(file)).output == "added 2 traces\n"
    assert toolorch(other, "import", str(file)).output == "added 0 traces, 2 were there\n"
    assert toolorch(other, "show", OLD).output == toolorch(store, "show", OLD).output
    toolorch(store, "export", str(file), "--status", "error")
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == [OLD]
    toolorch(store, "export", str(file), "--id", "aaaa", "--readable")
    assert json.loads(file.read_text())["nodes"][1]["token_ids"] == [0, 1, 2, 3, 4]
    toolorch(store, "export", str(tmp_path / "t.parquet"))
    assert (tmp_path / "t.parquet").read_bytes()[:4] == b"PAR1"
    file.write_text("nonsense")
    assert "line 1: not a trace" in toolorch(other, "import", str(file), code=1).output


def test_feedback(store: Path):
    toolorch(store, "feedback", "aaaa", "--score", "0", "--comment", "wrong", "--name", "answer")
    with TraceStore.open(store) as opened:
        entry = opened.trace(GOOD).feedback[-1]
    assert (entry.name, entry.score, entry.comment, entry.source) == ("answer", 0.0, "wrong", "command line")
    assert "--score" in toolorch(store, "feedback", "aaaa", code=2).output


def test_purge(store: Path):
    assert "--older-than" in toolorch(store, "purge", code=2).output
    assert "30x" in toolorch(store, "purge", "--older-than", "30x", code=2).output
    would = toolorch(store, "purge", "--older-than", "30d", "--dry-run").output
    assert would.startswith("would delete 1 trace of ")
    assert would.endswith(", 2 turns\n")
    assert toolorch(store, "purge", "--older-than", "30d").output == would.replace("would delete", "deleted")
    assert "no trace" in toolorch(store, "show", OLD, code=1).output
    assert toolorch(store, "purge", "--keep", "1").output == "deleted 0 traces, 0 turns\n"


def test_stats(store: Path):
    rows = dict(line.rsplit(maxsplit=1) for line in toolorch(store, "stats").output.splitlines())
    rows = {name.strip(): value for name, value in rows.items()}
    assert (rows["traces"], rows["answered"], rows["error"], rows["turns"], rows["exact"]) == ("2", "1", "1", "5", "2")


def test_what_is_wrong_is_said_in_a_line(store: Path, tmp_path: Path):
    assert "more than one" not in toolorch(store, "show", "zzzz", code=1).output
    missing = toolorch(tmp_path / "none.db", "list", code=1).output
    assert missing.startswith("error: there is no trace store at")
    assert "Traceback" not in missing
    assert not (tmp_path / "none.db").exists()
    assert "mysql is not supported" in toolorch(store, "list", "--store", "mysql://x/y", code=1).output
