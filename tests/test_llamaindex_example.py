"""The example before and after: one import and one line differ, and both versions run."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from examples.llamaindex_agent import after, before
from toolorch_integrations.testing import Reply, ScriptedPolicy

FOLDER = Path(before.__file__).parent


def code_of(name: str) -> list[str]:
    """Return a version's lines without its docstring and blank lines."""
    text = (FOLDER / f"{name}.py").read_text().split('"""', 2)[2]
    return [line for line in text.splitlines() if line]


def test_one_import_and_one_line_differ() -> None:
    lines = list(difflib.ndiff(code_of("before"), code_of("after")))
    assert [line[2:] for line in lines if line.startswith("- ")] == [
        "from llama_index.core.agent.workflow import FunctionAgent",
        '    return FunctionAgent(tools=[stock, total], llm=llm, system_prompt="You work for an outdoor shop.")',
    ]
    assert [line[2:] for line in lines if line.startswith("+ ")] == [
        "from toolorch_integrations.llamaindex import OrchestratorAgent",
        '    return OrchestratorAgent(tools=[stock, total], llm=llm, system_prompt="You work for an outdoor shop.")',
    ]


@pytest.mark.parametrize("version", [before, after])
async def test_both_versions_run(
    version: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    script = [
        Reply(calls=[("stock", {"item": "tent"}), ("total", {"price": 99, "pieces": 2})]),
        "Two tents, 198 euros.",
    ]
    with ScriptedPolicy(script) as policy:
        monkeypatch.setenv("POLICY_URL", policy.url)
        await version.main("Are there two tents?")  # type: ignore[attr-defined]
    printed = capsys.readouterr().out.splitlines()
    assert sorted(printed[:2]) == [
        "stock {'item': 'tent'}: 2 in stock",
        "total {'price': 99, 'pieces': 2}: 198.00 euros",
    ]
    assert printed[2:] == ["Two tents, 198 euros."]
