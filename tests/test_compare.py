"""Paired comparison of two evaluations, and the file of results."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from toolorch_rl.evaluation import EvaluationError, TaskResult, compare, read_results, write_results
from toolorch_rl.metrics import ChainScores, RunScores
from toolorch_rl.rewards import RunFeatures


def results(count: int = 60, *, solved: float = 0.5, seed: int = 0, **fields: Any) -> list[TaskResult]:
    draw = random.Random(seed)
    return [
        TaskResult(
            task_id=f"t{number}",
            pattern="single" if number % 3 else "loop",
            domain="shop",
            solved=draw.random() < solved,
            **{"dollars": 0.01 + draw.random() / 100, **fields},
        )
        for number in range(count)
    ]


def test_what_is_better_on_every_task_is_better() -> None:
    before = results()
    after = [item.model_copy(update={"solved": True, "dollars": item.dollars * 0.3}) for item in before]
    found = compare(before, after)
    assert found.paired == 60
    assert found["solved"].change.value == pytest.approx(1 - sum(item.solved for item in before) / 60)
    assert found["solved"].better
    assert found["dollars"].better
    assert found["dollars"].change.high < 0
    back = compare(after, before)
    assert back["solved"].worse
    assert back["dollars"].worse
    assert not back["dollars"].no_worse()
    assert set(found.groups) == {"all", "pattern loop", "pattern single", "domain shop"}
    assert found.groups["pattern loop"]["solved"].change.count == 20


def test_pairing_sees_what_two_intervals_do_not() -> None:
    before = results(200, dollars=None)
    before = [item.model_copy(update={"dollars": number / 10}) for number, item in enumerate(before)]
    after = [
        item.model_copy(update={"dollars": item.dollars + 0.01 + (number % 7) / 100})
        for number, item in enumerate(before)
    ]
    dollars = compare(before, after)["dollars"]
    assert dollars.before.high > dollars.after.low
    assert dollars.worse
    assert dollars.no_worse(0.1)


def test_the_interval_covers_the_difference_as_often_as_it_says() -> None:
    held = 0
    for trial in range(100):
        plain = [
            [TaskResult(task_id=item.task_id, solved=item.solved) for item in results(80, solved=share, seed=seed)]
            for share, seed in ((0.6, trial), (0.7, 1000 + trial))
        ]
        change = compare(*plain)["solved"].change
        held += change.low <= 0.1 <= change.high
    assert 88 <= held <= 99


def test_the_same_results_are_no_worse_and_no_better_and_few_of_them_say_little() -> None:
    same = results(60)
    found = compare(same, same)
    assert found["dollars"].no_worse()
    assert not found["dollars"].better
    assert not found["solved"].better
    assert not found["solved"].worse
    assert found["solved"].change.low < 0 < found["solved"].change.high
    assert not found["solved"].no_worse()
    assert found["solved"].no_worse(0.1)
    few = compare(same[:5], same[:5])
    assert few["dollars"].change.low is None
    assert not few["dollars"].no_worse(1.0)
    assert not few["solved"].no_worse(0.1)


def test_what_is_not_known_is_left_out_and_said() -> None:
    before, after = results(30), results(30, dollars=None)
    found = compare(before, after)
    assert found["dollars"].change.value is None
    assert "dollars is not known" in found["dollars"].change.note
    assert not found["dollars"].no_worse(9.9)
    half = compare(before, [*before[:20], *after[20:]])["dollars"].change
    assert (half.count, half.note) == (20, "10 not known")


def test_several_runs_of_a_task_are_one_pair() -> None:
    before = results(40)
    again = [item.model_copy(update={"solved": not item.solved}) for item in before]
    found = compare([*before, *again], before)
    assert found.paired == 40
    assert found["solved"].before.value == pytest.approx(0.5)


def test_tasks_of_one_only_do_not_count_and_none_in_common_is_refused() -> None:
    many = results(40)
    found = compare(many[:30], many[10:])
    assert found.paired == 20
    assert found.only_before == tuple(f"t{number}" for number in range(10))
    assert found.only_after == tuple(f"t{number}" for number in range(30, 40))
    with pytest.raises(EvaluationError, match="no task in common"):
        compare(many[:10], many[10:])
    with pytest.raises(EvaluationError, match=r"level is 95"):
        compare(many, many, level=95)


def test_results_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    made = results(3)
    made.append(
        TaskResult(
            task_id="whole",
            solved=False,
            seconds=1.5,
            calls={"create_task": 2},
            reason="timed out",
            failed=True,
            scores=RunScores(ChainScores(True, 1, 1, 0, 0, 0, 0, 0), False),
            traces=("ab",),
        )
    )
    assert write_results(path, made) == 4
    assert read_results(path) == made
    features = RunFeatures("whole", {"create_task": 2}, False, None, 1.5)
    assert made[-1].features() == features
    assert TaskResult.of(features).task_id == "whole"


def test_a_broken_line_is_named_and_half_a_last_line_forgiven(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write_results(path, results(2))
    whole = path.read_text()
    path.write_text(whole + '{"task_id": "t9", "sol')
    assert len(read_results(path, cut_short=True)) == 2
    with pytest.raises(EvaluationError, match=r"results\.jsonl, line 3"):
        read_results(path)
    path.write_text('{"task_id": "t9", "solved": true, "dollars": -1}\n' + whole)
    with pytest.raises(EvaluationError, match=r"line 1 is no result of an evaluation: dollars"):
        read_results(path, cut_short=True)
