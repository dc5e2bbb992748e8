"""Synthesis by model: what is kept and what is dropped, what it costs, and how it goes on after a crash."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from tests.doubles import unused_port
from tests.scripted_author import ROWS, SCHEMA, ScriptedAuthor, Sure, author_at
from toolorch_integrations.cli import app
from toolorch_integrations.entry import Specialist
from toolorch_integrations.errors import MissingVariableError
from toolorch_rl.replay import verify
from toolorch_rl.synthesis import Mix, conversation
from toolorch_rl.synthesis.by_model import (
    AnswerError,
    Made,
    OrchestratorSolver,
    Settings,
    SynthesisError,
    synthesize_by_model,
)
from toolorch_rl.synthesis.by_model.answers import object_in
from toolorch_rl.synthesis.by_model.domain_answers import read_schema, read_state
from toolorch_rl.synthesis.by_model.drafts import Brief, Draft, build
from toolorch_rl.synthesis.by_model.journal import Journal, WorkFolder
from toolorch_rl.tasks import PATTERNS, Pattern, Task, read_tasks, write_tasks

EVEN = Mix(shares=dict.fromkeys(PATTERNS, 1.0))
SINGLE = Mix(shares={"single": 1.0})


def settings(server: ScriptedAuthor, **fields: Any) -> Settings:
    given = {"domains": ("city library",), "count": 4, "mix": SINGLE, "tries": 0, "harder": 0, "databases": 1}
    return Settings(author=author_at(server.url), **{**given, **fields})


def reasons(made: Made) -> list[str]:
    return [item.text() for item in made.dropped]


# --- the whole way ---


def test_the_whole_pipeline_gives_sound_tasks_that_the_orchestrator_solves(tmp_path: Path) -> None:
    told = []
    with ScriptedAuthor(clumsy=True) as model:
        wanted = settings(
            model, domains=("city library", "village library"), count=14, mix=EVEN, tries=1, harder=1, databases=2
        )
        made = synthesize_by_model(wanted, tmp_path / "work", progress=told.append)
        asked = Counter({kind: len(model.asked(kind)) for kind in ("schema", "state", "intents", "task")})
    assert made.dropped == []
    assert made.complete
    assert len(made.tasks) == 28  # each of them once more, harder
    assert {task.pattern for task in made.tasks} == set(PATTERNS)
    assert {task.domain for task in made.tasks} == {"city_library", "village_library"}
    assert len({task.id for task in made.tasks}) == 28
    for task in made.tasks:
        verify(task)
        assert conversation(task)["messages"][-1]["content"] == task.answer
    harder = {task.id.removesuffix("-h1"): task for task in made.tasks if task.id.endswith("-h1")}
    assert all(len(harder[task.id].calls) > len(task.calls) for task in made.tasks if task.id in harder)
    assert len({task.price_table for task in made.tasks}) > 10  # drawn anew for each
    assert len({task.initial.id_form for task in made.tasks}) > 1
    assert any(task.catalog.aliases for task in made.tasks)
    assert {len(task.catalog.allow or ()) for task in made.tasks} != {len(made.tasks[0].full_catalog())}
    destructive = [task for task in made.tasks if task.approval is not None]
    assert destructive
    assert all(task.follow_ups for task in destructive)
    # Each answer was cut short once, and sent back once.
    assert asked == Counter({"schema": 4, "state": 8, "intents": 4, "task": 56})
    assert {name: cost.calls for name, cost in made.stages.items()} == {
        "schemas": 4, "states": 8, "intents": 4, "tasks": 28, "harder": 28, "tries": 28,
    }  # fmt: skip
    assert all(cost.dollars > 0 and cost.input_tokens > 0 for cost in made.stages.values())
    assert made.tried.keys() == {task.id for task in made.tasks}
    assert made.pass_at_1().value == made.pass_at_k().value == 1.0
    bound = max(OrchestratorSolver(wanted.author).bound(task) for task in made.tasks)
    with WorkFolder(tmp_path / "work") as folder:
        assert all(0 < entry["dollars"] <= bound for entry in folder.entries("tries"))
    assert {item.stage for item in told} == set(made.stages)
    assert (told[-1].done, told[-1].total, told[-1].dollars) == (28, 28, pytest.approx(made.dollars))
    path = tmp_path / "tasks.jsonl"
    write_tasks(path, made.tasks)
    for task, again in zip(made.tasks, read_tasks(path), strict=True):
        assert again == task
        verify(again)


FAULTS = {
    "fails": "the call get_book",
    "nothing": "doing nothing and saying",
    "unasked": "nobody can know that book_id is 'BOO-1'",
    "unsaid": "not said: 'rhubarb'",
    "misshapen": "do not have the pattern 'single'",
    "broken": "the JSON is broken",
    "refused": "answered 500",
    "halfway": "answered no chat completion",
}


def test_each_kind_of_bad_task_is_dropped_with_its_reason_and_others_take_its_place(tmp_path: Path) -> None:
    with ScriptedAuthor(list(FAULTS)) as model:
        made = synthesize_by_model(settings(model, count=10, repairs=1), tmp_path)
        sent_back = Counter(len(request["messages"]) for request in model.asked("task"))
    assert len(made.tasks) == 10
    assert made.complete
    found = reasons(made)
    assert len(found) == len(FAULTS)
    for fault, reason in FAULTS.items():
        line = next(item for item in found if f"(fault {fault})" in item)
        assert line.startswith("tasks: task city_library-m0-"), line
        assert reason in line
        assert ("not usable after 1 repairs" in line) == (fault not in ("refused", "halfway")), line
    assert sent_back == {2: 10 + len(FAULTS), 4: len(FAULTS) - 2}


def test_a_task_that_no_try_solves_is_dropped_through_the_orchestrator(tmp_path: Path) -> None:
    with ScriptedAuthor(["unsolvable"]) as model:
        made = synthesize_by_model(settings(model, count=2, tries=2), tmp_path)
    [line] = reasons(made)
    assert line.startswith("tries: task city_library-m0-1: 0 of 2 tries solve it, 1 should; one failed: shelf ")
    assert "city_library-m0-1" not in {task.id for task in made.tasks}
    assert made.complete
    assert made.tried["city_library-m0-1"] == (0, 2)
    assert made.pass_at_1().value == made.pass_at_k().value == pytest.approx(2 / 3)


def test_the_same_request_is_kept_once(tmp_path: Path) -> None:
    with ScriptedAuthor(["same", "same"]) as model:
        made = synthesize_by_model(settings(model, count=3), tmp_path)
    assert reasons(made) == ["tasks: task city_library-m0-2: its request is that of city_library-m0-1"]
    assert len({task.request for task in made.tasks}) == len(made.tasks) == 3


def test_tasks_that_are_always_or_never_solved_can_be_kept_out(tmp_path: Path) -> None:
    solver = Sure(lambda task: int(task.id.rsplit("-", 1)[1]) % 4)  # of four tries 4, 3, 2 or 1 right
    with ScriptedAuthor() as model:
        wanted = settings(model, count=8, tries=4, solved_least=2, solved_most=3)
        made = synthesize_by_model(wanted, tmp_path, solver=solver)
    assert {hits for task in made.tasks for hits in [made.tried[task.id][0]]} == {2, 3}
    found = "\n".join(reasons(made))
    assert "4 of 4 tries solve it, 3 may: it is too easy" in found
    assert "1 of 4 tries solve it, 2 should" in found
    assert made.complete
    assert len(solver.tries) == len(set(solver.tries)) == 4 * len(made.tried)


def test_bad_domains_are_dropped_by_name_and_the_rest_goes_on(tmp_path: Path) -> None:
    domains = ("full circle", "keyless house", "dangling chair", "city library")
    with ScriptedAuthor() as model:
        made = synthesize_by_model(settings(model, domains=domains, count=8, repairs=0), tmp_path)
    assert [task.domain for task in made.tasks] == ["city_library"] * 2
    assert not made.complete
    assert reasons(made) == [
        "schemas: domain 'full circle': not usable after 0 repairs: Domain 'full_circle': required references form a "
        "cycle, shelf -> book -> shelf: make one of them optional",
        "schemas: domain 'keyless house': not usable after 0 repairs: Domain 'keyless_house': entities[shelf].fields: "
        "Field required",
        "states: domain 'dangling chair', state 1: not usable after 0 repairs: State of the domain 'dangling_chair': "
        "book b1: shelf_id: there is no shelf 'nowhere'",
        "states: domain 'dangling chair': given up: none of its states is usable",
    ]


def test_a_domain_that_brings_nothing_is_given_up(tmp_path: Path) -> None:
    with ScriptedAuthor(["unsaid"] * 50) as model:
        made = synthesize_by_model(settings(model, count=3, repairs=0), tmp_path)
    assert made.tasks == []
    assert reasons(made)[-1] == "tasks: domain 'city library': given up: 2 waves in a row brought no task"
    assert len(made.dropped) == 7


# --- money, crashes, faults of the endpoint ---


def test_nothing_is_paid_for_twice_after_kill_9(tmp_path: Path) -> None:
    """A process is killed in the middle; the next one asks only for what the first had not finished."""
    script = (
        "import sys\n"
        "from tests.scripted_author import Sure, author_at\n"
        "from toolorch_rl.synthesis import Mix\n"
        "from toolorch_rl.synthesis.by_model import Settings, synthesize_by_model\n"
        "from toolorch_rl.tasks import write_tasks\n"
        "made = synthesize_by_model(Settings(author=author_at(sys.argv[1]), domains=('city library',), count=12,\n"
        "    mix=Mix(shares={'single': 1.0}), tries=1, harder=1, workers=2), sys.argv[2], solver=Sure())\n"
        "write_tasks(sys.argv[3], made.tasks)\n"
    )

    def run(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", script, model.url, str(tmp_path / "work"), str(tmp_path / name)]
        return subprocess.Popen(command, cwd=Path(__file__).parent.parent)

    with ScriptedAuthor() as model:
        first = run("first.jsonl")
        while len(model.requests) < 14 and first.poll() is None:
            time.sleep(0.002)
        os.kill(first.pid, signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
        assert run("second.jsonl").wait() == 0
        times = Counter(json.dumps(request) for request in model.requests)
        assert sum(times.values()) - len(times) <= 2  # what was under way when it was killed
        assert len(times) == 1 + 2 + 2 + 12 + 12
        before = len(model.requests)
        assert run("third.jsonl").wait() == 0
        assert len(model.requests) == before
    assert len(list(read_tasks(tmp_path / "second.jsonl"))) == 24
    assert (tmp_path / "second.jsonl").read_bytes() == (tmp_path / "third.jsonl").read_bytes()
    tries = [json.loads(line) for line in (tmp_path / "work" / "tries.jsonl").read_text().splitlines()]
    assert len({entry["key"] for entry in tries}) == len(tries) == 24


def test_the_cap_is_never_passed_and_what_is_finished_is_kept(tmp_path: Path) -> None:
    with ScriptedAuthor() as model:
        free = synthesize_by_model(settings(model, count=80, tries=1), tmp_path / "free", solver=Sure())
        cap = 0.6 * free.dollars
        made = synthesize_by_model(settings(model, count=80, tries=1, dollars=cap), tmp_path / "capped", solver=Sure())
        sent = len(model.requests)
        again = synthesize_by_model(settings(model, count=80, tries=1, dollars=cap), tmp_path / "capped", solver=Sure())
        assert len(model.requests) == sent  # what is spent counts in later runs too
        assert {task.id for task in again.tasks} >= {task.id for task in made.tasks}
        assert all(cost.reused for cost in again.stages.values())
        rest = synthesize_by_model(settings(model, count=80, tries=1), tmp_path / "capped", solver=Sure())
        # Money that is only reserved comes back: what is left suffices for one call at a time at last.
        just = settings(model, count=80, tries=1, dollars=free.dollars + 0.02)
        enough = synthesize_by_model(just, tmp_path / "just", solver=Sure())
    assert 0.8 * cap < made.dollars <= cap
    assert again.dollars <= cap
    assert not made.complete
    assert made.tasks
    assert any(f"the cap of ${cap:g} leaves no money for it" in line for line in reasons(made))
    assert rest.complete
    assert rest.dollars == pytest.approx(free.dollars, rel=0.01)
    assert enough.complete
    assert enough.dropped == []


def test_without_money_nothing_is_sent(tmp_path: Path) -> None:
    with ScriptedAuthor() as model:
        made = synthesize_by_model(settings(model, dollars=0.0), tmp_path)
        assert model.requests == []
    assert reasons(made) == ["schemas: domain 'city library': the cap of $0 leaves no money for it"]


def test_an_endpoint_that_goes_away_ends_the_run_and_the_next_one_goes_on(tmp_path: Path) -> None:
    with ScriptedAuthor(["refused"] * 8) as model:
        with pytest.raises(SynthesisError, match=r"6 calls in a row have failed.*answered 500.*run again to go on"):
            synthesize_by_model(settings(model, count=8, workers=1), tmp_path)
        assert len(model.asked("task")) == 6
    gone = author_at(f"http://127.0.0.1:{unused_port()}/v1")
    made = synthesize_by_model(Settings(author=gone, domains=("a", "b")), tmp_path / "other")
    assert len(made.dropped) == 2
    assert all("cannot be reached" in line for line in reasons(made))


def test_a_solver_that_does_not_answer_costs_no_finished_work(tmp_path: Path) -> None:
    gone = OrchestratorSolver(author_at(f"http://127.0.0.1:{unused_port()}/v1"))
    with ScriptedAuthor() as model:
        wanted = settings(model, count=4, tries=2, workers=8)
        with pytest.raises(SynthesisError, match=r"6 calls in a row have failed.*cannot be reached"):
            synthesize_by_model(wanted, tmp_path, solver=gone)
        sent = len(model.requests)
        made = synthesize_by_model(wanted, tmp_path, solver=Sure())
        assert len(model.requests) == sent
    assert made.complete


def test_a_key_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    author = author_at("http://127.0.0.1:9/v1", key_variable="NO_SUCH_KEY")
    with pytest.raises(MissingVariableError, match="NO_SUCH_KEY"):
        synthesize_by_model(Settings(author=author, domains=("a",)), tmp_path)


def test_a_journal_loses_half_a_line_only_and_a_broken_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    journal = Journal(path)
    journal.add("a", {"text": "one"})
    journal.add("b", {"text": "two"})
    journal.close()
    path.write_bytes(path.read_bytes()[:-7])
    again = Journal(path)
    assert again.entries == {"a": {"text": "one"}}
    again.add("c", {"text": "three"})
    again.close()
    assert list(Journal(path).entries) == ["a", "c"]
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(SynthesisError, match=r"tasks\.jsonl, line 1: it is no entry"):
        Journal(path)


def test_two_processes_cannot_share_a_work_folder(tmp_path: Path) -> None:
    with WorkFolder(tmp_path), pytest.raises(SynthesisError, match="Another process works in"):
        WorkFolder(tmp_path)
    with WorkFolder(tmp_path):
        pass


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"domains": ()}, "domains\n.*there is none"),
        ({"domains": ("airline support", " ")}, "number 2 is empty"),
        ({"domains": ("Airline support", "airline-support")}, "are the same"),
        ({"solved_least": 3, "tries": 2}, "solved_least is 3, but there are 2 tries"),
        ({"solved_most": 0, "tries": 2}, "solved_most is 0"),
        ({"author": Specialist(name="x")}, "no `endpoint`"),
        ({"count": 0}, "count"),
    ],
)
def test_settings_that_make_no_sense_say_so(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Settings(**{"author": author_at("http://x/v1"), "domains": ("a",), **fields})


# --- answers ---


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Sure!\n```json\n{"a": {"b": [1]}}\n```\nThat is {all}.', {"a": {"b": [1]}}),
        ('<think>{"a": 0}</think> Take {this}: {"a": 1} or', {"a": 1}),
        ('<think>{"a": 0', None),
        ('{"a": 1', "ends before it is complete"),
        ('{"a": {"b": 1}, "c": "unfinished', "ends before it is complete"),
        ('{"a": {"b": 1}, "c": }', "broken: Expecting value near"),
        ('{"a": NaN}', "NaN is no JSON"),
        ("I cannot do that.", "no JSON object"),
        ("[1, 2]", "no JSON object"),
        ('{"a":' * 100_000, "nested too deep"),
    ],
)
def test_json_is_found_in_whatever_stands_around_it(text: str, value: Any) -> None:
    if isinstance(value, dict):
        assert object_in(text) == value
    else:
        with pytest.raises(AnswerError, match=value):
            object_in(text)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({"shelf": {}}, "'shelf' has no entries"),
        ({"shelf": {"b1": {"name": "x"}}}, "'b1' is there twice"),
        ({"shelf": {"s1": {"name": "x"}, "s2": {"name": " X"}}}, "have the same name"),
        ({"shelf": {" ": {"name": "x"}}}, "empty key"),
        ({"book": {"b1": {"shelf_id": "s1"}}}, "book b1: title: it is required"),
        ({"sofa": {"x": {}}}, "there is no entity 'sofa'"),
        ({"book": {"b1": {"title": "x", "shelf_id": "s1", "pages": "many"}}}, "'many' is no integer"),
    ],
)
def test_entries_that_do_not_fit_are_named(rows: dict[str, Any], says: str) -> None:
    schema = read_schema("library", SCHEMA)
    with pytest.raises(ValueError, match=says):
        read_state(schema, {"rows": {**ROWS, **rows}}, random.Random(0))


def test_entries_that_are_their_own_ancestors_are_refused() -> None:
    parent = {"name": "part_of_id", "type": "reference", "refers_to": "room"}
    room = {"name": "room", "plural": "rooms", "label": "name", "fields": [{"name": "name", "required": True}, parent]}
    schema = read_schema("house", {"entities": [room]})
    rows = {"a": {"name": "Attic", "part_of_id": "b"}, "b": {"name": "Upstairs", "part_of_id": "a"}}
    with pytest.raises(AnswerError, match=r"part_of_id of room goes round in a circle: a -> b -> a"):
        read_state(schema, {"rows": {"room": rows}}, random.Random(0))


def drafted(pattern: Pattern, turns: Any, **fields: Any) -> Task:
    schema = read_schema("library", SCHEMA)
    state = read_state(schema, {"rows": ROWS}, random.Random(3))
    given = {"request": "Withdraw Copper roads.", "answer": "Copper roads is withdrawn.", "must_say": [["withdrawn"]]}
    draft = Draft.model_validate({**given, "turns": turns, **fields})
    return build(draft, Brief("library-1", schema, state, pattern, 0))


WITHDRAW = [
    [{"id": "a", "name": "search_books", "arguments": {"query": "Copper roads"}}],
    [{"id": "b", "name": "withdraw_book", "arguments": {"book_id": "{{a:books[0].id}}"}}],
]


def test_sources_changes_and_follow_ups_are_computed() -> None:
    task = drafted("sequential", WITHDRAW)
    search, withdraw = task.calls
    assert withdraw.sources == {"book_id": f"{search.id}:books[0].id"}
    assert task.approval is True
    assert len(task.follow_ups) == 1
    [(key, row)] = task.changes.rows["book"].items()
    assert row is not None
    assert row["status"] == "lost"
    assert key == withdraw.arguments["book_id"]
    assert len(task.forbidden) == 2
    assert drafted("sequential", WITHDRAW) == task
    plain = json.loads(json.dumps(WITHDRAW))
    plain[1][0]["arguments"]["book_id"] = key  # the bare id is traced to the result that tells it
    assert drafted("sequential", plain).calls[1].sources == withdraw.sources


def test_a_refusal_is_a_task_too() -> None:
    task = drafted("sequential", WITHDRAW, approval=False, answer="Copper roads stays.", must_say=[["stays"]])
    assert task.approval is False
    assert task.changes.rows == {}
    verify(task)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"turns": [[{"id": "a", "name": "burn_book"}]]}, "there is no tool 'burn_book'"),
        ({"turns": [[]]}, "a turn has no calls"),
        ({"turns": [WITHDRAW[0], WITHDRAW[0]]}, "two calls have the id 'a'"),
        ({"turns": [[*WITHDRAW[0], *WITHDRAW[1]]]}, "which no earlier turn has"),
        ({"turns": [WITHDRAW[0], [{**WITHDRAW[1][0], "arguments": {"book_id": "{{a:books[4].id}}"}}]]}, "nothing at"),
        ({"forbidden": [["book", "BOO-1"]]}, "there is no book 'BOO-1'"),
        ({"must_say": [["rhubarb"]]}, "not said: 'rhubarb'"),
    ],
)
def test_drafts_that_are_no_tasks_say_why(change: dict[str, Any], says: str) -> None:
    turns = change.pop("turns", WITHDRAW)
    with pytest.raises(ValueError, match=says):
        drafted("sequential", turns, **change)


# --- the command, and Ray ---


def test_the_command_makes_tasks_and_reports_what_they_cost(tmp_path: Path) -> None:
    out = tmp_path / "made.jsonl"
    with ScriptedAuthor(["unsaid"]) as model:
        command = [
            "synthesize",
            "--out",
            str(out),
            "--by-model",
            model.url,
            "--model",
            "author",
            "--domains",
            "a library",
        ]
        sizes = ["--count", "3", "--tries", "1", "--harder", "0", "--repairs", "0", "--price", "1,2", "--dollars", "5"]
        result = CliRunner().invoke(app, [*command, *sizes])
        assert result.exit_code == 0, result.output
        sent = len(model.requests)
        again = CliRunner().invoke(app, [*command, *sizes, "--format", "messages"])
        assert again.exit_code == 0, again.output
        assert len(model.requests) == sent
    assert "3 verified tasks of 1 domains" in result.output
    assert "dropped: tasks: task a_library-m0-1" in result.output
    assert "tries that solve their task: 1" in result.output
    assert [set(json.loads(line)) > {"messages", "tools"} for line in out.read_text().splitlines()] == [True] * 3
    dropped = (tmp_path / "made.jsonl.work" / "dropped.jsonl").read_text()
    assert json.loads(dropped)["stage"] == "tasks"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tries", "3"], "--tries goes with --by-model"),
        (["--by-model", "http://x/v1"], "--by-model needs --model"),
        (["--by-model", "http://x/v1", "--model", "m"], "--domains: there is none"),
        (["--by-model", "http://x/v1", "--model", "m", "--domains", "a,,b"], "--domains: number 2 is empty"),
        (["--by-model", "http://x/v1", "--model", "m", "--domains", "a", "--dollars", "1"], "--dollars needs --price"),
        (["--by-model", "http://x/v1", "--model", "m", "--domains", "a", "--price", "1"], "--price is '1'"),
    ],
)
def test_options_that_do_not_fit_say_so(options: list[str], says: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["synthesize", "--out", str(tmp_path / "x.jsonl"), *options])
    assert result.exit_code == 1
    assert says in result.output
    assert list(tmp_path.iterdir()) == []


def test_the_guide_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    guide = (Path(__file__).parent.parent / "docs" / "synthesize.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    exec(first, {})
    with ScriptedAuthor() as model:
        scope: dict[str, Any] = {"url": model.url}
        exec(second.replace("count=50", "count=1"), scope)
    assert len(scope["made"].tasks) == 2
    assert scope["made"].pass_at_k().value == 1.0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_calls_and_tries_are_spread_over_ray_workers(tmp_path: Path) -> None:
    with ScriptedAuthor() as model:
        wanted = settings(model, count=3, tries=1, backend="ray", ray_workers=2, workers=4)
        made = synthesize_by_model(wanted, tmp_path)
        assert len(model.asked("task")) == 3
    assert made.dropped == []
    assert len(made.tasks) == 3
    assert made.pass_at_k().value == 1.0
