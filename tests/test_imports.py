"""Benchmarks as environments, on packages of the same shape as the real ones; the real ones are in benchmarks/."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from toolorch_integrations.cli.evaluate_inputs import load_tasks
from toolorch_integrations.preferences import Preferences
from toolorch_rl.environments.errors import EnvironmentCallError
from toolorch_rl.imports import ImportedTask, LeftOut, bfcl_tasks, replay_imported, tau2_tasks
from toolorch_rl.imports.source import BenchmarkError
from toolorch_rl.synthesis import Split

LAMP = '''
class Lamp:
    """A lamp."""

    def __init__(self):
        self.on = False
        self._watts = 5

    def _load_scenario(self, scenario, long_context=False):
        self.on = scenario.get("on", False)
        self.long = long_context

    def switch(self, on, level=1):
        """Switch it."""
        if level > 3:
            raise ValueError("too bright")
        self.on = on
        return {"on": on, "level": level}

    def look(self):
        """Look at it."""
        return self.on

    def name(self, names):
        """Give it names."""
        names.append("lamp")
        return str(names)
'''
DOCUMENTS = [
    {
        "name": "switch",
        "description": "Switch it.",
        "parameters": {
            "type": "dict",
            "properties": {
                "on": {"type": "boolean", "description": "Light or not."},
                "level": {"type": "integer", "default": 1},
            },
            "required": ["on"],
        },
    },
    {
        "name": "name",
        "description": "Give it names.",
        "parameters": {
            "type": "dict",
            "properties": {"names": {"type": "array", "items": {"type": "string"}}},
            "required": ["names"],
        },
    },
    {"name": "look", "description": "Look at it.", "parameters": {"type": "dict", "properties": {}, "required": []}},
]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


ROWS = [
    ("plain", [user("Light, please."), user("Is it on?")], [["switch(True, level=2)"], ["look()"]], {}),
    ("fails", [user("Brighter!"), user("On.")], [["switch(on=True, level=9)"], ["switch(on=True)"]], {}),
    ("keeps", [user("Lucy.")], [["name(names=['Lucy'])"]], {}),
    ("late", [user("Look."), []], [[], ["look()", "switch(True)"]], {"missed_function": {"1": ["look"]}}),
    ("nested", [user("Odd.")], [["switch(look())"]], {}),
    ("unshown", [user("Odd.")], [["look()"]], {"excluded_function": ["look"]}),
]


@pytest.fixture
def bfcl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    package = tmp_path / "bfcl_eval"
    (package / "constants").mkdir(parents=True)
    (package / "data" / "possible_answer").mkdir(parents=True)
    (package / "data" / "multi_turn_func_doc").mkdir()
    for folder in (package, package / "constants"):
        (folder / "__init__.py").touch()
    (package / "lamp.py").write_text(LAMP)
    (package / "constants" / "executable_backend_config.py").write_text(
        'CLASS_FILE_PATH_MAPPING = {"Lamp": "bfcl_eval.lamp"}\n'
        'MULTI_TURN_FUNC_DOC_FILE_MAPPING = {"Lamp": "lamp.json"}\nSTATELESS_CLASSES = []\n'
    )
    write(package / "data" / "multi_turn_func_doc" / "lamp.json", DOCUMENTS)
    write(
        package / "data" / "BFCL_v4_multi_turn_base.json",
        [
            {"id": name, "question": said, "initial_config": {"Lamp": {}}, "involved_classes": ["Lamp"], **more}
            for name, said, _, more in ROWS
        ],
    )
    write(
        package / "data" / "possible_answer" / "BFCL_v4_multi_turn_base.json",
        [{"id": name, "ground_truth": golden} for name, _, golden, _ in ROWS],
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "bfcl_eval"]:
        del sys.modules[name]


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def by_id(checkout: Path) -> dict[str, ImportedTask | LeftOut]:
    return {task.id: task for task in bfcl_tasks("base", checkout)}


def imported(checkout: Path, name: str) -> ImportedTask:
    task = by_id(checkout)[name]
    assert isinstance(task, ImportedTask)
    return task


def test_golden_calls_solve_what_is_imported_and_the_rest_says_why(bfcl: Path) -> None:
    tasks = by_id(bfcl)
    solved = {name: replay_imported(task) for name, task in tasks.items() if isinstance(task, ImportedTask)}
    assert {name: (found.solved, found.trivial) for name, found in solved.items()} == {
        "plain": (True, False),
        "fails": (True, False),
        "keeps": (True, False),
        "late": (True, False),
    }
    kept = tasks["keeps"]
    assert isinstance(kept, ImportedTask)
    assert kept.calls[0].arguments == {"names": ["Lucy"]}  # whatever a tool does with its arguments
    reasons = {name: task.reason for name, task in tasks.items() if isinstance(task, LeftOut)}
    assert "switch(look())" in reasons["nested"]
    assert "'look()' is of a tool that is not shown" in reasons["unshown"]


def test_what_the_user_says_and_what_is_shown_when(bfcl: Path) -> None:
    task = imported(bfcl, "late")
    assert task.request == "Look."
    assert task.follow_ups == ("I have updated some more functions you can choose from. What about now?",)
    assert task.view(0).deny == {"look"}
    assert task.view(1).deny == frozenset()
    plain = imported(bfcl, "plain")
    assert [call.arguments for call in plain.calls] == [{"on": True, "level": 2}, {}]
    assert plain.pattern == "sequential"


@pytest.mark.parametrize(
    ("stages", "reason"),
    [
        ([[("switch", {"on": True, "level": 2})], [("look", {})]], ""),
        ([[("look", {}), ("switch", {"on": True, "level": 2})], [("look", {})]], ""),  # more than needed is no fault
        ([[("switch", {"on": True, "level": 2})], []], "turn 2 has not seen the result of look"),
        ([[], [("switch", {"on": True, "level": 2}), ("look", {})]], "turn 1 leaves another state"),
        ([[("switch", {"on": True, "level": 2})]], "after 1 of the user's 2 turns"),
    ],
)
def test_a_run_is_judged_turn_by_turn(
    bfcl: Path, stages: list[list[tuple[str, dict[str, object]]]], reason: str
) -> None:
    task = imported(bfcl, "plain")
    with task.open() as place:
        for calls in stages:
            for name, arguments in calls:
                place.call_text(name, arguments)
            place.end_stage()
        verdict = task.judge(place, "Done.")
    assert verdict.passed is (not reason)
    assert reason in verdict.reason


async def test_both_frameworks_get_the_tools(bfcl: Path) -> None:
    task = imported(bfcl, "plain")
    with task.open() as place:
        langchain = {tool.name: tool for tool in place.langchain_tools()}
        assert json.loads(langchain["switch"].invoke({"on": True})) == {"on": True, "level": 1}
    with task.open() as place:
        llamaindex = {tool.metadata.name: tool for tool in place.llamaindex_tools()}
        output = await llamaindex["switch"].acall(on=True, level=3)
        assert json.loads(output.content) == {"on": True, "level": 3}
        with pytest.raises(EnvironmentCallError, match="too bright"):
            place.call_text("switch", {"on": True, "level": 7})
        with pytest.raises(EnvironmentCallError, match="no tool 'fly'"):
            place.call_text("fly", {})
        assert [call.failed for call in place.made] == [False, True]


def test_a_benchmark_that_is_not_there_says_what_to_do(tmp_path: Path, bfcl: Path) -> None:
    with pytest.raises(BenchmarkError, match="holds no package 'tau2'"):
        list(tau2_tasks("retail", tmp_path))
    with pytest.raises(BenchmarkError, match="tau2 cannot be imported: it is not installed"):
        list(tau2_tasks("retail"))
    with pytest.raises(BenchmarkError, match="choose one of base, long_context"):
        list(bfcl_tasks("moon", bfcl))  # type: ignore[arg-type]
    with pytest.raises(BenchmarkError, match=r"BFCL_v4_multi_turn_miss_func\.json is missing"):
        list(bfcl_tasks("miss_func", bfcl))


def test_the_command_takes_benchmarks_beside_other_tasks(bfcl: Path) -> None:
    preferences = Preferences(cost=1.0)
    found = load_tasks([], None, 0, Split(by="tool", seed=3, share=0.5), preferences, [f"bfcl:base@{bfcl}"])
    whole = load_tasks([], None, 0, None, preferences, [f"bfcl:base@{bfcl}"])
    assert (
        {task.id for task in found.usable} <= {task.id for task in whole.usable} == {"plain", "fails", "keeps", "late"}
    )
    assert {task.preferences.cost for task in whole.usable} == {1.0}
    assert len(whole.skipped) == 2
    assert len(whole.digest) == 16
    with pytest.raises(BenchmarkError, match="give bfcl:CATEGORY or tau2:DOMAIN"):
        load_tasks([], None, 0, None, None, ["gaia"])


TAU2 = dedent("""
    from types import SimpleNamespace as N


    class Desk:
        def __init__(self, solo_mode=False):
            self.open_tickets = {"t1"}
            self.phone_on = False
            self.user_tools = self
            self.solo = solo_mode

        def get_tools(self):
            return [tool("close", {"ticket": {"type": "string"}})]

        def get_user_tools(self):
            return [tool("turn_on", {})]

        def get_policy(self):
            return "Be kind."

        def make_tool_call(self, name, requestor, **arguments):
            if name == "turn_on":
                self.phone_on = True
                return "on"
            self.open_tickets.remove(arguments["ticket"])
            return {"closed": arguments["ticket"]}

        def sync_tools(self):
            pass

        def to_json_str(self, result):
            return str(result)

        def get_db_hash(self):
            return str(sorted(self.open_tickets))

        def get_user_db_hash(self):
            return str(self.phone_on)

        def set_state(self, data, actions, history):
            self.open_tickets |= set(data or ())

        def run_env_assertion(self, assertion, raise_assertion_error):
            return getattr(self, assertion.func_name)


    def tool(name, properties):
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        return N(name=name, openai_schema={"function": {"name": name, "description": name, "parameters": schema}})


    def task(id, actions, basis=("DB",), said=(), asserts=(), state=None, ticket=None):
        criteria = N(
            actions=[N(name=n, arguments=a, requestor=r, compare_args=None) for n, a, r in actions],
            communicate_info=list(said), env_assertions=[N(func_name=n) for n in asserts], reward_basis=list(basis),
        )
        return N(id=id, evaluation_criteria=criteria, initial_state=state, ticket=ticket,
                 user_scenario=N(instructions="Close it."))


    TURN_ON = ("turn_on", {}, "user")
    CLOSE = ("close", {"ticket": "t1"}, "assistant")


    def get_tasks(split):
        history = N(initialization_data=None, initialization_actions=None, message_history=["hello"])
        more = N(initialization_data=["t2"], initialization_actions=None, message_history=None)
        return [
            task("db", [CLOSE]),
            task("says", [CLOSE], ("DB", "COMMUNICATE", "NL_ASSERTION"), said=["42"]),
            task("acts", [CLOSE], ("ACTION",), state=more),
            task("solo", [TURN_ON, CLOSE], ("ENV_ASSERTION",), asserts=["phone_on"], ticket="No light!"),
            task("nothing", []),
            task("midway", [CLOSE], state=history),
            task("played", [TURN_ON]),
        ]


    get_environment = Desk
""")


def test_tasks_of_tau2_are_judged_by_what_their_reward_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "src" / "tau2"
    (package / "domains" / "desk").mkdir(parents=True)
    for folder in (package, package / "domains", package / "domains" / "desk"):
        (folder / "__init__.py").touch()
    (package / "domains" / "desk" / "environment.py").write_text(TAU2)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("TAU2_DATA_DIR", str(tmp_path))
    try:
        found = {task.id: task for task in tau2_tasks("desk", tmp_path)}
        with pytest.raises(BenchmarkError, match="no domain 'moon'"):
            list(tau2_tasks("moon", tmp_path))
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "tau2"]:
            del sys.modules[name]
    tasks = {name: task for name, task in found.items() if isinstance(task, ImportedTask)}
    assert {name: (replay_imported(task).solved, replay_imported(task).trivial) for name, task in tasks.items()} == {
        "desk_db": (True, False),
        "desk_says": (True, False),
        "desk_acts": (True, False),
        "desk_solo": (True, False),
    }
    assert {name: task.reason for name, task in found.items() if isinstance(task, LeftOut)} == {
        "nothing": "it has neither golden actions nor assertions on the databases",
        "midway": "it begins in the middle of a conversation",
        "played": "the user acts, and there is no ticket for the solo mode",
    }
    assert tasks["desk_says"].unchecked == ("NL_ASSERTION",)
    assert (tasks["desk_solo"].request, tasks["desk_db"].app_prompt) == ("No light!", "Be kind.")
    says = tasks["desk_says"]
    with says.open() as place:
        place.call_text("close", {"ticket": "t1"})
        assert says.judge(place, "Closed.").reason == "not said: '42'"
