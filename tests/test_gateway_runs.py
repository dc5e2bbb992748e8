"""Orchestrators of both frameworks as runners of the gateway: progress, conversations, approvals, ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from tests.gateway_runs import DELETE_TWO, FACES, Held, Shop, ask, ended, events_of, runner_for
from toolorch_integrations import Budget, CatalogFilter, Preferences, Price
from toolorch_integrations.capture import CaptureSession, capture
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.run_options import RunOptions
from toolorch_integrations.store import TraceStore
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_serving.gateway.errors import ConflictError, GatewayError, NotFoundError
from toolorch_serving.gateway.threads import Threads, checkpoint_thread

EXPERT = Reply(calls=[("expert", {"task": "Think."})])


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def shop_of(face: str, script: Any, expert: Any = ("Expert's word.",), **options: Any) -> Iterator[SimpleNamespace]:
    shop = Shop()
    with ScriptedPolicy(script) as policy, ScriptedPolicy(expert, model="expert") as experts:
        runner = runner_for(face, policy, experts, shop, **options)
        yield SimpleNamespace(runner=runner, policy=policy, experts=experts, shop=shop)


@contextmanager
def captured(folder: Path) -> Iterator[tuple[TraceStore, CaptureSession]]:
    with TraceStore.open(folder / "traces.db") as store, capture(store, everywhere=True) as session:
        yield store, session


async def test_progress_comes_as_it_happens_and_the_end_says_all(face: str, tmp_path: Path) -> None:
    script = [Reply("Looking.", calls=[("look", {"number": 1})]), EXPERT, "Done."]
    with captured(tmp_path) as (store, session):
        with shop_of(face, script) as one:
            stream = one.runner.run(ask())
            events = await events_of(stream)
            assert [event["type"] for event in events] == [
                "turn", "call_started", "call_ended", "turn", "call_started", "call_ended", "turn", "ended",
            ]  # fmt: skip
            end = events[-1]
            assert (end["status"], end["answer"], end["policy_version"]) == ("answered", "Done.", "scripted")
            assert end["ledger"]["turns"] == 3
            assert end["ledger"]["calls"] == {"look": 1, "expert": 1}
            assert end["ledger"]["dollars"] > 0.01
            assert end["ledger"]["dollars"] == pytest.approx(stream.dollars)
            assert [entry.name for entry in one.runner.catalog()] == ["delete_order", "look", "expert"]
        session.flush()
        (trace,) = store.full_traces()
    assert trace.id == end["trace_id"] == stream.trace_id
    assert trace.thread_id == end["thread_id"] == stream.thread_id
    assert (trace.status, trace.answer, trace.request) == (TraceStatus.ANSWERED, "Done.", "Clean up.")


async def test_the_end_is_with_the_recorder_before_the_last_event(face: str, tmp_path: Path) -> None:
    with captured(tmp_path) as (store, session), shop_of(face, ["Done."]) as one:
        async for event in one.runner.run(ask()):
            if event["type"] == "ended":
                session.flush()  # blocks the event loop: nothing more can be said by the run
                trace = store.find(event["trace_id"])
                assert trace is not None
                assert trace.status is TraceStatus.ANSWERED


async def test_a_request_has_preferences_budget_changes_and_sampling_of_its_own(face: str) -> None:
    with shop_of(face, [Reply(calls=[("peek", {"number": 1})]), "Done."]) as one:
        request = ask(
            preferences=Preferences(cost=1.0),
            budget=Budget(turns=3, dollars=0.5),
            changes=CatalogFilter(deny=frozenset({"expert"}), aliases={"look": "peek"}),
            sampling={"temperature": 0.3, "max_tokens": 77, "seed": 5},
        )
        assert (await ended(one.runner.run(request)))["ledger"]["calls"] == {"look": 1}
        sent = one.policy.requests[0]
    assert [sent["temperature"], sent["max_tokens"], sent["seed"]] == [0.3, 77, 5]
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["delete_order", "peek"]
    system = sent["messages"][0]["content"]
    assert "low cost matters most of all" in system
    assert "3 turns, $0.5" in system


async def test_a_conversation_goes_on_with_its_new_messages_only(face: str) -> None:
    with shop_of(face, lambda request: f"Answer to {request['messages'][-1]['content']}") as one:
        first = await ended(one.runner.run(ask("One.")))
        again = ask("Two.", thread_id=first["thread_id"])
        await ended(one.runner.run(again))
        history = [
            {"role": "user", "content": "One."},
            {"role": "assistant", "content": "Answer to One."},
            {"role": "user", "content": "Two."},
            {"role": "assistant", "content": "Answer to Two."},
            {"role": "user", "content": "Three."},
        ]
        whole = ask(thread_id=first["thread_id"])
        await ended(one.runner.run(type(whole)(messages=history, owner="me", thread_id=first["thread_id"])))
        fresh = await ended(one.runner.run(type(whole)(messages=history[:3], owner="me")))
        sent = [[m["content"] for m in r["messages"] if m["role"] != "system"] for r in one.policy.requests]
    assert sent[1] == ["One.", "Answer to One.", "Two."]
    assert sent[2] == ["One.", "Answer to One.", "Two.", "Answer to Two.", "Three."]
    assert sent[3] == sent[1]
    assert fresh["thread_id"] != first["thread_id"]


async def test_a_conversation_that_another_gateway_has_is_not_begun_empty(face: str) -> None:
    with shop_of(face, ["One."]) as one:
        thread = (await ended(one.runner.run(ask())))["thread_id"]
    with shop_of(face, lambda request: f"Answer to {request['messages'][-1]['content']}") as other:
        with pytest.raises(NotFoundError, match="another gateway has it") as caught:
            other.runner.run(ask("And then?", thread_id=thread))
        assert caught.value.body["error"]["code"] == "thread_not_found"
        assert not other.policy.requests
        told = [*ask("One.").messages, {"role": "assistant", "content": "One."}, *ask("And then?").messages]
        whole = await ended(other.runner.run(replace(ask(), messages=told, thread_id=thread)))
        assert (whole["answer"], whole["thread_id"]) == ("Answer to And then?", thread)
        made_up = await ended(other.runner.run(ask("Hm.", thread_id=thread.removeprefix("thread_"))))
        assert made_up["status"] == "answered"


@pytest.mark.parametrize("yes", [[True, True], [False, False], [True, False]])
async def test_approvals(face: str, yes: list[bool], tmp_path: Path) -> None:
    with captured(tmp_path) as (store, session):
        with shop_of(face, [DELETE_TWO, "Done."]) as one:
            waiting = await ended(one.runner.run(ask(sampling={"temperature": 0.2})))
            assert (waiting["status"], one.shop.done) == ("interrupted", [])
            assert [item["arguments"] for item in waiting["confirmations"]] == [{"number": 1}, {"number": 2}]
            assert {item["tool"] for item in waiting["confirmations"]} == {"delete_order"}
            session.flush()
            stopped = store.find(waiting["trace_id"])
            assert stopped is not None
            assert stopped.status is TraceStatus.INTERRUPTED
            ids = [item["call_id"] for item in waiting["confirmations"]]
            decisions = dict(zip(ids, yes, strict=True))
            stream = one.runner.run(ask("", thread_id=waiting["thread_id"], decisions=decisions))
            events = await events_of(stream)
            end = events[-1]
            assert (end["status"], end["answer"], end["trace_id"]) == ("answered", "Done.", waiting["trace_id"])
            assert one.policy.requests[1]["temperature"] == 0.2
        session.flush()
        (trace,) = store.full_traces()
    assert sorted(one.shop.done) == sorted(
        ["look 1", *(f"delete {n}" for n, ok in zip((1, 2), yes, strict=True) if ok)]
    )
    refused = [event for event in events if event["type"] == "call_ended" and event["status"] == "refused"]
    assert [event["call_id"] for event in refused] == [call_id for call_id, ok in decisions.items() if not ok]
    assert stream.dollars == pytest.approx(end["ledger"]["dollars"] - waiting["ledger"]["dollars"])
    assert trace.status is TraceStatus.ANSWERED
    assert trace.totals.turns == 2


async def test_decisions_that_do_not_fit_are_refused(face: str) -> None:
    with shop_of(face, [DELETE_TWO, "Done."]) as one:
        with pytest.raises(NotFoundError, match="not known here"):
            one.runner.run(ask(thread_id="nobody", decisions={}))
        waiting = await ended(one.runner.run(ask()))
        thread, (first, second) = waiting["thread_id"], [item["call_id"] for item in waiting["confirmations"]]
        with pytest.raises(GatewayError, match=f"'{second}' is missing"):
            one.runner.run(ask(thread_id=thread, decisions={first: True}))
        with pytest.raises(GatewayError, match="'other' is none of them") as error:
            one.runner.run(ask(thread_id=thread, decisions={first: True, second: True, "other": True}))
        assert error.value.param == "decisions.other"
        with pytest.raises(ConflictError, match="waits for decisions"):
            one.runner.run(ask("Something else.", thread_id=thread))
        with pytest.raises(NotFoundError, match="not known here"):
            one.runner.run(type(ask())(owner="you", thread_id=thread, decisions={first: True, second: True}))
        done = await ended(one.runner.run(ask(thread_id=thread, decisions={first: True, second: True})))
        assert done["status"] == "answered"
        with pytest.raises(ConflictError, match="waits for no decision"):
            one.runner.run(ask(thread_id=thread, decisions={first: True}))


async def test_a_run_that_is_closed_stops_spending_in_the_middle_of_a_call(face: str, tmp_path: Path) -> None:
    held = Held()
    with captured(tmp_path) as (store, session), shop_of(face, [EXPERT, EXPERT, "Done."], held) as one:
        stream = one.runner.run(ask())
        async for event in stream:
            if event["type"] == "call_started":
                break
        await held.begun()
        await stream.aclose()
        held.let_go.set()
        await asyncio.sleep(0.1)
        assert stream.ended is not None
        assert stream.ended["status"] == "cancelled"
        assert stream.ended["ledger"]["turns"] == 1
        assert (len(one.policy.requests), len(one.experts.requests)) == (1, 1)
        session.flush()
        trace = store.find(stream.trace_id)
        assert trace is not None
        assert (trace.status, trace.error) == (TraceStatus.INTERRUPTED, "cancelled: the client disconnected")
        # The conversation is as it was before, and goes on.
        end = await ended(one.runner.run(ask("Once more.", thread_id=stream.thread_id)))
        assert end["status"] == "answered"
        assert [m["content"] for m in one.policy.requests[1]["messages"] if m["role"] == "user"] == ["Once more."]


async def test_an_apps_own_checkpointer_has_its_conversations_in_every_gateway() -> None:
    saver = InMemorySaver()
    with shop_of("langgraph", ["One."], checkpointer=saver) as one:
        thread = (await ended(one.runner.run(ask("First."))))["thread_id"]
    with shop_of("langgraph", ["Two."], checkpointer=saver) as other:
        await ended(other.runner.run(ask("Second.", thread_id=thread)))
        said = [m["content"] for m in other.policy.requests[0]["messages"] if m["role"] != "system"]
    assert said == ["First.", "One.", "Second."]


async def test_a_checkpointer_that_outlives_the_gateway_shows_nobody_anothers_conversation(tmp_path: Path) -> None:
    saver, script = InMemorySaver(), lambda request: f"Answer to {request['messages'][-1]['content']}"
    with captured(tmp_path) as (store, session), shop_of("langgraph", script, checkpointer=saver) as one:
        first = await ended(one.runner.run(ask("A secret.", thread_id="chat 1")))
        session.flush()
        trace = store.find(first["trace_id"])
    assert (first["thread_id"], trace and trace.thread_id) == ("chat 1", "chat 1")
    config: Any = {"configurable": {"thread_id": checkpoint_thread("me", "shop", "chat 1")}}
    assert saver.get_tuple(config) is not None
    with shop_of("langgraph", script, checkpointer=saver) as one:  # as after a restart, and in every other gateway
        for name in ("chat 1", config["configurable"]["thread_id"]):
            await ended(one.runner.run(replace(ask("What was it?", thread_id=name), owner="you")))
        await ended(one.runner.run(ask("What was it?", thread_id="chat 1")))
        sent = [[m["content"] for m in r["messages"] if m["role"] != "system"] for r in one.policy.requests]
    assert sent[:2] == [["What was it?"]] * 2
    assert sent[2] == ["A secret.", "Answer to A secret.", "What was it?"]


async def test_without_keys_an_apps_own_threads_go_on_under_their_names() -> None:
    saver = InMemorySaver()
    with shop_of("langgraph", ["Done."], checkpointer=saver) as one:
        await ended(one.runner.run(replace(ask("First.", thread_id="a"), owner="")))
    config: Any = {"configurable": {"thread_id": "a"}}
    assert saver.get_tuple(config) is not None


async def test_two_callers_may_choose_the_same_name(face: str) -> None:
    with shop_of(face, lambda request: f"Answer to {request['messages'][-1]['content']}") as one:
        mine = one.runner.run(ask("Mine.", thread_id="chat"))
        await ended(one.runner.run(replace(ask("Yours.", thread_id="chat"), owner="you")))  # mine is under way
        await ended(mine)
        sent = [[m["content"] for m in r["messages"] if m["role"] != "system"] for r in one.policy.requests]
    assert sent == [["Yours."], ["Mine."]]


async def test_an_app_keeps_its_conversations_in_a_checkpointer_of_its_own() -> None:
    saver, held = InMemorySaver(), Held()

    def script(request: Any) -> Any:
        said = [m["content"] for m in request["messages"] if m["role"] == "user"]
        return EXPERT if said[-1] == "Slow." else DELETE_TWO if said[-1] == "Clean up." else "Done."

    with shop_of("langgraph", script, held, checkpointer=saver) as one:

        async def cancelled(thread: str) -> None:
            held.asked.clear()
            stream = one.runner.run(ask("Slow.", thread_id=thread))
            reading = asyncio.create_task(events_of(stream))
            await held.begun()
            reading.cancel()
            await asyncio.wait([reading])

        await cancelled("a")
        config: Any = {"configurable": {"thread_id": checkpoint_thread("me", "shop", "a")}}
        assert saver.get_tuple(config) is None
        await ended(one.runner.run(ask("First.", thread_id="a")))
        await cancelled("a")
        await ended(one.runner.run(ask("Second.", thread_id="a")))
        said = [m["content"] for m in one.policy.requests[-1]["messages"] if m["role"] != "system"]
        assert said == ["First.", "Done.", "Second."]
        waiting = await ended(one.runner.run(ask(thread_id="a")))
        decisions = {item["call_id"]: True for item in waiting["confirmations"]}
        end = await ended(one.runner.run(ask(thread_id="a", decisions=decisions)))
        assert end["status"] == "interrupted"  # the script asks again
        assert sorted(one.shop.done) == ["delete 1", "delete 2", "look 1"]
        held.let_go.set()


async def test_a_run_that_fails_after_the_yes_is_not_asked_to_do_it_twice(face: str) -> None:
    def script(request: Any) -> Any:
        if any(m["role"] == "tool" for m in request["messages"]):
            return Reply("out of order", status=400)
        return DELETE_TWO if request["messages"][-1]["content"] == "Clean up." else "Done."

    with shop_of(face, script) as one:
        waiting = await ended(one.runner.run(ask()))
        decisions = {item["call_id"]: True for item in waiting["confirmations"]}
        again = ask(thread_id=waiting["thread_id"], decisions=decisions)
        assert (await ended(one.runner.run(again)))["status"] == "error"
        with pytest.raises(ConflictError, match="waits for no decision"):
            one.runner.run(again)
        assert (await ended(one.runner.run(ask("Hm.", thread_id=waiting["thread_id"]))))["status"] == "answered"
        said = [m["content"] for m in one.policy.requests[-1]["messages"] if m["role"] != "system"]
    assert said == ["Hm."]
    assert sorted(one.shop.done) == ["delete 1", "delete 2", "look 1"]


async def test_a_run_that_is_never_begun_leaves_nothing_behind(face: str) -> None:
    with shop_of(face, ["Done."]) as one:
        stream = one.runner.run(ask())
        with pytest.raises(ConflictError, match="under way"):
            one.runner.run(ask(thread_id=stream.thread_id))
        await stream.aclose()
        assert (await ended(one.runner.run(ask(thread_id=stream.thread_id))))["status"] == "answered"
    assert len(one.policy.requests) == 1


async def test_conversations_run_side_by_side(face: str) -> None:
    held = Held()

    def script(request: Any) -> Any:
        slow = any(m["content"] == "Slow." for m in request["messages"])
        return EXPERT if slow and request["messages"][-1]["role"] == "user" else "Done."

    with shop_of(face, script, held) as one:
        slow = asyncio.create_task(ended(one.runner.run(ask("Slow."))))
        await held.begun()
        quick = await ended(one.runner.run(ask("Quick.")))
        assert quick["answer"] == "Done."
        assert not slow.done()
        held.let_go.set()
        assert (await slow)["ledger"]["calls"] == {"expert": 1}


async def test_the_budget_ends_a_run_and_a_policy_that_is_down_too(face: str) -> None:
    with shop_of(face, [Reply(calls=[("look", {"number": 1})])]) as one:
        end = await ended(one.runner.run(ask(budget=Budget(dollars=0.001))))
        assert end["status"] == "budget"
    with shop_of(face, [Reply("no tool choice for you", status=400)]) as one:
        end = await ended(one.runner.run(ask()))
    assert end["status"] == "error"
    assert end["error"]["code"] == "no_function_calling"
    assert end["error"]["status"] == 502


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": []}, "end with a message of the user"),
        ({"messages": [{"role": "user", "content": "  "}]}, "empty"),
        ({"messages": [{"role": "assistant", "content": "Hm."}]}, "end with a message of the user"),
        ({"changes": CatalogFilter(allow=frozenset({"fly"}))}, "'fly'"),
        (
            {"changes": CatalogFilter(prices={"expert": Price(input=1.0)})},
            r"changes\.prices\.expert is below what .* charges",
        ),
        ({"preferences": Preferences(tools={"fly": 1.0})}, "'fly'"),
        ({"preferences": Preferences(instruction="half \ud800")}, "preferences holds"),
        ({"changes": CatalogFilter(shortlist=10**40)}, "changes holds"),
        ({"thread_id": "x" * 500}, "at most 200"),
        ({"thread_id": "a\nb"}, "printable"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(face: str, fields: dict[str, Any], words: str) -> None:
    with shop_of(face, ["Done."]) as one:
        request = ask()
        given = {"messages": request.messages, "owner": "me", **fields}
        with pytest.raises(GatewayError, match=words):
            one.runner.run(type(request)(**given))
        assert one.policy.requests == []


async def test_conversations_are_bounded_and_those_that_wait_are_let_go_last(face: str) -> None:
    threads = Threads(most=3)
    script = lambda request: DELETE_TWO if request["messages"][-1]["content"] == "Clean up." else "Done."  # noqa: E731
    with shop_of(face, script, threads=threads) as one:
        waiting = await ended(one.runner.run(ask()))
        for number in range(5):
            await ended(one.runner.run(ask(f"Question {number}.")))
        assert len(threads) == 3
        decisions = {item["call_id"]: False for item in waiting["confirmations"]}
        await ended(one.runner.run(ask(thread_id=waiting["thread_id"], decisions=decisions)))


async def test_a_slow_reader_makes_its_run_wait_and_no_other(face: str) -> None:
    with shop_of(face, [Reply(calls=[("look", {"number": n}) for n in range(40)]), "Done."]) as one:
        slow = one.runner.run(ask("Slow."))
        await anext(slow)
        end = await ended(one.runner.run(ask("Quick.")))
        assert end["answer"] == "Done."
        assert slow._queue.qsize() <= 64
        assert (await ended(slow))["answer"] == "Done."


def test_a_client_may_narrow_what_the_orchestrator_allows_and_not_widen_it(face: str) -> None:
    narrow = RunOptions(budget=Budget(turns=5, dollars=1.0), catalog=CatalogFilter(deny=frozenset({"expert"})))
    with shop_of(face, ["Done."]) as one:
        one.runner.options = narrow
        request = replace(
            ask(), budget=Budget(turns=9, seconds=4), changes=CatalogFilter(deny=frozenset(), aliases={"look": "find"})
        )
        context = one.runner.context(request)
    assert context["budget"] == Budget(turns=5, dollars=1.0, seconds=4)
    assert context["catalog"] == CatalogFilter(deny=frozenset({"expert"}), aliases={"look": "find"})
