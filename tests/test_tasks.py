"""Tasks: when one is solved, and what a task must be to be sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolorch_rl.environments import EnvironmentSchema, changes
from toolorch_rl.replay import replay, sound, value_at, verify
from toolorch_rl.said import says
from toolorch_rl.tasks import GoldenCall, Task, TaskError, read_tasks, solved, write_tasks

SCHEMA = EnvironmentSchema.from_dict({
    "name": "lists",
    "entities": [
        {
            "name": "shopping_list",
            "plural": "shopping_lists",
            "label": "name",
            "fields": [{"name": "name", "required": True}],
        },
        {
            "name": "item",
            "plural": "items",
            "label": "name",
            "fields": [
                {"name": "name", "required": True},
                {"name": "shopping_list_id", "type": "reference", "refers_to": "shopping_list", "required": True},
                {"name": "pieces", "type": "integer"},
            ],
        },
    ],
})  # fmt: skip

ROWS: dict[str, Any] = {
    "shopping_list": {"l1": {"name": "Party"}},
    "item": {
        "i1": {"name": "Cups", "shopping_list_id": "l1", "pieces": 12},
        "i2": {"name": "Plates", "shopping_list_id": "l1"},
    },
}


def task(golden: list[list[tuple[str, dict[str, Any], dict[str, str]]]], **others: Any) -> Task:
    """Return a task about a shopping list; the changes are what its calls do."""
    turns = tuple(
        tuple(
            GoldenCall(id=f"c{turn}{place}", name=name, arguments=arguments, sources=sources)
            for place, (name, arguments, sources) in enumerate(calls)
        )
        for turn, calls in enumerate(golden)
    )
    options: dict[str, Any] = {
        "id": "t", "domain": "lists", "pattern": "single", "request": "Do it.", "initial": {"rows": ROWS},
        "answer": "Done.", "environment": SCHEMA, "golden": turns, **others,
    }  # fmt: skip
    made = Task(**options)
    place = made.open()
    try:
        replay(made, place)
    except TaskError:
        return made
    return made.model_copy(update={"changes": changes(made.initial, place.state())})


def rename(name: str = "Mugs") -> Task:
    call = ("update_item", {"item_id": "i1", "name": name}, {})
    return task([[call]], must_say=[("Mugs", "i1")], forbidden=[("item", "i2")], answer="It is Mugs now.")


def test_solved_when_state_words_and_forbidden_entries_are_right() -> None:
    wanted = rename()
    place = wanted.open()
    place.call("update_item", {"item_id": "i1", "name": "Mugs"})
    assert solved(wanted, place.state(), "The item i1 is renamed.").passed
    verdict = solved(wanted, place.state(), "Done.")
    assert not verdict.passed
    assert verdict.reason == "not said: 'Mugs' or 'i1'"


def test_a_forbidden_entry_that_was_touched_and_put_back_still_counts() -> None:
    wanted = rename()
    place = wanted.open()
    place.call("update_item", {"item_id": "i1", "name": "Mugs"})
    place.call("update_item", {"item_id": "i2", "name": "Bowls"})
    place.call("update_item", {"item_id": "i2", "name": "Plates"})
    assert solved(wanted, place.state(), "Mugs").reason == "forbidden: item i2 was touched"


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ([], "item i1: name is 'Cups' instead of 'Mugs'"),
        ([("update_item", {"item_id": "i1", "name": "Mug"})], "item i1: name is 'Mug' instead of 'Mugs'"),
        (
            [
                ("update_item", {"item_id": "i1", "name": "Mugs"}),
                ("create_item", {"name": "Mugs", "shopping_list_id": "l1"}),
            ],
            "should not be there",
        ),
        ([("delete_item", {"item_id": "i1"})], "item i1 is missing"),
        (
            [("update_item", {"item_id": "i1", "name": "Mugs"}), ("update_item", {"item_id": "i2", "pieces": 4})],
            "item i2: pieces is 4 instead of None",
        ),
    ],
)
def test_a_wrong_state_is_named(calls: list[tuple[str, dict[str, Any]]], reason: str) -> None:
    wanted = rename()
    place = wanted.open()
    for name, arguments in calls:
        place.call(name, arguments)
    assert any(reason in text for text in solved(wanted, place.state(), "Mugs").details["reasons"])


@pytest.mark.parametrize(
    ("answer", "phrase", "expected"),
    [
        ("There are 3 tasks.", "3", True),
        ("There are three tasks.", "3", True),
        ("There are 13 tasks.", "3", False),
        ("Task-3 is open.", "3", False),
        ("It costs $1,250.00.", "1250", True),
        ("It costs 12.5 euros.", "12", False),
        ("Due 2026-03-05.", "2026-03-05", True),
        ("Due on 5 March 2026.", "2026-03-05", True),
        ("Due on March 5.", "2026-03-05", True),
        ("Due on March 15.", "2026-03-05", False),
        ("Due 2026-03-05.", "3", False),
        ("It is **high**.", "high", True),
        ("It is highly odd.", "high", False),
        ("I kept\nthe   Blue Fox.", "the blue fox", True),
        ("TAS-12 is done", "TAS-1", False),
        ("anything", "", True),
    ],
)
def test_says(answer: str, phrase: str, expected: bool) -> None:
    assert says(answer, phrase) is expected


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda: task([[("get_item", {"item_id": "i1"}, {})]]), "doing nothing"),
        (
            lambda: task([[("get_item", {"item_id": "i1"}, {})]], request="Are there 12 cups?", must_say=[("12",)]),
            "doing nothing",
        ),
        (lambda: task([[("update_item", {"item_id": "i9", "pieces": 1}, {})]], must_say=[("x",)]), "update_item.*'i9'"),
        (lambda: rename().model_copy(update={"answer": "Done."}), "do not solve it: not said"),
        (lambda: rename().model_copy(update={"forbidden": (("item", "i1"),)}), "forbidden: item i1"),
        (
            lambda: task(
                [
                    [("list_items", {}, {})],
                    [("update_item", {"item_id": "i1", "pieces": 1}, {"item_id": "c00:items[1].id"})],
                ]
            ),
            "c00:items.1..id is 'i2'",
        ),
        (
            lambda: task(
                [
                    [
                        ("list_items", {}, {}),
                        ("update_item", {"item_id": "i1", "pieces": 1}, {"item_id": "c00:items[0].id"}),
                    ]
                ]
            ),
            "no result of an earlier turn",
        ),
    ],
)
def test_unsound_tasks_are_refused_and_the_rest_goes_on(broken: Any, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        verify(broken())
    reasons: list[str] = []
    kept = list(sound([rename(), broken(), rename()], lambda task, reason: reasons.append(f"{task.id}: {reason}")))
    assert len(kept) == 2
    assert len(reasons) == 1
    assert reasons[0].startswith("t: Task t: ")


def test_a_refused_call_is_not_made() -> None:
    wanted = task(
        [[("delete_item", {"item_id": "i1"}, {})]], approval=False, must_say=[("not", "kept")], answer="I kept i1."
    )
    verify(wanted)
    place = wanted.open()
    [[only]] = replay(wanted, place)
    assert only.refused
    assert "refused" in only.text
    assert solved(wanted, place.state(), "It was not deleted.").passed
    place.call("delete_item", {"item_id": "i1"})
    assert not solved(wanted, place.state(), "It was not deleted.").passed


def test_tasks_are_read_as_they_were_written(tmp_path: Path) -> None:
    tasks = [rename(), rename("Größe 🎉")]
    assert write_tasks(tmp_path / "tasks.jsonl", tasks) == 2
    again = list(read_tasks(tmp_path / "tasks.jsonl"))
    assert again == tasks
    assert [item.to_json() for item in again] == [item.to_json() for item in tasks]
    verify(again[0])


@pytest.mark.parametrize(
    ("line", "words"),
    [("{", "line 2: "), ('{"id": "x"}', "line 2: domain: Field required"), ("[]", "line 2: ")],
)
def test_a_line_that_is_no_task_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(f"{rename().to_json()}\n{line}\n")
    with pytest.raises(TaskError, match=words):
        list(read_tasks(path))


def test_values_at_paths() -> None:
    result = {"items": [{"id": "a"}, {"id": "b", "tag_ids": ["t"]}]}
    assert value_at(result, "items[1].id") == "b"
    assert value_at(result, "items[1].tag_ids[0]") == "t"
    for path in ("items[2].id", "items.id", "id", "items[x]"):
        with pytest.raises(KeyError):
            value_at(result, path)
