"""Environments: schemas as data, tools made from them, states."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolorch_integrations.catalog import Catalog
from toolorch_integrations.safety import is_destructive
from toolorch_integrations.schema import canonical_parameters
from toolorch_rl.environments import (
    Environment,
    EnvironmentCallError,
    EnvironmentSchema,
    SchemaError,
    State,
    StateError,
    changed,
    changes,
    differences,
)
from toolorch_rl.synthesis import domains

NOTES: dict[str, Any] = {
    "name": "notes",
    "entities": [
        {
            "name": "folder",
            "plural": "folders",
            "label": "name",
            "fields": [{"name": "name", "required": True}, {"name": "closed", "type": "boolean", "default": False}],
        },
        {
            "name": "note",
            "plural": "notes",
            "label": "title",
            "fields": [
                {"name": "title", "required": True},
                {"name": "folder_id", "type": "reference", "refers_to": "folder", "required": True},
                {"name": "after_id", "type": "reference", "refers_to": "note"},
                {"name": "kind", "type": "choice", "choices": ["idea", "fact"], "default": "idea"},
                {"name": "day", "type": "date"},
                {"name": "pages", "type": "integer"},
                {"name": "weight", "type": "number"},
            ],
        },
        {"name": "tag", "plural": "tags", "label": "word", "fields": [{"name": "word", "required": True}]},
    ],
    "links": [{"source": "note", "target": "tag"}],
    "actions": [{"verb": "publish", "entity": "note", "sets": {"kind": "fact"}}],
}


def environment(**state: Any) -> Environment:
    return Environment(EnvironmentSchema.from_dict(NOTES), state=State(**state) if state else None)


def edited(path: list[str | int], value: Any) -> dict[str, Any]:
    """Return the schema with one value replaced, or taken away where it is None."""
    data = json.loads(json.dumps(NOTES))
    place = data
    for part in path[:-1]:
        place = place[part]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


NOTE_FIELDS = ["entities", 1, "fields"]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["entities"], [], ["'notes'", "empty"]),
        (["entities", 0, "label"], None, ["entities[folder].label", "required"]),
        (["entities", 0, "fields"], [], ["'folder'", "no fields"]),
        ([*NOTE_FIELDS, 0, "name"], None, ["entities[note].fields[0].name", "required"]),
        ([*NOTE_FIELDS, 1, "refers_to"], None, ["'folder_id'", "refers_to"]),
        ([*NOTE_FIELDS, 1, "refers_to"], "shelf", ["'folder_id'", "'shelf'", "folder, note, tag"]),
        ([*NOTE_FIELDS, 2, "required"], True, ["note -> note", "optional"]),
        ([*NOTE_FIELDS, 3, "choices"], [], ["'kind'", "choices"]),
        ([*NOTE_FIELDS, 3, "default"], "lie", ["'kind'", "'lie'"]),
        ([*NOTE_FIELDS, 4, "type"], "time", ["fields[day].type"]),
        ([*NOTE_FIELDS, 4, "name"], "title", ["'title'", "2 times"]),
        ([*NOTE_FIELDS, 4, "name"], "note_id", ["'note_id'", "own key"]),
        ([*NOTE_FIELDS, 4, "name"], "class", ["'class'", "lose"]),
        ([*NOTE_FIELDS, 4, "name"], "copy", ["'copy'", "lose"]),
        ([*NOTE_FIELDS, 4, "name"], 'day"; DROP TABLE note', ["DROP TABLE"]),
        (["links", 0, "target"], "colour", ["'note_colour'", "'colour'", "folder, note, tag"]),
        (["links", 0, "target"], "note", ["to itself"]),
        (["actions", 0, "entity"], "page", ["'publish_page'", "'page'"]),
        (["actions", 0, "sets"], {"kind": "rumour"}, ["'publish_note'", "'rumour'"]),
        (["actions", 0, "sets"], {"size": 1}, ["'size'"]),
        (["actions", 0, "verb"], "update", ["'update_note'"]),
        (["entities", 2, "plural"], "notes", ["'notes'", "2 times"]),
    ],
)
def test_unusable_schemas_are_refused_with_the_item(path: list[str | int], value: Any, words: list[str]) -> None:
    with pytest.raises(SchemaError) as caught:
        EnvironmentSchema.from_dict(edited(path, value))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_cycle_of_required_references_is_named() -> None:
    data = edited(["entities", 0, "fields"], [
        {"name": "name", "required": True},
        {"name": "cover_id", "type": "reference", "refers_to": "note", "required": True},
    ])  # fmt: skip
    with pytest.raises(SchemaError, match="folder -> note -> folder"):
        EnvironmentSchema.from_dict(data)


def test_tools_do_what_they_say() -> None:
    place = environment()
    folder = place.call("create_folder", {"name": "Travel"})
    assert folder == {"id": folder["id"], "name": "Travel", "closed": False}
    first = place.call("create_note", {"title": "Pack 100% of it", "folder_id": folder["id"], "pages": 3})
    second = place.call(
        "create_note", {"title": "Pay", "folder_id": folder["id"], "after_id": first["id"], "kind": "fact"}
    )
    assert first["kind"] == "idea"
    assert place.call("list_notes", {"kind": "fact"}) == {"count": 1, "notes": [second]}
    assert place.call("list_notes", {"limit": 1})["count"] == 2
    assert len(place.call("list_notes", {"limit": 1})["notes"]) == 1
    assert place.call("search_notes", {"query": "PACK 100%"})["notes"] == [first]
    assert place.call("search_notes", {"query": "Pa_k"})["count"] == 0
    tag = place.call("create_tag", {"word": "urgent"})
    place.call("link_note_tag", {"note_id": first["id"], "tag_id": tag["id"]})
    assert place.call("get_note", {"note_id": first["id"]}) == {**first, "tag_ids": [tag["id"]]}
    assert place.call("get_tag", {"tag_id": tag["id"]})["note_ids"] == [first["id"]]
    place.call("unlink_note_tag", {"note_id": first["id"], "tag_id": tag["id"]})
    assert place.call("get_note", {"note_id": first["id"]})["tag_ids"] == []
    assert place.call("update_note", {"note_id": first["id"], "day": "2026-02-03"})["day"] == "2026-02-03"
    assert place.call("publish_note", {"note_id": first["id"]})["kind"] == "fact"
    assert place.call("delete_note", {"note_id": first["id"]}) == {"id": first["id"], "deleted": True}
    assert "after_id" not in place.call("get_note", {"note_id": second["id"]})


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("fly", {}, "no tool 'fly'"),
        ("get_note", {}, "needs 'note_id'"),
        ("get_note", {"note_id": "n9"}, "no note with the id 'n9'"),
        ("get_note", {"note_id": 7}, "note_id: 7 is no text"),
        ("create_note", {"title": "x", "folder_id": "nowhere"}, "no folder with the id 'nowhere'"),
        ("create_note", {"title": " ", "folder_id": "f1"}, "title"),
        ("update_note", {"note_id": "n1"}, "changes nothing"),
        ("update_note", {"note_id": "n1", "kind": "lie"}, "none of idea, fact"),
        ("update_note", {"note_id": "n1", "day": "tomorrow"}, "YYYY-MM-DD"),
        ("update_note", {"note_id": "n1", "pages": 2.5}, "pages"),
        ("update_note", {"note_id": "n1", "colour": "red"}, "takes no 'colour'"),
        ("delete_folder", {"folder_id": "f1"}, "still has the note n1"),
        ("link_note_tag", {"note_id": "n1", "tag_id": "t1"}, "linked already"),
        ("unlink_note_tag", {"note_id": "n1", "tag_id": "t2"}, "not linked"),
    ],
)
def test_calls_that_make_no_sense_change_nothing(name: str, arguments: dict[str, Any], words: str) -> None:
    place = environment(rows=ROWS, links={"note_tag": [("n1", "t1")]})
    before = place.state()
    with pytest.raises(EnvironmentCallError, match=words):
        place.call(name, arguments)
    assert differences(before, place.state()) == []


ROWS: dict[str, Any] = {
    "folder": {"f1": {"name": "Travel"}},
    "note": {"n1": {"title": "Pack", "folder_id": "f1"}},
    "tag": {"t1": {"word": "soon"}, "t2": {"word": "late"}},
}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"rows": {"page": {}}}, "no entity 'page'"),
        ({"rows": {"tag": {"t1": {}}}}, "tag t1: word: it is required"),
        ({"rows": {"tag": {"t1": {"word": "x", "size": 1}}}}, "'size'"),
        ({"rows": {"note": {"n1": {"title": "x", "folder_id": "f9"}}}}, "no folder 'f9'"),
        ({"rows": ROWS, "links": {"tag_note": []}}, "no link 'tag_note'"),
        ({"rows": ROWS, "links": {"note_tag": [("n1", "t9")]}}, "tag 't9'"),
    ],
)
def test_states_that_do_not_fit_are_refused_and_change_nothing(state: dict[str, Any], words: str) -> None:
    place = environment(rows=ROWS)
    before = place.state()
    with pytest.raises(StateError, match=words):
        place.restore(State(**state))
    assert place.state() == before


def test_states_come_back_exactly(tmp_path: Path) -> None:
    schema = EnvironmentSchema.from_dict(NOTES)
    with Environment(schema, tmp_path / "notes.db", State(rows=ROWS, links={"note_tag": [("n1", "t2")]})) as place:
        place.call("update_note", {"note_id": "n1", "weight": 2, "pages": 4})
        kept = place.state()
    with Environment(schema, tmp_path / "notes.db") as again:
        assert differences(kept, again.state()) == []
        again.call("delete_tag", {"tag_id": "t2"})
        assert again.state().links == {"note_tag": []}
        again.restore(State.model_validate_json(kept.model_dump_json()))
        assert differences(kept, again.state()) == []
    with sqlite3.connect(tmp_path / "notes.db") as database:
        assert database.execute("SELECT weight, pages FROM note").fetchall() == [(2.0, 4)]


def test_parallel_calls_give_the_same_ids_in_any_order() -> None:
    calls = [{"title": f"Note {number % 20}", "folder_id": "f1"} for number in range(40)]
    states = []
    for order in (calls, calls[::-1]):
        place = environment(rows=ROWS, id_seed=5, id_form="hex")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(place.call, ["create_note"] * len(order), order))
        states.append(place.state())
    assert len(states[0].rows["note"]) == 41
    assert states[0].rows == states[1].rows


def test_another_id_of_a_new_entry_does_not_matter_but_what_it_holds_does() -> None:
    def end(*titles: str, tag: str = "t1") -> tuple[State, State]:
        place = environment(rows=ROWS)
        before = place.state()
        folder = place.call("create_folder", {"name": titles[0]})["id"]
        for title in titles[1:]:
            place.call("update_folder", {"folder_id": folder, "name": title})
        note = place.call("create_note", {"title": "In it", "folder_id": folder})["id"]
        place.call("link_note_tag", {"note_id": note, "tag_id": tag})
        return before, place.state()

    before, straight = end("Right")
    _, detour = end("Wrong", "Right")
    assert straight.rows != detour.rows
    assert differences(straight, detour, before) == []
    assert differences(straight, detour)
    assert differences(straight, end("Wrong")[1], before)
    assert any("note_tag" in text for text in differences(straight, end("Right", tag="t2")[1], before))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["create_note", "update_note", "delete_note", "link_note_tag", "unlink_note_tag"]),
            st.integers(0, 3),
            st.sampled_from(["t1", "t2"]),
        ),
        max_size=12,
    )
)
@settings(max_examples=40, deadline=None)
def test_changes_lead_from_one_state_to_the_other(steps: list[tuple[str, int, str]]) -> None:
    with environment(rows=ROWS, links={"note_tag": [("n1", "t1")]}) as place:
        before = place.state()
        for name, number, tag in steps:
            notes = sorted(place.state().rows["note"]) or ["gone"]
            key = notes[number % len(notes)]
            arguments: dict[str, Any] = {
                "create_note": {"title": f"Note {number}", "folder_id": "f1"},
                "update_note": {"note_id": key, "pages": number},
                "delete_note": {"note_id": key},
            }.get(name, {"note_id": key, "tag_id": tag})
            try:
                place.call(name, arguments)
            except EnvironmentCallError:
                continue
        after = place.state()
    between = changes(before, after)
    assert differences(after, changed(before, type(between).model_validate_json(between.model_dump_json()))) == []
    assert (differences(before, after) == []) == (between == changes(before, before))


def test_touched_entries_are_remembered_even_when_nothing_remains_of_the_change() -> None:
    place = environment(rows=ROWS)
    place.call("update_tag", {"tag_id": "t1", "word": "other"})
    place.call("update_tag", {"tag_id": "t1", "word": "soon"})
    assert place.state().rows == environment(rows=ROWS).state().rows
    assert place.state().touched == [("tag", "t1")]


def test_both_frameworks_get_the_tools_that_the_catalogue_shows() -> None:
    place = environment(rows=ROWS)
    catalog = place.catalog()
    assert isinstance(catalog, Catalog)
    langchain, llamaindex = place.langchain_tools(), place.llamaindex_tools()
    for entry, chain_tool, index_tool in zip(catalog.tools, langchain, llamaindex, strict=True):
        assert entry.name == chain_tool.name == index_tool.metadata.name
        assert entry.description == chain_tool.description == index_tool.metadata.description
        assert entry.parameters == canonical_parameters(chain_tool.args_schema.model_json_schema())
        assert entry.parameters == canonical_parameters(index_tool.metadata.fn_schema.model_json_schema())
    by_name = {tool.name: tool for tool in langchain}
    assert json.loads(by_name["get_tag"].invoke({"tag_id": "t1"}))["word"] == "soon"
    made = {tool.metadata.name: tool for tool in llamaindex}["create_tag"].call(word="new")
    assert json.loads(made.content)["word"] == "new"
    assert len(place.state().rows["tag"]) == 3


def test_destructive_tools_are_marked_and_named_so() -> None:
    for item in domains().values():
        for entry in Environment(item.schema).catalog():
            destructive = entry.name.startswith("delete_") or entry.name in {a.name for a in item.schema.actions}
            assert entry.destructive == destructive == is_destructive(entry.name), entry.name


def test_environments_import_no_framework() -> None:
    code = (
        "import sys, toolorch_rl.environments, toolorch_rl.tasks, toolorch_rl.synthesis; "
        "print([name for name in ('langchain_core', 'langgraph', 'llama_index', 'torch') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
