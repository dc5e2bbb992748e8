"""`toolorch promote` and `toolorch loop`: what they print, and what they refuse."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from toolorch_integrations.store import TraceStore
from toolorch_serving.promotion import PromotionRecord, PromotionRecords, Step


def toolorch(*arguments: str, code: int = 0) -> str:
    from toolorch_integrations.cli import app

    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.replace("│", " ").split())


def test_the_history_says_why(store: TraceStore, tmp_path: Path):
    where = str(store.file)
    assert "nothing was promoted yet" in toolorch("promote", "--history", "--store", where)
    PromotionRecords(store).append(PromotionRecord("p", Step.STAYED, "v2", "v1", reason="solved is worse"))
    assert "v2 v1 stayed solved is worse" in toolorch("promote", "--history", "--store", where)
    assert '"step": "stayed"' in toolorch("promote", "--history", "--store", where, "--format", "json")


def test_what_is_missing_is_named(tmp_path: Path):
    assert "--server" in toolorch("promote", code=2)
    assert "--base" in toolorch("promote", "--server", "http://127.0.0.1:9/v1", "--name", "p", code=2)
    common = [
        "promote",
        "--server",
        "http://127.0.0.1:9/v1",
        "--name",
        "p",
        "--base",
        "m",
        "--candidate",
        str(tmp_path),
    ]
    assert "there is no metric 'speed'" in toolorch(*common, "--goal", "speed", code=1)
    assert "margin 'dollars=much'" in toolorch(*common, "--margin", "dollars=much", code=1)
    where = str(tmp_path / "t.db")
    TraceStore.open(where).close()
    assert "no promotion to go on with" in toolorch(*common, "--resume", "--store", where, code=1)
    assert "--server" in toolorch("loop", "--base", "m", code=2)
    loop = ["loop", *common[1:7], "--new-traces", "1"]
    assert "give NAME=VALUE" in toolorch(*loop, "--set", "best", code=2)
    assert "give MODULE:NAME" in toolorch(*loop, "--rewards", "nothing:here", code=2)
    assert "goes with --run" in toolorch(*common, "--verifier", "os:getcwd", code=2)
    assert "--verifier" in toolorch(*common, "--run", "os:getcwd", code=2)
    own = [*common, "--run", "os:getcwd", "--verifier", "os:getcwd"]
    assert "give its tasks with --tasks" in toolorch(*own, "--synthesize", "3", code=2)
    assert "there are no held-out tasks" in toolorch(*own, code=1)
