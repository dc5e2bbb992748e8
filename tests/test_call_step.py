"""A call as both faces make it: its attempts and the words for its failures, without either framework."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from toolorch_integrations import Budget, Catalog, Tool
from toolorch_integrations.budget import Account
from toolorch_integrations.call_step import CallStep, Execute, Result
from toolorch_integrations.entry import AnyEntry
from toolorch_integrations.errors import GivenUpError
from toolorch_integrations.ledger import Call, CallStatus
from toolorch_integrations.run import Run
from toolorch_integrations.run_options import RunOptions
from toolorch_integrations.steps import drive

PARAMETERS = {"type": "object", "properties": {"n": {"type": "integer", "exclusiveMinimum": 0}}}


class Step(CallStep[Result, str]):
    """The plainest face: it gives back what was read."""

    def upper_bound(self, entry: AnyEntry) -> float:
        return 0.0

    def request(self, entry: AnyEntry, timeout: float) -> Any:
        return entry.name, timeout

    def read(self, entry: AnyEntry, raw: Result) -> Result:
        return raw

    def finish(self, result: Result, raw: Result | None, calls: Sequence[Call]) -> str:
        return result.text or ""


def step(run: Run, **arguments: Any) -> Step:
    return Step(run, "call-1", "look", arguments, lambda event: None, None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "given"),
    [(65, [20, 20, 20, 5]), (20, [20]), (15, [15]), (None, [20] * 5)],
)
def test_all_attempts_together_keep_the_deadline(clock: list[float], seconds: float | None, given: list[float]):
    budget = Budget(seconds=seconds)
    account = Account(budget, started=clock[0])
    run = Run(Catalog([Tool(name="look", retries=4, timeout=20)]), RunOptions(budget=budget), account=account)
    seen: list[float] = []

    def hang(wanted: Execute) -> Result:
        seen.append(wanted.timeout)
        assert wanted.request == ("look", wanted.timeout)
        clock[0] += wanted.timeout
        raise GivenUpError("too late")

    text = drive(step(run).steps(), hang)
    assert seen == given
    assert text == f"Error: look did not answer within {given[-1]:g} s. Try another tool."
    assert [(call.status, call.attempts) for call in run.account.ledger] == [(CallStatus.TIMEOUT, len(given))]


@pytest.mark.parametrize(
    ("arguments", "own_words", "reason"),
    [
        ({"n": 0}, "n: Input should be greater than 0", "n: 0 is less than or equal to the minimum of 0"),
        ({"n": 3}, "n: Value error, must be even", "n: Value error, must be even"),
        ({"n": 3}, "", "the arguments do not fit"),
    ],
)
def test_the_policy_is_told_why_arguments_do_not_fit(arguments: dict[str, Any], own_words: str, reason: str):
    run = Run(Catalog([Tool(name="look", parameters=PARAMETERS)]), RunOptions())
    text = drive(step(run, **arguments).steps(), lambda wanted: Result(own_words, CallStatus.MALFORMED))
    assert text == f"Error: the call of look is not valid: {reason}. Correct the arguments."
