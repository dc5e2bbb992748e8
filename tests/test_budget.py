from __future__ import annotations

import threading
import time

import pytest
from pydantic import ValidationError

from toolorch_integrations.budget import DEFAULT_TURNS, Account, Budget, Limit
from toolorch_integrations.ledger import Call, CallKind, Ledger

POLICY, SPECIALIST, TOOL = CallKind.POLICY, CallKind.SPECIALIST, CallKind.TOOL


def call(call_id: str, dollars: float = 0.0, kind: CallKind = TOOL, turn: int = 1) -> Call:
    return Call(kind, "a", dollars=dollars, call_id=call_id, turn=turn)


def test_the_sentence_names_only_what_was_set():
    assert Budget().sentence() == ""
    assert Budget(turns=None).sentence() == ""
    assert Budget(turns=5, dollars=0.05, seconds=90).sentence() == "Budget: 5 turns, $0.05, 90 seconds."


@pytest.mark.parametrize("limits", [{"turns": -1}, {"dollars": -0.1}, {"seconds": -1}, {"dolars": 1}])
def test_a_limit_is_not_negative_and_has_a_known_name(limits: dict[str, float]):
    with pytest.raises(ValidationError):
        Budget.model_validate(limits)


def test_of_two_budgets_the_stricter_holds_for_those_who_may_only_narrow():
    own = Budget(turns=5, dollars=1.0)
    assert Budget(turns=9).within(own) == own
    assert Budget(turns=2, dollars=None).within(own) == Budget(turns=2, dollars=1.0)
    assert Budget(turns=99, seconds=4).within(Budget()) == Budget(turns=99, seconds=4)
    assert Budget(turns=9).within(Budget(turns=None)) == Budget(turns=9)
    assert Budget(seconds=4).within(own).within(Budget(seconds=3)) == Budget(turns=5, dollars=1.0, seconds=3)


def test_a_limit_that_is_not_named_is_inherited_and_one_that_is_may_be_wider():
    own = Budget(turns=5, dollars=1.0, seconds=60)
    assert Budget().over(own) == own
    assert Budget(dollars=None, turns=9).over(own) == Budget(turns=9, dollars=None, seconds=60)


def test_without_a_limit_a_run_ends_all_the_same():
    account = Account(Budget())
    for turn in range(DEFAULT_TURNS):
        assert account.admit("t", 0, POLICY) is None
        account.settle("t", call(f"t{turn}", kind=POLICY, turn=turn))
    assert account.admit("t", 0, POLICY) is Limit.TURNS
    assert Account(Budget(turns=None)).last_turn() is False


@pytest.mark.parametrize(
    ("budget", "limit"),
    [(Budget(turns=0), Limit.TURNS), (Budget(dollars=0), Limit.DOLLARS), (Budget(seconds=0), Limit.SECONDS)],
)
def test_a_budget_of_zero_admits_nothing(budget: Budget, limit: Limit):
    assert Account(budget).admit("t", 0.0, POLICY) is limit


def test_only_policy_calls_are_turns():
    account = Account(Budget(turns=1))
    assert account.last_turn()
    for index in range(5):
        assert account.admit(str(index), 0, TOOL) is None
        account.settle(str(index), call(str(index)))
    assert account.admit("t", 0, POLICY) is None
    account.settle("t", call("t", kind=POLICY))
    assert account.admit("t2", 0, POLICY) is Limit.TURNS
    assert account.admit("x", 0, TOOL) is None


def test_money_of_calls_in_flight_counts():
    account = Account(Budget(dollars=1.0))
    assert account.admit("a", 0.6, SPECIALIST) is None
    assert account.admit("b", 0.6, SPECIALIST) is None
    assert account.admit("c", 0.0, TOOL) is Limit.DOLLARS
    account.settle("a", call("a", 0.1))
    assert account.admit("c", 0.6, SPECIALIST) is None


def test_a_call_that_was_not_made_frees_its_money():
    account = Account(Budget(dollars=1.0))
    account.admit("a", 1.0, SPECIALIST)
    assert account.admit("b", 0.1, TOOL) is Limit.DOLLARS
    account.settle("a")
    assert account.admit("b", 0.1, TOOL) is None
    assert account.ledger.dollars == 0


def test_a_replayed_call_is_recorded_once():
    account = Account(Budget())
    for _ in range(3):
        account.settle("a", call("a", 0.5))
    assert account.ledger.dollars == 0.5
    again = Account(Budget(), Ledger([call("a", 0.5)]))
    again.settle("a", call("a", 0.5))
    again.catch_up([call("a", 0.5), call("b", 0.25)])
    again.catch_up([call("b", 0.25)])
    assert again.ledger.dollars == 0.75


def test_servers_that_number_calls_by_turn_are_charged_for_each():
    account = Account(Budget(dollars=1.0))
    for turn in (1, 2, 3):
        account.settle("call_0", call("call_0", 0.4, turn=turn))
    assert account.ledger.dollars == pytest.approx(1.2)


def test_the_deadline_stands_still_while_a_person_thinks():
    account = Account(Budget(seconds=100), started=time.time() - 150)
    assert account.seconds_left() == 0
    assert account.admit("a", 0, TOOL) is Limit.SECONDS
    account.paused = 120
    assert account.seconds_left() == pytest.approx(70, abs=5)
    assert account.admit("a", 0, TOOL) is None
    assert Account(Budget()).seconds_left() is None


def test_waiting_calls_stop_the_clock_once(monkeypatch: pytest.MonkeyPatch):
    clock = [1000.0]
    monkeypatch.setattr("toolorch_integrations.budget.time.time", lambda: clock[0])
    account = Account(Budget(seconds=100, dollars=1), started=clock[0])
    account.admit("a", 1.0, TOOL)
    account.wait("a")
    clock[0] += 10
    account.wait("b")
    clock[0] += 50
    account.resume("a")
    account.resume("b")
    account.resume("never waited")
    assert account.paused == 60
    assert account.seconds_left() == 100
    assert account.admit("c", 0, TOOL) is None  # the money that "a" had reserved is free


def test_threads_do_not_get_past_the_limit_together():
    account = Account(Budget(dollars=1.0))
    start = threading.Barrier(16)
    admitted: list[int] = []

    def spend(index: int) -> None:
        start.wait()
        if account.admit(str(index), 0.3, SPECIALIST) is None:
            admitted.append(index)

    threads = [threading.Thread(target=spend, args=(index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 4  # the fourth starts at 0.9, the fifth would at 1.2
