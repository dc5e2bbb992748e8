"""What an environment's database holds at one moment, as plain data, and how two such states differ."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from toolorch_rl.environments.schema import Scalar

Row = dict[str, Scalar]
"""The fields of an entry, without its id."""

IdForm = Literal["prefix-number", "prefix_hex", "hex", "number"]
"""How ids look: `TAS-4821`, `task_8f3a2c`, `9c41be07`, `48213`."""


class State(BaseModel):
    """A whole database.

    Attributes:
        rows: Entries by id, by entity.
        links: Pairs of ids, by link.
        id_form: How ids of new entries look.
        id_seed: From what they are drawn, besides the entry itself.
        touched: Entity and id of entries that calls have changed, made or deleted since the state was restored.
    """

    model_config = ConfigDict(extra="forbid")

    rows: dict[str, dict[str, Row]] = Field(default_factory=dict)
    links: dict[str, list[tuple[str, str]]] = Field(default_factory=dict)
    id_form: IdForm = "prefix-number"
    id_seed: int = 0
    touched: list[tuple[str, str]] = Field(default_factory=list)


class StateChanges(BaseModel):
    """What turns one state into another.

    Attributes:
        rows: New or changed entries by id, by entity; None where one is deleted.
        added: New links by link.
        removed: Links that are gone, by link.
    """

    model_config = ConfigDict(extra="forbid")

    rows: dict[str, dict[str, Row | None]] = Field(default_factory=dict)
    added: dict[str, list[tuple[str, str]]] = Field(default_factory=dict)
    removed: dict[str, list[tuple[str, str]]] = Field(default_factory=dict)


def changes(before: State, after: State) -> StateChanges:
    """Return what turns one state into another."""
    rows: dict[str, dict[str, Row | None]] = {}
    for entity in {**before.rows, **after.rows}:
        old, new = before.rows.get(entity, {}), after.rows.get(entity, {})
        changed: dict[str, Row | None] = {key: row for key, row in new.items() if old.get(key) != row}
        changed |= {key: None for key in old if key not in new}
        if changed:
            rows[entity] = changed
    added, removed = {}, {}
    for link in {**before.links, **after.links}:
        old_pairs, new_pairs = before.links.get(link, []), after.links.get(link, [])
        if old_pairs != new_pairs:
            added[link] = [pair for pair in new_pairs if pair not in old_pairs]
            removed[link] = [pair for pair in old_pairs if pair not in new_pairs]
    return StateChanges(rows=rows, added=added, removed=removed)


def changed(before: State, by: StateChanges) -> State:
    """Return a state with changes made."""
    rows = dict(before.rows)
    for entity, entries in by.rows.items():
        kept = {key: row for key, row in before.rows.get(entity, {}).items() if key not in entries}
        rows[entity] = kept | {key: row for key, row in entries.items() if row is not None}
    links = dict(before.links)
    for link in {**by.added, **by.removed}:
        gone = by.removed.get(link, [])
        kept_pairs = [pair for pair in before.links.get(link, []) if pair not in gone]
        links[link] = [*kept_pairs, *by.added.get(link, [])]
    return before.model_copy(update={"rows": rows, "links": links})


def differences(expected: State, actual: State, before: State | None = None) -> list[str]:
    """Say how a state differs from the expected one; an empty list when it does not.

    Args:
        expected: What should be there.
        actual: What is there.
        before: The state that both come from. Where it is given, the ids of entries that are new since then do not
            matter: a run that made an entry and then corrected it has another id for the same thing.
    """
    if _content(expected) == _content(actual):
        return []
    if before is not None:
        expected, actual = _relabelled(expected, before), _relabelled(actual, before)
        if _content(expected) == _content(actual):
            return []
    return _described(expected, actual)


def _content(state: State) -> tuple[dict[str, dict[str, Row]], dict[str, list[tuple[str, str]]]]:
    rows = {entity: entries for entity, entries in state.rows.items() if entries}
    return rows, {link: sorted(pairs) for link, pairs in state.links.items() if pairs}


def _relabelled(state: State, before: State) -> State:
    """Name new entries after what they hold and are joined to, instead of by their ids."""
    new = {key: entity for entity, rows in state.rows.items() for key in rows if key not in before.rows.get(entity, {})}
    names = dict.fromkeys(new, "")
    for _ in range(4):  # each round looks one reference or link further
        names = {
            key: _digest([
                entity,
                {name: names.get(str(value), value) for name, value in state.rows[entity][key].items()},
                sorted(
                    [link, names.get(other, other)]
                    for link, pairs in state.links.items()
                    for pair in pairs
                    if key in pair
                    for other in pair
                    if other != key
                ),
            ])
            for key, entity in new.items()
        }  # fmt: skip
    seen: Counter[str] = Counter()
    labels: dict[str, str] = {}
    for key in sorted(new, key=lambda key: (names[key], key)):
        seen[names[key]] += 1
        labels[key] = f"new-{names[key]}-{seen[names[key]]}"
    rows = {
        entity: {
            labels.get(key, key): {name: labels.get(str(value), value) for name, value in row.items()}
            for key, row in entries.items()
        }
        for entity, entries in state.rows.items()
    }
    links = {link: [(labels.get(a, a), labels.get(b, b)) for a, b in pairs] for link, pairs in state.links.items()}
    return state.model_copy(update={"rows": rows, "links": links})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def _described(expected: State, actual: State) -> list[str]:
    found: list[str] = []
    for entity in sorted({**expected.rows, **actual.rows}):
        wanted, there = expected.rows.get(entity, {}), actual.rows.get(entity, {})
        for key in sorted({**wanted, **there}):
            if key not in there:
                found.append(f"{entity} {key} is missing: {json.dumps(wanted[key], ensure_ascii=False)}")
            elif key not in wanted:
                found.append(f"{entity} {key} should not be there: {json.dumps(there[key], ensure_ascii=False)}")
            else:
                old, new = wanted[key], there[key]
                found += [
                    f"{entity} {key}: {name} is {new.get(name)!r} instead of {old.get(name)!r}"
                    for name in sorted({**old, **new})
                    if new.get(name) != old.get(name)
                ]
    for link in sorted({**expected.links, **actual.links}):
        wanted_pairs, pairs = set(expected.links.get(link, [])), set(actual.links.get(link, []))
        found += [f"link {link} of {a} and {b} is missing" for a, b in sorted(wanted_pairs - pairs)]
        found += [f"link {link} of {a} and {b} should not be there" for a, b in sorted(pairs - wanted_pairs)]
    return found
