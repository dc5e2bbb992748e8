"""Evaluation: real runs through both faces, faults, the report, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from typer.testing import CliRunner

from tests.doubles import unused_port
from toolorch_integrations import Endpoint, Preferences
from toolorch_integrations.cli import app
from toolorch_integrations.store import TraceStore
from toolorch_integrations.testing import Reply, Request, ScriptedPolicy
from toolorch_rl.evaluation import (
    EvaluationError,
    PolicyAt,
    ResultsFile,
    TaskResult,
    evaluate,
    face,
    plot_front,
    plot_routing,
    read_results,
    report,
)
from toolorch_rl.metrics import TARGETS
from toolorch_rl.synthesis import Split, conversation, synthesize
from toolorch_rl.tasks import Task, write_tasks

SHOP_POLICY = Path(__file__).parents[1] / "examples" / "shop" / "policy"


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    """Sixteen tasks: some whose user goes on after a question, some whose user says no."""
    made = list(synthesize(seed=21, count=300))
    asking = [task for task in made if task.follow_ups][:3]
    refusing = [task for task in made if task.approval is False and not task.follow_ups][:3]
    special = [*asking, *refusing]
    others = [task for task in made if task not in special and task.specialists]
    return [*special, *others[: 16 - len(special)]]


def golden(tasks: list[Task]) -> Callable[[Request], Reply | str]:
    """Return a policy that knows the tasks' golden conversations by heart."""
    rows = {task.request: [m for m in conversation(task)["messages"] if m["role"] == "assistant"] for task in tasks}

    def reply(request: Request) -> Reply | str:
        said = [message["content"] for message in request["messages"] if message["role"] == "user"]
        turns = rows[next(words for words in said if words in rows)]
        number = sum(message["role"] == "assistant" for message in request["messages"])
        turn = turns[min(number, len(turns) - 1)]
        calls = [call["function"] for call in turn.get("tool_calls") or ()]
        return Reply(turn["content"], [(call["name"], call["arguments"]) for call in calls])

    return reply


def way(name: str, policy: ScriptedPolicy, **options: Any) -> Any:
    at = PolicyAt(Endpoint(url=policy.url, model=policy.model, temperature=0, timeout=5))
    return face(name, at, lambda _: Endpoint(url=policy.url, model="specialist", timeout=5), **options)


# --- runs ---


@pytest.mark.parametrize("name", ["langgraph", "llamaindex"])
async def test_golden_runs_solve_everything_through_the_face(name: str, tasks: list[Task], store: TraceStore) -> None:
    assert {task.approval for task in tasks} == {None, True, False}
    assert any(task.follow_ups for task in tasks)
    ended: list[TaskResult] = []
    with ScriptedPolicy(golden(tasks)) as policy:
        results = await evaluate(tasks, way(name, policy), store, ended=ended.append)
    assert [(result.task_id, result.reason) for result in results if not result.solved] == []
    assert [result.task_id for result in results] == [task.id for task in tasks]
    assert sorted(ended, key=lambda item: item.task_id) == sorted(results, key=lambda item: item.task_id)
    found = report({}, tasks, results)
    for metric, target in TARGETS.items():
        value = found.metrics["all"][metric].value
        assert value is not None
        assert target.reached(value), metric
    for task, result in zip(tasks, results, strict=True):
        kept = [store.trace(trace_id) for trace_id in result.traces]
        assert len(kept) == (2 if task.follow_ups else 1)
        assert all(trace.rewards[-1].values == {"outcome": 1.0} for trace in kept)
        assert result.calls == _counted(task)
        prices = {entry.name: entry.price.call for entry in task.full_catalog().view(task.catalog).entries}
        assert result.dollars == pytest.approx(sum(prices[call] * n for call, n in result.calls.items()))
        assert result.seconds is not None


def _counted(task: Task) -> dict[str, int]:
    made = [call.name for call in task.calls if task.approval is not False or not task.is_destructive(call)]
    return {name: made.count(name) for name in made}


async def test_a_policy_that_does_nothing_solves_nothing_and_the_reasons_say_so(
    tasks: list[Task], store: TraceStore
) -> None:
    with ScriptedPolicy(["Done."]) as policy:
        results = await evaluate(tasks[:6], way("langgraph", policy), store)
    assert not any(result.solved or result.failed for result in results)
    assert all(result.reason and result.answer == "Done." for result in results)
    assert report({}, tasks[:6], results).metrics["all"]["chain_completion"].value == 0


@pytest.mark.parametrize("name", ["langgraph", "llamaindex"])
async def test_an_endpoint_that_dies_half_way_fails_the_rest_and_those_are_tried_again(
    name: str, tasks: list[Task], store: TraceStore, tmp_path: Path
) -> None:
    plain = [task for task in tasks if not task.follow_ups][:6]
    path, knows = tmp_path / "results.jsonl", golden(plain)
    alive = {task.request for task in plain[:3]}

    def reply(request: Request) -> Reply | str:
        if not any(message["content"] in alive for message in request["messages"] if message["role"] == "user"):
            return Reply("gone", status=500)
        return knows(request)

    with ScriptedPolicy(reply) as policy, ResultsFile(path, {"model": "m"}) as file:
        results = await evaluate(plain, way(name, policy), store, ended=file.add)
    assert [result.solved for result in results] == [True] * 3 + [False] * 3
    assert [result.failed for result in results] == [False] * 3 + [True] * 3
    assert all("500" in result.reason for result in results[3:])
    with ScriptedPolicy(knows) as policy, ResultsFile(path, {"model": "m"}) as file:
        assert {result.task_id for result in file.done} == {task.id for task in plain[:3]}
        again = await evaluate(plain, way(name, policy), store, done=file.done, ended=file.add)
        asked = {words for request in policy.requests for words in _said(request)}
    assert all(result.solved for result in again)
    assert asked == {task.request for task in plain[3:]}
    assert len(read_results(path)) == 6


def _said(request: Mapping[str, Any]) -> list[str]:
    return [message["content"] for message in request["messages"] if message["role"] == "user"]


@pytest.mark.parametrize("name", ["langgraph", "llamaindex"])
async def test_a_run_that_takes_too_long_is_given_up_and_the_policy_goes_on(
    name: str, tasks: list[Task], store: TraceStore
) -> None:
    late, other = [task for task in tasks if not task.follow_ups][:2]
    knows = golden([other])

    def reply(request: Request) -> Reply | str:
        return Reply("late", delay=60) if late.request in _said(request) else knows(request)

    with ScriptedPolicy(reply) as policy:
        through = way(name, policy)
        (failed,) = await evaluate([late], through, store, limit=1)
        (done,) = await evaluate([other], through, store)
    assert failed.failed
    assert not failed.solved
    assert failed.reason.startswith("timed out after 1 s")
    assert done.solved


async def test_results_that_cannot_be_written_end_the_evaluation_and_the_runs_under_way(
    tasks: list[Task], store: TraceStore
) -> None:
    def full(_: TaskResult) -> None:
        raise OSError(28, "No space left on device")

    with ScriptedPolicy(golden(tasks)) as policy:
        with pytest.raises(OSError, match="No space left"):
            await evaluate(tasks[:6], way("langgraph", policy), store, ended=full, concurrency=2)
        assert len({words for request in policy.requests for words in _said(request)}) < 6


def test_what_a_face_cannot_run_is_said_before_any_run(tasks: list[Task]) -> None:
    at = PolicyAt(Endpoint(url="http://127.0.0.1:1/v1", model="nobody"))
    shown = next(task for task in tasks if task.specialists)
    with pytest.raises(EvaluationError, match=rf"{shown.id}.*{shown.specialists[0].name}"):
        face("langgraph", at).check(shown)
    with pytest.raises(EvaluationError, match=rf"{shown.id}.*select"):
        face("langgraph", at, lambda _: at.endpoint, rendering="select").check(shown)
    with pytest.raises(EvaluationError, match="LlamaIndex face has no select"):
        face("llamaindex", at, rendering="select")
    with pytest.raises(EvaluationError, match="face is 'crewai'"):
        face("crewai", at)


async def test_specialists_answer_questions_in_the_select_rendering(store: TraceStore, tasks: list[Task]) -> None:
    question = next(task for task in tasks if any("answer" in item.capabilities for item in task.specialists))
    question = question.model_copy(
        update={
            "id": "asked", "request": "What is 6 * 7?", "golden": (), "must_say": (("42",),), "forbidden": (),
            "changes": type(question.changes)(), "answer": "42", "approval": None, "follow_ups": (),
        }
    )  # fmt: skip

    def reply(request: Request) -> Reply | str:
        if request["model"] == "specialist":
            return "It is 42."
        enum = request["tools"][0]["function"]["parameters"]["properties"]["model"]
        name = (enum.get("enum") or [question.full_catalog().view(question.catalog).alias("generalist-large")])[0]
        return Reply(calls=[("answer", {"model": name})])

    with ScriptedPolicy(reply) as policy:
        (result,) = await evaluate([question], way("langgraph", policy, rendering="select"), store)
    assert result.solved, result.reason
    assert sum(result.calls.values()) == 1


# --- the report ---


def test_preference_scores_by_equations_5_and_6_and_differences(tasks: list[Task]) -> None:
    chosen = [task.model_copy(update={"preferences": Preferences(cost=1.0)}) for task in tasks]
    before = [TaskResult(task_id=task.id, solved=True, dollars=0.04, seconds=2) for task in chosen]
    after = [item.model_copy(update={"dollars": 0.02 + place / 1e9}) for place, item in enumerate(before)]
    found = report({}, chosen, after, against=before)
    # Outcome 1 / max(1, 1), cost in cents 4 / max(1, 2).
    assert found.metrics["all"]["preference_score"].value == pytest.approx(3.0, abs=1e-4)
    assert found.comparison is not None
    assert found.comparison["reward"].before.value == pytest.approx(2.0)
    assert found.comparison["dollars"].better
    unknown = [item.model_copy(update={"dollars": None}) for item in after]
    found = report({}, chosen, unknown, against=before)
    assert found.metrics["all"]["preference_score"].value is None
    assert found.notes == [
        f"{len(tasks) * 1} runs have no preference score: the preferences weigh dollars, and those are not known"
    ]


def test_collapse_shows(tasks: list[Task]) -> None:
    shown = [task for task in tasks if task.specialists]
    name = shown[0].specialists[0].name
    results = [TaskResult(task_id=task.id, solved=True, calls={name: 9, "list_tasks": 1}) for task in shown] * 10
    found = report({}, shown * 10, results).routing["all"]
    assert found.collapsed
    assert found.entropy.value == 0
    assert found.shares[name].value == 1
    assert "list_tasks" not in found.shares


def test_plots_are_pictures(tmp_path: Path, tasks: list[Task]) -> None:
    results = [
        TaskResult(task_id=task.id, solved=bool(n % 3), dollars=n / 1000, calls={"a": 1 + n % 3, "b": 1, f"t{n}": 1})
        for n, task in enumerate(tasks)
    ]
    found = report({}, tasks, results)
    for path in (
        plot_front(tmp_path / "front.png", found.arms),
        plot_routing(tmp_path / "routing.png", found.routing["all"]),
    ):
        picture = matplotlib.image.imread(path)
        assert picture.shape[0] > 300
        assert picture.std() > 0.05
    none = report({}, tasks, [TaskResult(task_id=task.id, solved=False) for task in tasks])
    with pytest.raises(EvaluationError, match="no run has known dollars"):
        plot_front(tmp_path / "none.png", none.arms)
    with pytest.raises(EvaluationError, match="no run has a call"):
        plot_routing(tmp_path / "none.png", none.routing["all"])


# --- the command ---


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def test_the_command_reports_in_a_table_json_and_plots_and_goes_on(tmp_path: Path, tasks: list[Task]) -> None:
    file, out = tmp_path / "tasks.jsonl", tmp_path / "report.json"
    chosen = tasks[2:6]
    write_tasks(file, chosen)
    file.write_text(file.read_text() + '{"id": "broken"}\n' + chosen[0].to_json() + "\n")
    with ScriptedPolicy(golden(tasks)) as policy:
        given = ("--tasks", file, "--json", out, "--price", "1,2", "--specialists", policy.url, "--baselines", "none")
        result = command(policy.url, *given, "--plots", tmp_path / "plots")
        assert result.exit_code == 0, result.output
        asked = len(policy.requests)
        assert "scripted on 4 tasks" in result.output
        assert "line 5" in result.output
        assert "earlier task of that id" in result.output
        found = json.loads(out.read_text())
        assert found["metrics"]["all"]["solved"]["value"] == 1
        assert found["metrics"]["all"]["dollars"]["value"] > 0
        assert len(found["results"]) == 4
        assert len(found["skipped"]) == 2
        assert {path.name for path in (tmp_path / "plots").iterdir()} == {"front.png", "routing.png"}
        again = command(policy.url, *given, "--against", out, "--format", "json")
        assert again.exit_code == 0, again.output
        assert len(policy.requests) == asked
        compared = json.loads(again.stdout)["against"]
        assert compared["paired"] == 4
        assert compared["groups"]["all"]["dollars"]["change"]["value"] == 0
        other = command(policy.url, *given, "--temperature", "0.7")
        assert other.exit_code == 1
        assert "another temperature, 0.0 and not 0.7" in " ".join(other.output.split())
        fresh = command(policy.url, *given, "--temperature", "0.7", "--fresh")
        assert fresh.exit_code == 0, fresh.output
        assert len(policy.requests) == 2 * asked
        assert policy.requests[-1]["temperature"] == 0.7


def test_the_command_tests_on_what_is_held_out_with_other_preferences(tmp_path: Path) -> None:
    made = list(synthesize(3, 40))
    held_out = {task.id for task in made if Split(by="tool", seed=4, share=0.15).part(task) == "test"}
    assert 0 < len(held_out) < 20
    out = tmp_path / "r.json"
    with ScriptedPolicy(["Done."]) as policy:
        result = command(
            policy.url, "--synthesize", 40, "--seed", 3, "--held-out", "tool", "--split-seed", 4, "--split-share", 0.15,
            "--preferences", "cost=1,tools.x=0.5", "--face", "llamaindex", "--json", out,
            "--store", f"sqlite:///{tmp_path}/kept.db", "--specialists", policy.url, "--baselines", "none",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
    assert {item["task_id"] for item in json.loads(out.read_text())["results"]} == held_out
    with TraceStore.open(f"sqlite:///{tmp_path}/kept.db") as kept:
        traces = list(kept.full_traces())
    assert len(traces) == len(held_out)
    assert all(trace.preferences["cost"] == 1 for trace in traces)
    assert all(trace.rewards[0].values == {"outcome": 0.0} for trace in traces)


def test_baselines_put_a_specialist_in_the_policys_place(tmp_path: Path, tasks: list[Task]) -> None:
    chosen = [task for task in tasks if not task.follow_ups][:5]
    chosen = [task.model_copy(update={"budget": type(task.budget)()}) for task in chosen]
    knows = golden(chosen)
    file = tmp_path / "tasks.jsonl"
    write_tasks(file, chosen)

    def reply(request: Request) -> Reply | str:
        return "I do not know." if request["model"] == "small" else knows(request)

    with ScriptedPolicy(reply) as policy:
        names = sorted({item.name for task in chosen for item in task.specialists})
        roster = [
            {"name": name, "endpoint": {"url": policy.url, "model": name}, "price": {"input": 1, "output": 1}}
            for name in names
        ]
        roster += [
            {"name": "small", "endpoint": {"url": policy.url, "model": "small"}, "price": {"input": 0.1}},
            {"name": "large", "endpoint": {"url": policy.url, "model": "large"}, "price": {"input": 20}},
        ]
        (tmp_path / "specialists.json").write_text(json.dumps(roster[-2:] if not names else roster))
        given = ("--tasks", file, "--specialists", tmp_path / "specialists.json", "--json", tmp_path / "r.json")
        result = command(policy.url, *given)
        assert result.exit_code == 0, result.output
        asked = len(policy.requests)
        arms = {arm["name"]: arm for arm in json.loads((tmp_path / "r.json").read_text())["baselines"]}
        solved = {name: arm["solved"]["value"] for name, arm in arms.items()}
        assert solved["always-strongest"] == solved["cascade"] == solved["oracle"] == 1
        assert solved["always-cheapest"] == 0
        dollars = {name: arm["dollars"]["value"] for name, arm in arms.items()}
        assert dollars["oracle"] < dollars["cascade"] < dollars["always-strongest"]
        again = command(policy.url, *given)
        assert again.exit_code == 0, again.output
        assert len(policy.requests) == asked
        assert "always-strongest" in again.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--synthesize", "3"], "nobody answers at"),
        ([], "--synthesize"),
        (["--synthesize", "3", "--baselines", "best"], "no baseline 'best'"),
        (["--synthesize", "3", "--price", "cheap"], "--price is 'cheap'"),
        (["--synthesize", "3", "--preferences", "cost=much"], "are no preferences"),
        (["--synthesize", "3", "--specialists", "missing.json"], "missing.json"),
        (["--tasks", "missing.jsonl"], "missing.jsonl"),
        (["--synthesize", "3", "--against", "missing.json"], "missing.json"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], said: str) -> None:
    result = command(f"http://127.0.0.1:{unused_port()}/v1", *arguments)
    assert result.exit_code in (1, 2)
    assert said in " ".join(result.output.replace("│", " ").split())


def test_other_files_are_not_taken_for_evaluations(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("notes\n")
    with pytest.raises(EvaluationError, match="holds no evaluation"):
        ResultsFile(path, {})
    assert path.read_text() == "notes\n"
    specialists = tmp_path / "s.json"
    specialists.write_text('[{"name": "coder"}]')
    with ScriptedPolicy(["Done."]) as policy:
        result = command(policy.url, "--synthesize", 2, "--specialists", specialists)
    assert "'coder' has no `endpoint`" in " ".join(result.output.split())


def test_a_folder_is_served_for_the_evaluation(tmp_path: Path) -> None:
    result = command(
        SHOP_POLICY, "--engine", "embedded", "--dtype", "float32", "--synthesize", 1, "--max-tokens", 64,
        "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (only,) = json.loads((tmp_path / "r.json").read_text())["results"]
    assert "No baselines" in result.output
    assert not only.get("failed")
    assert only["answer"] or only["calls"]
