from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from toolorch_integrations import (
    Budget,
    Catalog,
    CatalogFilter,
    Endpoint,
    GivenUpError,
    Preferences,
    Price,
    Specialist,
    Tool,
    UnknownEntryError,
)
from toolorch_integrations.budget import Account, Limit
from toolorch_integrations.ledger import Call, CallKind, CallStatus, Ledger
from toolorch_integrations.reply import problem_of
from toolorch_integrations.run import MAX_FAILED_TURNS, Admission, Next, Rejection, Run, Runs, Turn
from toolorch_integrations.run_options import RunOptions
from toolorch_integrations.specialist import SpecialistReply
from toolorch_integrations.steps import Steps, adrive, awithin, drive, within


def expert(name: str, **fields: Any) -> Specialist:
    endpoint = Endpoint(url="http://127.0.0.1:1/v1", model=name, max_tokens=fields.pop("max_tokens", 1000))
    return Specialist(name=name, endpoint=endpoint, **{"price": Price(input=1, output=10), **fields})


CATALOG = Catalog(
    [
        Tool(name="search", price=Price(call=0.01)),
        Tool(name="delete_all", timeout=7),
        expert("coder", fallback="general"),
        expert("general", price=Price(input=100, output=1000)),
    ]
)
CONVERSATION = [{"role": "user", "content": "What is 2 + 2?"}]


def run(budget: Budget | None = None, **fields: Any) -> Run:
    changes = fields.pop("changes", CatalogFilter())
    return Run(CATALOG, RunOptions(budget=budget or Budget(), catalog=changes), **fields)


def no_results() -> list[tuple[str, str]]:
    return []


def ask(one: Run, failed_turns: int = 0) -> Turn:
    return one.next_turn(final_reply=None, failed_turns=failed_turns, results=no_results)


def took(one: Run, dollars: float = 0.0) -> Turn:
    """Make a policy call of that price, if the run allows one."""
    turn = ask(one)
    if turn.next is Next.ASK:
        one.record_turn(turn, Call(CallKind.POLICY, "policy", dollars=dollars))
    return turn


def admit(one: Run, call_id: str, name: str, arguments: Any = None) -> Admission | Rejection:
    return one.admit(call_id, name, {} if arguments is None else arguments, lambda e: one.upper_bound(e, CONVERSATION))


# --- turns ---


def test_the_last_turn_is_announced_and_then_the_run_ends():
    one = run(Budget(turns=3))
    turns = [took(one) for _ in range(4)]
    assert [turn.next for turn in turns] == [Next.ASK, Next.ASK, Next.ASK, Next.BUDGET]
    assert [turn.last for turn in turns[:3]] == [False, False, True]
    assert [turn.number for turn in turns] == [1, 2, 3, 4]
    assert turns[3].limit is Limit.TURNS


@pytest.mark.parametrize(
    ("budget", "limit"),
    [(Budget(turns=0), Limit.TURNS), (Budget(dollars=0), Limit.DOLLARS), (Budget(seconds=0), Limit.SECONDS)],
)
def test_a_budget_of_zero_ends_a_run_before_it_begins(budget: Budget, limit: Limit):
    turn = ask(run(budget))
    assert (turn.next, turn.limit) == (Next.BUDGET, limit)
    assert turn.text == f"The budget of {limit.value} ended before the work was done. There is no result yet."


def test_a_framework_that_has_no_room_for_more_turns_ends_a_run_as_its_budget_does():
    one = run(Budget(turns=9))
    turns = [
        one.next_turn(final_reply=None, failed_turns=0, results=no_results, turns_left=left) for left in (2, 1, 0, None)
    ]
    assert [(turn.next, turn.last) for turn in turns] == [
        (Next.ASK, False),
        (Next.ASK, True),
        (Next.BUDGET, False),
        (Next.ASK, False),
    ]
    assert turns[2].limit is Limit.TURNS


def test_the_answer_at_the_end_holds_what_there_is_but_no_errors():
    results = [("search", "Two tents."), ("coder", "Error: coder failed."), ("add", "4")]
    turn = run(Budget(turns=0)).next_turn(final_reply=None, failed_turns=0, results=lambda: results)
    assert turn.text == "The budget of turns ended before the work was done. So far:\nsearch: Two tents.\nadd: 4"


def test_a_final_reply_ends_the_run_whatever_is_left():
    turn = run(Budget(turns=0)).next_turn(final_reply="Four.", failed_turns=9, results=no_results)
    assert (turn.next, turn.text) == (Next.ANSWER, "Four.")


def test_a_policy_that_gets_nowhere_is_replaced():
    one = run()
    assert [ask(one, failed).next for failed in range(MAX_FAILED_TURNS + 1)] == [Next.ASK] * 3 + [Next.FALLBACK]
    alone = Run(Catalog([Tool(name="search")]), RunOptions())
    assert ask(alone, 99).next is Next.ASK
    assert alone.fallback is None


def test_the_fallback_is_the_named_one_unless_the_request_hides_it():
    assert run().fallback == CATALOG["coder"]
    assert run(fallback="general").fallback == CATALOG["general"]
    hidden = CatalogFilter(deny=frozenset({"general"}))
    assert run(fallback="general", changes=hidden).fallback == CATALOG["coder"]
    assert run(changes=CatalogFilter(allow=frozenset({"search"}))).fallback is None


def test_after_a_failure_a_specialist_answers_only_within_the_budget():
    assert run().after_failure(no_results) == Turn(Next.FALLBACK, 0)
    ended = run(Budget(dollars=0)).after_failure(no_results)
    assert ended is not None
    assert (ended.next, ended.limit) == (Next.BUDGET, Limit.DOLLARS)
    assert run(Budget(turns=0)).after_failure(no_results) == Turn(Next.FALLBACK, 0)  # it takes no turn
    assert run(changes=CatalogFilter(allow=frozenset({"search"}))).after_failure(no_results) is None


# --- calls ---


def test_what_is_not_there_or_not_shown_becomes_an_observation():
    one = run(changes=CatalogFilter(deny=frozenset({"general"}), aliases={"coder": "expert-1"}))
    for name in ("nobody", "general", "coder", ""):
        rejected = admit(one, f"id-{name}", name)
        assert isinstance(rejected, Rejection)
        assert rejected.call.status is CallStatus.UNKNOWN
        assert rejected.text == (f"Error: there is no tool {name!r}. Choose one of: search, delete_all, expert-1.")
    assert isinstance(admit(one, "c9", "expert-1"), Admission)


@pytest.mark.parametrize("arguments", ["text", 5, [1], [("a", 1)]])
def test_arguments_that_are_no_object_are_malformed(arguments: object):
    rejected = admit(run(), "c1", "search", arguments)
    assert isinstance(rejected, Rejection)
    assert rejected.call.status is CallStatus.MALFORMED
    assert rejected.call.dollars == 0


def test_a_rejected_call_costs_nothing_and_names_the_limit():
    one = run(Budget(dollars=0.005))
    took(one, dollars=0.005)
    rejected = admit(one, "c1", "search")
    assert isinstance(rejected, Rejection)
    assert rejected.text == "Error: search was not called: the budget of dollars is used up. Answer now."
    assert (rejected.call.status, rejected.call.kind) == (CallStatus.BUDGET, CallKind.TOOL)
    assert one.account.ledger.dollars == 0.005


def test_calls_are_charged_at_this_requests_prices():
    one = run(changes=CatalogFilter(prices={"search": Price(call=0.5), "coder": Price(input=1000)}))
    admit(one, "c1", "search")
    assert one.record_calls("c1", [Call(CallKind.TOOL, "search")])[0].dollars == 0.5
    admit(one, "c2", "coder")
    paid = Call(CallKind.SPECIALIST, "coder", input_tokens=1000, output_tokens=99, dollars=123)
    assert one.record_calls("c2", [paid])[0].dollars == 1.0


def test_a_specialist_that_gave_no_answer_is_not_paid_but_its_fallback_is():
    one = run()
    failed = Call(CallKind.SPECIALIST, "coder", CallStatus.ERROR)
    answered = Call(CallKind.SPECIALIST, "general", input_tokens=1000)
    calls = one.record_calls("c1", [failed, answered])
    assert [call.dollars for call in calls] == [0.0, 0.1]
    assert [call.call_id for call in calls] == ["c1:0", "c1"]
    assert {call.run_id for call in calls} == {one.id}


def test_timeouts_come_from_the_entry_the_endpoint_or_the_run_and_end_with_the_deadline():
    def timeout(one: Run, name: str) -> float:
        admitted = admit(one, f"c-{name}", name)
        assert isinstance(admitted, Admission)
        return admitted.timeout

    assert timeout(run(tool_timeout=11), "search") == 11
    assert timeout(run(tool_timeout=11), "delete_all") == 7
    assert timeout(run(tool_timeout=11), "coder") == 120 * 3
    assert timeout(run(Budget(seconds=5)), "coder") <= 5


def test_a_bound_covers_the_text_the_answer_and_the_dearest_fallback():
    one = run()
    assert one.upper_bound(CATALOG["search"], CONVERSATION) == 0.01
    general = one.upper_bound(CATALOG["general"], CONVERSATION)
    assert general >= (100 * len("What is 2 + 2?") + 1000 * 1000) / 1e6
    assert one.upper_bound(CATALOG["coder"], CONVERSATION) == general
    hidden = run(changes=CatalogFilter(deny=frozenset({"general"})))
    assert hidden.upper_bound(CATALOG["coder"], CONVERSATION) < 0.02
    dear = run(changes=CatalogFilter(prices={"coder": Price(call=9)}, deny=frozenset({"general"})))
    assert dear.upper_bound(dear.view.resolve("coder"), CONVERSATION) == 9


def test_fallbacks_in_a_circle_end():
    catalog = Catalog([expert("a", fallback="b"), expert("b", fallback="a")])
    one = Run(catalog, RunOptions())
    assert one.upper_bound(catalog["a"], CONVERSATION) == one.upper_bound(catalog["b"], CONVERSATION)


def test_a_refused_call_is_in_the_ledger():
    one = run()
    call = one.record_refusal("c1", "delete_all")
    assert (call.status, call.dollars) == (CallStatus.REFUSED, 0)
    assert one.account.ledger.calls == [call]


def test_confirmation_follows_the_catalogue_through_an_alias():
    one = run(changes=CatalogFilter(aliases={"delete_all": "tool-1", "search": "delete_some"}))
    assert one.needs_confirmation("tool-1")
    assert not one.needs_confirmation("delete_some")
    assert not one.needs_confirmation("nobody")


# --- the promise: never past a dollar limit by more than one call ---

COSTS = st.floats(0, 1, allow_nan=False).map(lambda share: round(share, 3))
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.sampled_from(["search", "coder", "general"])),
        st.tuples(st.just("end"), st.integers(0, 20), COSTS, st.booleans()),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("turn"), COSTS),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 30, allow_nan=False), ACTIONS)
def test_however_calls_interleave_a_limit_is_passed_by_at_most_one_call(
    limit: float, actions: Sequence[tuple[Any, ...]]
):
    """Calls end in any order, cost anything up to their bound, fail, fall back and are cancelled."""
    one = run(Budget(turns=None, dollars=limit))
    account = one.account
    in_flight: list[tuple[str, str, float]] = []
    dearest = 0.0

    def end(place: int, share: float, fell_back: bool) -> None:
        call_id, name, bound = in_flight.pop(place)
        kind = CallKind.TOOL if name == "search" else CallKind.SPECIALIST
        answering = "general" if name == "coder" and fell_back else name
        price = one.view.resolve(answering).price
        output = int(share * (bound - price.call) * 1e6 / price.output) if price.output else 0
        calls = [Call(kind, answering, output_tokens=output)]
        if answering != name:
            calls.insert(0, Call(kind, name, CallStatus.ERROR))
        recorded = one.record_calls(call_id, calls)
        assert sum(call.dollars for call in recorded) <= bound + 1e-9

    for number, action in enumerate(actions):
        if action[0] == "start":
            bound = one.upper_bound(one.view.resolve(action[1]), CONVERSATION)
            before = account.ledger.dollars + sum(flying[2] for flying in in_flight)
            admitted = admit(one, f"c{number}", action[1])
            assert isinstance(admitted, Admission) == (before < limit)
            if isinstance(admitted, Admission):
                in_flight.append((f"c{number}", action[1], bound))
                dearest = max(dearest, bound)
        elif action[0] == "end" and in_flight:
            end(action[1] % len(in_flight), action[2], action[3])
        elif action[0] == "cancel" and in_flight:
            account.settle(in_flight.pop(action[1] % len(in_flight))[0])
        elif action[0] == "turn" and not in_flight and took(one, action[1]).next is Next.ASK:
            dearest = max(dearest, action[1])
        assert account.ledger.dollars <= limit + dearest + 1e-9
    while in_flight:
        end(0, 1.0, True)
    assert account.ledger.dollars <= limit + dearest + 1e-9
    if account.ledger.dollars >= limit:
        assert ask(one).next is Next.BUDGET


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 8), st.lists(st.integers(0, 3), max_size=12))
def test_turns_are_never_more_than_allowed(limit: int, calls: list[int]):
    one = run(Budget(turns=limit))
    for number, tools in enumerate(calls):
        took(one)
        for index in range(tools):
            call_id = f"{number}-{index}"
            admit(one, call_id, "search")
            one.record_calls(call_id, [Call(CallKind.TOOL, "search")])
    assert one.account.ledger.turns == min(limit, len(calls))


# --- options ---


def test_a_context_overrides_what_it_names_and_nothing_else():
    own = RunOptions(preferences=Preferences(cost=0.5), budget=Budget(turns=3))
    assert own.with_context(None) is own
    assert own.with_context({"user": "Ada"}) is own
    changed = own.with_context({"budget": {"dollars": 0.1}, "user": "Ada"})
    assert changed.budget == Budget(turns=3, dollars=0.1)
    assert changed.preferences == Preferences(cost=0.5)

    class Context:
        preferences = Preferences(latency=1.0)

    assert own.with_context(Context()).preferences == Preferences(latency=1.0)
    with pytest.raises(ValidationError, match=r"budget\.dollars"):
        own.with_context({"budget": {"dollars": "many"}})


@pytest.mark.parametrize("as_class", [False, True])
def test_asking_for_less_money_takes_no_other_limit_away(as_class: bool):
    own = RunOptions(budget=Budget(dollars=0.05, turns=12, seconds=60), catalog=CatalogFilter(deny=frozenset({"b"})))
    given: dict[str, Any] = {"budget": {"dollars": 0.01}, "catalog": {"aliases": {"coder": "model-1"}}}
    if as_class:
        given = {"budget": Budget(**given["budget"]), "catalog": CatalogFilter(**given["catalog"])}
    options = own.with_context(given)
    assert options.budget == Budget(dollars=0.01, turns=12, seconds=60)
    assert options.catalog == CatalogFilter(deny=frozenset({"b"}), aliases={"coder": "model-1"})
    assert options.with_context({"budget": {"turns": None}}).budget == Budget(dollars=0.01, turns=None, seconds=60)


def test_options_survive_json():
    options = RunOptions(
        preferences=Preferences(tools={"coder": 0.5}),
        budget=Budget(seconds=9),
        catalog=CatalogFilter(allow=frozenset({"coder"}), prices={"coder": Price(call=1)}),
    )
    assert RunOptions.model_validate_json(options.model_dump_json()) == options


def test_options_that_do_not_fit_the_catalogue_are_refused():
    with pytest.raises(UnknownEntryError, match="deny names 'nobody'"):
        run(changes=CatalogFilter(deny=frozenset({"nobody"})))


def test_a_run_is_rebuilt_from_its_ledger():
    ledger = Ledger([Call(CallKind.POLICY, "policy", dollars=0.9, call_id="t1", turn=1)])
    one = run(run_id="r", account=Account(Budget(turns=2, dollars=1.0), ledger))
    assert ask(one) == Turn(Next.ASK, 2, last=True)
    assert one.id == "r"


def test_the_runs_that_were_not_used_for_longest_are_let_go():
    runs = Runs(limit=2)
    first, second = (runs.get(name, lambda name=name: run(run_id=name)) for name in "ab")
    assert runs.get("a", run) is first
    third = runs.get("c", lambda: run(run_id="c"))
    assert runs.get("a", run) is first
    assert runs.get("c", run) is third
    assert runs.get("b", lambda: run(run_id="b")) is not second
    assert len(runs) == 2


def test_a_run_that_has_ended_is_let_go():
    runs = Runs()
    kept = runs.get("a", run)
    runs.end("a")
    runs.end("a")
    assert len(runs) == 0
    assert runs.find("a") is None
    assert runs.get("a", run) is not kept


# --- replies and steps ---


@pytest.mark.parametrize(
    ("text", "calls", "broken", "is_step"),
    [
        ("Four.", 0, 0, True),
        ("", 1, 0, True),
        ("", 1, 1, True),
        ("", 0, 1, False),
        (" \n", 0, 0, False),
        ('<tool_call>{"name": "add", "arguments": {', 0, 0, False),
        ("Sure. </tool_call>", 0, 0, False),
    ],
)
def test_what_a_reply_must_be_to_be_a_step(text: str, calls: int, broken: int, is_step: bool):
    assert (problem_of(text, calls=calls, broken_calls=broken) is None) == is_step


def steps() -> Steps[list[Any]]:
    seen: list[Any] = [(yield 1)]
    try:
        yield 0
    except ZeroDivisionError as error:
        seen.append(type(error))
    seen.append((yield 2))
    return seen


def test_steps_are_driven_alike_with_and_without_a_loop():
    async def perform(wanted: int) -> float:
        await asyncio.sleep(0)
        return 1 / wanted

    assert drive(steps(), lambda wanted: 1 / wanted) == [1.0, ZeroDivisionError, 0.5]
    assert asyncio.run(adrive(steps(), perform)) == [1.0, ZeroDivisionError, 0.5]


def test_a_call_is_given_up_in_time_and_its_own_errors_are_its_own():
    release = threading.Event()

    def fail() -> None:
        raise TimeoutError("of its own")

    assert within(None, lambda: threading.current_thread()) is threading.current_thread()
    assert within(5, lambda: 4) == 4
    with pytest.raises(GivenUpError, match=r"within 0\.05 s"):
        within(0.05, release.wait)
    release.set()
    with pytest.raises(TimeoutError, match="of its own") as raised:
        within(5, fail)
    assert not isinstance(raised.value, GivenUpError)


async def test_an_awaited_call_is_given_up_likewise():
    async def fail() -> None:
        raise TimeoutError("of its own")

    assert await awithin(5, asyncio.sleep(0, 4)) == 4
    assert await awithin(None, asyncio.sleep(0, 4)) == 4
    with pytest.raises(GivenUpError, match=r"within 0\.05 s"):
        await awithin(0.05, asyncio.sleep(60))
    with pytest.raises(TimeoutError, match="of its own") as raised:
        await awithin(5, fail())
    assert not isinstance(raised.value, GivenUpError)


def test_a_reply_nobody_gave_says_so():
    failed = SpecialistReply("nobody", [Call(CallKind.SPECIALIST, "coder", CallStatus.ERROR)])
    assert not failed.ok
    assert failed.artifact(final=True)["final"] is False
