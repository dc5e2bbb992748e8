from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from tests.doubles import chat_policy, specialist, texts
from tests.resume_worker import build, checkpointer
from toolorch_integrations import Budget, Catalog, CatalogFilter, Price, Tool
from toolorch_integrations.langgraph import OrchestratorMiddleware, create_orchestrator, ledger_of
from toolorch_integrations.testing import Reply, ScriptedPolicy

ASK: dict[str, Any] = {"messages": [("user", "Clean up.")]}
CONFIG: Any = {"configurable": {"thread_id": "1"}}
DELETE = Reply(calls=[("delete_project", {"name": "old"})])
APPROVE = {"type": "approve"}
Go = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as one:
        yield one


@pytest.fixture(params=["sync", "async"])
def go(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Go:
    if request.param == "sync":
        return lambda agent, *args, **kwargs: agent.invoke(*args, **kwargs)
    return lambda agent, *args, **kwargs: runner.run(agent.ainvoke(*args, **kwargs))


class Tools:
    """Tools that note what they did."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def delete_project(self, name: str) -> str:
        """Delete a project."""
        self.done.append(f"delete {name}")
        return f"{name} is gone"

    def search(self, query: str) -> str:
        """Search documents."""
        self.done.append(f"search {query}")
        return "found"

    @property
    def all(self) -> list[Callable[..., str]]:
        return [self.delete_project, self.search]


def resume(*decisions: dict[str, Any]) -> Command[Any]:
    return Command(resume={"decisions": list(decisions)})


def asked(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [request for one in result.get("__interrupt__", ()) for request in one.value["action_requests"]]


def agent_of(server: ScriptedPolicy, tools: Tools, **options: Any) -> Any:
    return create_orchestrator(chat_policy(server), tools.all, checkpointer=InMemorySaver(), **options)


def test_nothing_of_the_turn_runs_before_the_yes_and_then_once(go: Go):
    tools = Tools()
    turn = Reply(calls=[("search", {"query": "a"}), ("delete_project", {"name": "old"}), ("search", {"query": "b"})])
    with ScriptedPolicy([turn, "Done."]) as server:
        agent = agent_of(server, tools)
        waiting = go(agent, ASK, CONFIG)
        assert tools.done == []
        assert [(request["name"], request["args"]) for request in asked(waiting)] == [
            ("delete_project", {"name": "old"})
        ]
        assert [call.name for call in ledger_of(waiting)] == ["scripted"]
        result = go(agent, resume(APPROVE), CONFIG)
    assert sorted(tools.done) == ["delete old", "search a", "search b"]
    assert result["messages"][-1].text == "Done."
    assert ledger_of(result).counts() == {"delete_project": 1, "search": 2}
    assert [call.name for call in ledger_of(result) if call.confirmed] == ["delete_project"]
    assert len(server.requests) == 2


def test_a_harmless_turn_is_not_asked_about(go: Go):
    tools = Tools()
    with ScriptedPolicy([Reply(calls=[("search", {"query": "a"})]), "Done."]) as server:
        result = go(agent_of(server, tools), ASK, CONFIG)
    assert result["messages"][-1].text == "Done."


@pytest.mark.parametrize(
    ("name", "declared", "asks"),
    [
        ("delete_project", None, True),
        ("delete_project", True, True),
        ("delete_project", False, False),
        ("search", None, False),
        ("search", True, True),
        ("search", False, False),
    ],
)
def test_the_name_decides_unless_the_catalogue_does(name: str, declared: bool | None, asks: bool):
    tools = Tools()
    arguments = {"name": "x"} if name == "delete_project" else {"query": "x"}
    with ScriptedPolicy([Reply(calls=[(name, arguments)]), "Done."]) as server:
        agent = agent_of(server, tools, catalog=Catalog([Tool(name=name, destructive=declared)]))
        waiting = agent.invoke(ASK, CONFIG)
    assert bool(asked(waiting)) == asks
    assert bool(tools.done) != asks


@pytest.mark.parametrize("declared", [True, False])
def test_a_specialist_may_be_destructive_too(declared: bool):
    name = "robot" if declared else "send-helper"
    with ScriptedPolicy([Reply(calls=[(name, {})]), "Done."]) as server, ScriptedPolicy(["Moved."]) as robot:
        agent = create_orchestrator(
            chat_policy(server),
            specialists=[specialist(robot, name, destructive=declared)],
            checkpointer=InMemorySaver(),
        )
        waiting = agent.invoke(ASK, CONFIG)
        assert bool(asked(waiting)) == declared
        assert bool(robot.requests) != declared


def test_an_alias_hides_nothing_from_the_rule(go: Go):
    tools = Tools()
    changes = CatalogFilter(aliases={"delete_project": "tool-1", "search": "delete_some"})
    turn = Reply(calls=[("delete_some", {"query": "a"}), ("tool-1", {"name": "old"})])
    with ScriptedPolicy([turn, "Done."]) as server:
        agent = agent_of(server, tools, changes=changes)
        assert [request["name"] for request in asked(go(agent, ASK, CONFIG))] == ["tool-1"]
        assert tools.done == []
        result = go(agent, resume(APPROVE), CONFIG)
    assert sorted(tools.done) == ["delete old", "search a"]
    assert ledger_of(result).counts() == {"delete_project": 1, "search": 1}


def test_a_no_is_an_observation_and_costs_nothing(go: Go):
    tools = Tools()
    turn = Reply(calls=[("delete_project", {"name": "old"}), ("search", {"query": "a"})])
    catalog = Catalog([Tool(name="delete_project", price=Price(call=5))])
    with ScriptedPolicy([turn, "As you like."]) as server:
        agent = agent_of(server, tools, catalog=catalog)
        go(agent, ASK, CONFIG)
        result = go(agent, resume({"type": "reject", "message": "keep it"}), CONFIG)
    assert tools.done == ["search a"]
    assert ("tool", "The user refused the call of delete_project: keep it. Do not repeat it.") in texts(
        result["messages"]
    )
    refused = next(call for call in ledger_of(result) if call.name == "delete_project")
    assert (refused.status, refused.dollars, refused.turn) == ("refused", 0, 1)
    sent = [message for message in server.requests[1]["messages"] if message["role"] == "tool"]
    assert len(sent) == 2


def test_a_no_without_a_reason(go: Go):
    with ScriptedPolicy([DELETE, "As you like."]) as server:
        agent = agent_of(server, Tools())
        go(agent, ASK, CONFIG)
        result = go(agent, resume({"type": "reject"}), CONFIG)
    assert texts(result["messages"])[2] == ("tool", "The user refused the call of delete_project. Do not repeat it.")


@pytest.mark.parametrize("aliases", [{}, {"delete_project": "tool-1", "search": "tool-2"}])
def test_other_arguments_in_place_of_the_policys(go: Go, aliases: dict[str, str]):
    tools = Tools()
    shown = aliases.get("delete_project", "delete_project")
    with ScriptedPolicy([Reply(calls=[(shown, {"name": "old"})]), "Done."]) as server:
        agent = agent_of(server, tools, changes=CatalogFilter(aliases=aliases))
        go(agent, ASK, CONFIG)
        edited = {"type": "edit", "edited_action": {"name": shown, "args": {"name": "older"}}}
        result = go(agent, resume(edited), CONFIG)
    assert tools.done == ["delete older"]
    assert texts(result["messages"])[2][1].endswith("older is gone")
    assert ledger_of(result).counts() == {"delete_project": 1}


@pytest.mark.parametrize("aliases", [{}, {"delete_project": "tool-1", "search": "tool-2"}])
def test_another_tool_in_place_of_the_policys_is_charged_as_itself(go: Go, aliases: dict[str, str]):
    tools = Tools()
    catalog = Catalog([Tool(name="delete_project", price=Price(call=5)), Tool(name="search", price=Price(call=0.25))])
    shown = aliases.get("delete_project", "delete_project")
    with ScriptedPolicy([Reply(calls=[(shown, {"name": "old"})]), "Done."]) as server:
        agent = agent_of(server, tools, catalog=catalog, changes=CatalogFilter(aliases=aliases))
        go(agent, ASK, CONFIG)
        action = {"name": aliases.get("search", "search"), "args": {"query": "a"}}
        result = go(agent, resume({"type": "edit", "edited_action": action}), CONFIG)
    assert tools.done == ["search a"]
    assert ledger_of(result).counts() == {"search": 1}
    assert ledger_of(result).dollars == 0.25


def test_a_persons_own_answer_takes_the_calls_place(go: Go):
    tools = Tools()
    with ScriptedPolicy([DELETE, "Done."]) as server:
        agent = agent_of(server, tools)
        go(agent, ASK, CONFIG)
        result = go(agent, resume({"type": "respond", "message": "I did it myself."}), CONFIG)
    assert tools.done == []
    assert texts(result["messages"])[2] == ("tool", "I did it myself.")
    assert ledger_of(result).counts() == {}


def test_every_destructive_turn_asks_anew(go: Go):
    tools = Tools()
    with ScriptedPolicy([DELETE, DELETE, "Done."]) as server:
        agent = agent_of(server, tools)
        assert asked(go(agent, ASK, CONFIG))
        assert asked(go(agent, resume(APPROVE), CONFIG))
        assert tools.done == ["delete old"]
        result = go(agent, resume(APPROVE), CONFIG)
    assert tools.done == ["delete old"] * 2
    assert "__interrupt__" not in result


def test_several_calls_take_a_decision_each_in_order(go: Go):
    tools = Tools()
    turn = Reply(calls=[("delete_project", {"name": name}) for name in "abc"])
    with ScriptedPolicy([turn, "Done."]) as server:
        agent = agent_of(server, tools)
        assert len(asked(go(agent, ASK, CONFIG))) == 3
        go(agent, resume(APPROVE, {"type": "reject"}, APPROVE), CONFIG)
    assert sorted(tools.done) == ["delete a", "delete c"]


def test_confirm_can_be_left_to_the_app():
    tools = Tools()
    with ScriptedPolicy([DELETE, "Done."]) as server:
        assert not asked(agent_of(server, tools, confirm=False).invoke(ASK, CONFIG))
    assert tools.done == ["delete old"]


def test_the_apps_own_middleware_may_ask_in_its_place(go: Go):
    tools = Tools()
    own = HumanInTheLoopMiddleware({"search": True})
    turn = Reply(calls=[("search", {"query": "a"}), ("delete_project", {"name": "old"})])
    with ScriptedPolicy([turn, "Done."]) as server:
        agent = agent_of(server, tools, confirm=False, middleware=[own])
        assert [request["name"] for request in asked(go(agent, ASK, CONFIG))] == ["search"]
        go(agent, resume(APPROVE), CONFIG)
    assert sorted(tools.done) == ["delete old", "search a"]


def test_an_entry_may_say_that_its_name_deceives():
    tools = Tools()
    with ScriptedPolicy([DELETE, "Done."]) as server:
        agent_of(server, tools, catalog=Catalog([Tool(name="delete_project", destructive=False)])).invoke(ASK, CONFIG)
    assert tools.done == ["delete old"]


def test_without_a_checkpointer_the_run_stops_before_the_call():
    tools = Tools()
    with ScriptedPolicy([DELETE, "Done."]) as server:
        result = create_orchestrator(chat_policy(server), tools.all).invoke(ASK)
    assert asked(result)
    assert tools.done == []


# --- the middleware alone ---


def test_the_middleware_alone_asks_too(go: Go):
    tools = Tools()
    with ScriptedPolicy([DELETE, "Done."]) as server:
        agent = create_agent(
            chat_policy(server), tools.all, middleware=[OrchestratorMiddleware()], checkpointer=InMemorySaver()
        )
        waiting = go(agent, ASK, CONFIG)
        assert [request["name"] for request in asked(waiting)] == ["delete_project"]
        assert tools.done == []
        result = go(agent, resume(APPROVE), CONFIG)
    assert tools.done == ["delete old"]
    assert ledger_of(result).counts() == {"delete_project": 1}


def test_the_middleware_alone_takes_a_no(go: Go):
    tools = Tools()
    with ScriptedPolicy([DELETE, "As you like."]) as server:
        agent = create_agent(
            chat_policy(server), tools.all, middleware=[OrchestratorMiddleware()], checkpointer=InMemorySaver()
        )
        go(agent, ASK, CONFIG)
        result = go(agent, resume({"type": "reject", "message": "keep it"}), CONFIG)
    assert tools.done == []
    assert texts(result["messages"])[2][1] == "The user refused the call of delete_project: keep it. Do not repeat it."
    assert [call.status for call in ledger_of(result)][1] == "refused"


@pytest.mark.parametrize(
    "answer",
    ["yes", True, {"decisions": []}, {"decisions": [{"type": "edit", "edited_action": {}}]}, {"decisions": "no"}],
)
def test_the_middleware_alone_asks_again_where_the_answer_is_no_decision(go: Go, answer: Any):
    tools = Tools()
    with ScriptedPolicy([DELETE, "Done."]) as server:
        agent = create_agent(
            chat_policy(server), tools.all, middleware=[OrchestratorMiddleware()], checkpointer=InMemorySaver()
        )
        go(agent, ASK, CONFIG)
        again = go(agent, Command(resume=answer), CONFIG)
        assert "is no decision: resume with" in asked(again)[0]["description"]
        assert tools.done == []
        result = go(agent, resume(APPROVE), CONFIG)
    assert tools.done == ["delete old"]
    assert ledger_of(result).counts() == {"delete_project": 1}


@pytest.mark.parametrize("declared", [True, False])
def test_the_middleware_confirms_what_its_catalogue_says(go: Go, declared: bool):
    tools = Tools()
    name, arguments = ("search", {"query": "a"}) if declared else ("delete_project", {"name": "old"})
    turn = Reply(calls=[(name, arguments), *([("search", {"query": "b"})] if not declared else [])])
    orchestrator = OrchestratorMiddleware(catalog=Catalog([Tool(name=name, destructive=declared)]))
    with ScriptedPolicy([turn, "Done."]) as server:
        agent = create_agent(
            chat_policy(server),
            tools.all,
            middleware=[orchestrator, orchestrator.confirmation()],
            checkpointer=InMemorySaver(),
        )
        waiting = go(agent, ASK, CONFIG)
    assert [request["name"] for request in asked(waiting)] == (["search"] if declared else [])
    assert bool(tools.done) != declared


# --- time ---


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that have passed beside the real ones, to be changed."""
    import time

    real, ahead = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])
    return ahead


@pytest.mark.parametrize("alone", [False, True], ids=["orchestrator", "middleware alone"])
def test_the_time_a_person_takes_does_not_count(clock: list[float], alone: bool):
    tools = Tools()
    with ScriptedPolicy([DELETE, DELETE, "Done."]) as server:
        saver, budget = InMemorySaver(), Budget(seconds=60)
        agent: Any
        if alone:
            middleware = [OrchestratorMiddleware(budget=budget)]
            agent = create_agent(chat_policy(server), tools.all, middleware=middleware, checkpointer=saver)
        else:
            agent = create_orchestrator(chat_policy(server), tools.all, budget=budget, checkpointer=saver)
        agent.invoke(ASK, CONFIG)
        for _ in range(2):
            clock[0] += 3600
            result = agent.invoke(resume(APPROVE), CONFIG)
    assert tools.done == ["delete old"] * 2
    assert result["messages"][-1].text == "Done."


@pytest.mark.parametrize("way", ["other middleware", "interrupt_before", "interrupt_after"])
def test_no_way_of_waiting_counts(clock: list[float], go: Go, way: str):
    tools = Tools()
    options: dict[str, Any] = {way: ["tools" if way == "interrupt_before" else "model"]}
    goes_on: Any = None
    if way == "other middleware":
        options = {"middleware": [HumanInTheLoopMiddleware({"search": True})]}
        goes_on = resume(APPROVE)
    look = Reply(calls=[("search", {"query": "a"})])
    with ScriptedPolicy([look, look, "Done."]) as server:
        agent = agent_of(server, tools, confirm=False, budget=Budget(seconds=60), **options)
        result = go(agent, ASK, CONFIG)
        for _ in range(2):
            clock[0] += 3600
            result = go(agent, goes_on, CONFIG)
    assert tools.done == ["search a"] * 2
    assert result["messages"][-1].text == "Done."


def test_work_beside_a_call_that_waits_does_count(clock: list[float], go: Go):
    asking = threading.Event()

    def ask_colour() -> str:
        """Ask for a colour."""
        asking.set()
        return str(interrupt("Which colour?"))

    def dawdle() -> str:
        """Take an hour."""
        asking.wait(60)
        clock[0] += 3600
        return "slept"

    with ScriptedPolicy([Reply(calls=[("dawdle", {}), ("ask_colour", {})]), "Done."]) as server:
        agent = create_orchestrator(
            chat_policy(server), [ask_colour, dawdle], budget=Budget(seconds=600), checkpointer=InMemorySaver()
        )
        go(agent, ASK, CONFIG)
        clock[0] += 7200
        result = go(agent, Command(resume="blue"), CONFIG)
    assert "budget of seconds ended" in result["messages"][-1].text


def test_time_that_the_run_itself_takes_does_count(clock: list[float]):
    def dawdle() -> str:
        """Take an hour."""
        clock[0] += 3600
        return "slept"

    with ScriptedPolicy([Reply(calls=[("dawdle", {})]), "Done."]) as server:
        result = create_orchestrator(chat_policy(server), [dawdle], budget=Budget(seconds=60)).invoke(ASK)
    assert "budget of seconds ended" in result["messages"][-1].text


def test_a_tool_that_asks_a_person_itself_waits_for_free_and_is_charged_once(clock: list[float], go: Go):
    ran: list[str] = []

    @tool
    def ask_colour() -> str:
        """Ask for a colour."""
        ran.append("before")
        colour: str = interrupt("Which colour?")
        ran.append("after")
        return colour

    catalog = Catalog([Tool(name="ask_colour", price=Price(call=1.0))])
    with ScriptedPolicy([Reply(calls=[("ask_colour", {})]), "Done."]) as server:
        agent = create_orchestrator(
            chat_policy(server),
            [ask_colour],
            catalog=catalog,
            budget=Budget(seconds=60, dollars=1.5),
            checkpointer=InMemorySaver(),
        )
        waiting = go(agent, ASK, CONFIG)
        assert waiting["__interrupt__"][0].value == "Which colour?"
        clock[0] += 3600
        result = go(agent, Command(resume="blue"), CONFIG)
    assert texts(result["messages"])[2:] == [("tool", "blue"), ("ai", "Done.")]
    assert ran == ["before", "before", "after"]
    assert ledger_of(result).counts() == {"ask_colour": 1}
    assert ledger_of(result).dollars == 1.0


# --- another process ---


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return str(tmp_path / "checkpoints.db")


def elsewhere(**setup: Any) -> dict[str, Any]:
    """Resume in a process of its own."""
    command = [sys.executable, "-m", "tests.resume_worker", json.dumps(setup)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.slow
def test_a_run_goes_on_in_another_process_and_comes_back(checkpoints: str, tmp_path: Path):
    log = tmp_path / "deleted.txt"
    with ScriptedPolicy([DELETE, DELETE, DELETE, "Done."]) as server:
        setup = {"url": checkpoints, "server": server.url, "thread": "1", "log": str(log), "decisions": [APPROVE]}
        with checkpointer(checkpoints) as saver:
            agent = build(server.url, str(log), saver)
            assert asked(agent.invoke(ASK, CONFIG))
            assert not log.exists()
            there = elsewhere(**setup)
            assert there["interrupted"]
            assert log.read_text() == "old\n"
            here = agent.invoke(resume(APPROVE), CONFIG)  # this process has not seen what the other one did
            assert log.read_text() == "old\n" * 2
            assert asked(here)
            assert [call.turn for call in ledger_of(here)] == [1, 1, 2, 2, 3]
            end = agent.invoke(resume(APPROVE), CONFIG)
    ledger = ledger_of(end)
    assert end["messages"][-1].text == "Done."
    assert log.read_text() == "old\n" * 3
    assert ledger.counts() == {"delete_project": 3}
    assert len({call.call_id for call in ledger}) == len(ledger) == 7
    assert ledger.dollars == pytest.approx(1.5, abs=0.1)
    assert len({call.run_id for call in ledger}) == 1
