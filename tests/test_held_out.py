"""Held-out evaluation by the user's own app: which version it asks, what is kept, and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.doubles import app_of
from toolorch_integrations.cli.held_out import AppHeldOut, app_tasks
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_serving.promotion import PromotionError

QUIET = Console(quiet=True)
TASKS = [{"id": f"task-{number}", "text": f"Say {number}."} for number in range(6)]
LAZY = "policy-v2"
"""A version that is right only about the even numbers."""


def scripted(request: Any) -> Reply:
    number = int(request["messages"][-1]["content"].split()[1].rstrip("."))
    return Reply("none" if request["model"] == LAZY and number % 2 else str(number))


@pytest.fixture
def policy() -> Iterator[ScriptedPolicy]:
    with ScriptedPolicy(scripted) as served:
        yield served


def right(task: dict[str, str], trace: Any, result: Any) -> bool:
    return bool(result in task["text"])


def held_out(policy: ScriptedPolicy, **more: Any) -> AppHeldOut:
    return AppHeldOut(**{"app": app_of(policy), "verify": right, "tasks": TASKS, "server": policy.url, **more})


def test_each_version_runs_the_same_tasks(policy: ScriptedPolicy, tmp_path: Path) -> None:
    tasks = held_out(policy)
    before = tasks.results("policy-v1", tmp_path / "1.jsonl", QUIET)
    after = tasks.results(LAZY, tmp_path / "2.jsonl", QUIET)
    assert [result.task_id for result in before] == [task["id"] for task in TASKS]
    assert [result.solved for result in before] == [True] * 6
    assert [result.solved for result in after] == [True, False] * 3
    assert {request["model"] for request in policy.requests} == {"policy-v1", LAZY}


def test_an_evaluation_that_was_interrupted_goes_on(policy: ScriptedPolicy, tmp_path: Path) -> None:
    file = tmp_path / "1.jsonl"
    tasks = held_out(policy, wanted=Preferences(cost=0.5))
    tasks.results("policy-v1", file, QUIET)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:4]) + lines[4][:9])  # killed as it wrote the fourth
    asked = len(policy.requests)
    again = held_out(policy, wanted=Preferences(cost=0.5)).results("policy-v1", file, QUIET)
    assert [result.solved for result in again] == [True] * 6
    assert len(policy.requests) == asked + 3


def test_preferences_are_those_asked_for_or_the_tasks_or_the_apps(policy: ScriptedPolicy, tmp_path: Path) -> None:
    own = [{**TASKS[0], "preferences": {"cost": 0.9}}, TASKS[1]]
    tasks = held_out(policy, tasks=own)
    assert tasks.preferences("task-0") == Preferences(cost=0.9)
    assert tasks.preferences("task-1") == Preferences()
    assert held_out(policy, tasks=own, wanted=Preferences(latency=1.0)).preferences("task-0").latency == 1.0
    # What an app says while it runs is known by its runs only: those whose preferences nobody knows are made again.
    tasks.results("policy-v1", tmp_path / "1.jsonl", QUIET)
    asked = len(policy.requests)
    held_out(policy, tasks=own).results("policy-v1", tmp_path / "1.jsonl", QUIET)
    assert len(policy.requests) == asked + 1


def test_tasks_are_lines_of_json_or_what_a_module_gives(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text("\n".join(map(json.dumps, TASKS)) + "\n\n")
    assert app_tasks([str(file)]) == TASKS
    assert app_tasks(["tests.test_held_out:TASKS", "tests.test_held_out:more"]) == [*TASKS, "one more"]
    file.write_text("{")
    with pytest.raises(PromotionError, match=r"tasks.jsonl, line 1: is no JSON"):
        app_tasks([str(file)])


def more() -> list[str]:
    return ["one more"]


def test_tasks_that_cannot_be_told_apart_are_refused(policy: ScriptedPolicy) -> None:
    with pytest.raises(PromotionError, match="'task-0' is the id of more than one"):
        held_out(policy, tasks=[TASKS[0], TASKS[0]])
    with pytest.raises(PromotionError, match="there are no held-out tasks"):
        held_out(policy, tasks=[])


def test_an_app_that_fails_on_one_task_has_failed_there(policy: ScriptedPolicy, tmp_path: Path) -> None:
    ask = app_of(policy)

    async def brittle(task: dict[str, str]) -> str:
        answer = str(await ask(task))
        if task["id"] == "task-3":
            raise ValueError("no such word")
        return answer

    found = held_out(policy, app=brittle).results("policy-v1", tmp_path / "1.jsonl", QUIET)
    assert [result.failed for result in found] == [False, False, False, True, False, False]
    assert found[3].reason == "ValueError: no such word"


def test_an_app_that_never_comes_to_an_end_says_nothing_of_the_version(policy: ScriptedPolicy, tmp_path: Path) -> None:
    async def broken(task: dict[str, str]) -> str:
        raise ValueError("not configured")

    with pytest.raises(PromotionError, match="none of 6 held-out runs of policy-v1 came to an end"):
        held_out(policy, app=broken).results("policy-v1", tmp_path / "1.jsonl", QUIET)
