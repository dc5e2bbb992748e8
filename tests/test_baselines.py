"""Baselines: fixed rules for who works, tried on requests whose answers are known."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from toolorch_integrations import Price, Specialist
from toolorch_integrations.errors import EndpointError
from toolorch_rl.evaluation import (
    AlwaysStrongest,
    Arm,
    Attempt,
    Cascade,
    EvaluationError,
    Oracle,
    RandomChoice,
    Trials,
    agreeing,
    answered,
    chosen_baselines,
    front,
    headroom,
    named,
    share_of,
)
from toolorch_rl.rewards import RunFeatures

SMALL, MIDDLE, LARGE = (
    Specialist(name=name, price=Price(input=price, output=price))
    for name, price in (("small", 1), ("middle", 4), ("large", 20))
)
ROSTER = [LARGE, SMALL, MIDDLE]
ABLE = {"small": 3, "middle": 6, "large": 9}
"""Up to which number each can say what it is; beyond, small says that it does not know, and the others guess."""


def ask(who: Specialist, request: int) -> tuple[str, float, float]:
    guess = "I do not know." if who is SMALL else "It is 0."
    text = f"It is {request}." if request <= ABLE[who.name] else guess
    return text, who.price.dollars(1000, 0), 1.0


def solved(request: int, answer: Any) -> bool:
    return f"{request}" in answer


def test_each_baseline_is_what_it_says() -> None:
    arms = {arm.name: arm for arm in Trials(range(1, 11), ROSTER, solved).run(ask)}
    assert list(arms) == ["always-strongest", "always-cheapest", "random", "cascade", "oracle"]
    assert {name: arm.solved.value for name, arm in arms.items() if name != "random"} == {
        "always-strongest": 0.9, "always-cheapest": 0.3, "cascade": 0.6, "oracle": 0.9,
    }  # fmt: skip
    dollars = {name: arm.dollars.value for name, arm in arms.items()}
    assert dollars["always-strongest"] == pytest.approx(0.02)
    assert dollars["always-cheapest"] == pytest.approx(0.001)
    # Three by small alone, seven by small and then middle, whose guesses look like answers.
    assert dollars["cascade"] == pytest.approx((3 * 0.001 + 7 * 0.005) / 10)
    # Three by each; the tenth, which nobody solves, by the cheapest.
    assert dollars["oracle"] == pytest.approx((3 * 0.025 + 0.001) / 10)
    assert headroom(list(arms.values())) == pytest.approx(0.0076 / 0.02)
    assert arms["oracle"].runs[4] == RunFeatures("5", {"middle": 1}, True, 0.004, 1.0)
    assert arms["cascade"].runs[4].calls == {"small": 1, "middle": 1}


def test_nobody_is_asked_twice_and_threads_and_loops_give_the_same() -> None:
    asked: list[tuple[str, int]] = []

    def counting(who: Specialist, request: int) -> tuple[str, float, float]:
        asked.append((who.name, request))
        return ask(who, request)

    async def later(who: Specialist, request: int) -> tuple[str, float, float]:
        await asyncio.sleep(0)
        return ask(who, request)

    trials = Trials(range(1, 11), ROSTER, solved)
    once = trials.run(counting)
    assert len(asked) == len(set(asked)) == 30
    assert trials.run(ask, workers=4) == once
    assert asyncio.run(trials.arun(later, concurrency=3)) == once


def test_chance_is_the_same_each_time_for_a_seed() -> None:
    def run(seed: int) -> list[Arm]:
        return Trials(range(60), ROSTER, solved, [RandomChoice(seed)]).run(ask)

    assert run(1) == run(1)
    assert run(1) != run(2)
    calls = [next(iter(run.calls)) for run in run(1)[0].runs]
    assert all(calls.count(name) > 8 for name in ABLE)


def test_only_the_oracle_sees_what_is_right() -> None:
    seen: list[bool | None] = []

    def accept(tried: Any) -> bool:
        seen.extend(item.solved for item in tried)
        return False

    arms = Trials([1, 2], ROSTER, solved, [Cascade(accept), Oracle()]).run(ask)
    assert set(seen) == {None}
    assert [arm.dollars.value for arm in arms] == [pytest.approx(0.025), pytest.approx(0.001)]


def test_a_cascade_may_go_by_agreement() -> None:
    trials = Trials([2, 5, 8], ROSTER, solved, [Cascade(agreeing(str.__eq__))])
    (arm,) = trials.run(ask)
    assert [run.calls for run in arm.runs] == [
        {"small": 1, "middle": 1}, {"small": 1, "middle": 1, "large": 1}, {"small": 1, "middle": 1, "large": 1},
    ]  # fmt: skip
    assert all(run.solved for run in arm.runs)


@pytest.mark.parametrize(
    ("answer", "is_one"),
    [
        ("It is 4.", True), ("", False), ("  ", False), (None, False), ("I do not know.", False),
        ("Sorry, I don't know that.", False), ("I cannot answer this.", False), ("I know: 4.", True), (4, True),
        ("No idea.", False), ("Do not panic. It is 4.", True),
    ],
)  # fmt: skip
def test_answers_are_told_from_words_for_not_knowing(answer: Any, is_one: bool) -> None:
    assert answered([Attempt("a", answer, 0, 0)]) is is_one


def test_an_endpoint_that_fails_is_an_attempt_without_an_answer() -> None:
    def failing(who: Specialist, request: int) -> tuple[str, float, float]:
        if who is SMALL:
            raise EndpointError("small is down")
        return ask(who, request)

    arms = {arm.name: arm for arm in Trials([1, 2], ROSTER, solved).run(failing)}
    assert arms["always-cheapest"].solved.value == 0
    assert arms["always-cheapest"].dollars.value == 0
    assert arms["cascade"].solved.value == 1
    assert arms["oracle"].runs[0].calls == {"middle": 1}
    with pytest.raises(ZeroDivisionError):  # the asker's own mistake is not hidden
        Trials([1], ROSTER, solved).run(lambda who, request: (1 / 0, 0.0, 0.0))


def test_catalogues_may_differ_by_request_and_strength_may_be_named() -> None:
    def roster(request: int) -> list[Specialist]:
        return [SMALL, MIDDLE] if request < 5 else [MIDDLE, LARGE]

    arms = Trials([4, 9], roster, solved, [AlwaysStrongest(), AlwaysStrongest("middle", "middle")]).run(ask)
    assert [run.calls for run in arms[0].runs] == [{"middle": 1}, {"large": 1}]
    assert [run.calls for run in arms[1].runs] == [{"middle": 1}, {"middle": 1}]
    with pytest.raises(EvaluationError, match="request '7' has no specialists"):
        Trials([7], [], solved).run(ask)

    async def later(who: Specialist, request: int) -> tuple[str, float, float]:
        return ask(who, request)

    with pytest.raises(EvaluationError, match="request '7' has no specialists"):
        asyncio.run(Trials([4, 7], lambda n: [SMALL] if n < 5 else [], solved).arun(later))
    with pytest.raises(EvaluationError, match=r"no baseline 'best'; choose among always-strongest"):
        chosen_baselines(["oracle", "best"])
    assert [item.name for item in chosen_baselines(["oracle", "random", "oracle"])] == ["oracle", "random"]


def test_the_front_holds_what_nothing_dominates() -> None:
    def arm(name: str, right: int, dollars: float | None) -> Arm:
        return Arm(name, tuple(RunFeatures(str(n), {}, n < right, dollars, None) for n in range(10)))

    arms = [arm("dear", 9, 9.0), arm("good", 9, 3.0), arm("poor", 2, 4.0), arm("cheap", 2, 1.0), arm("free", 10, None)]
    assert [item.name for item in front(arms)] == ["cheap", "good"]
    assert share_of(arms[1], arms[0]) == pytest.approx(1 / 3)
    assert share_of(arms[4], arms[0]) is None
    with pytest.raises(EvaluationError, match="no arm 'oracle' among dear"):
        named(arms, "oracle")
