"""Schemas, states and intents, read from a model's answers and checked."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from toolorch_rl.environments import EnvironmentSchema, State
from toolorch_rl.environments.rows import check_state, new_id
from toolorch_rl.environments.state import IdForm, Row
from toolorch_rl.synthesis.by_model.answers import read
from toolorch_rl.synthesis.by_model.errors import AnswerError

ID_FORMS: tuple[IdForm, ...] = ("prefix-number", "prefix_hex", "hex", "number")


def read_schema(name: str, data: Mapping[str, Any]) -> EnvironmentSchema:
    """Return a domain's schema.

    Raises:
        SchemaError: Something is missing, unknown, doubled or circular; the message names it.
        AnswerError: No entity refers to another.
    """
    schema = EnvironmentSchema.from_dict({**data, "name": name})
    if not any(entity.references for entity in schema.entities):
        raise AnswerError("no entity refers to another: add a reference")
    return schema


class _Entries(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rows: dict[str, dict[str, Row]]
    links: dict[str, list[tuple[str, str]]] = Field(default_factory=dict)


def read_state(schema: EnvironmentSchema, data: Mapping[str, Any], draw: random.Random) -> State:
    """Return an initial state. The model's keys are replaced by ids that are drawn, so that none is learnt by heart.

    Raises:
        AnswerError: Keys are missing or not unique, an entity has no entries, labels do not tell entries apart, or
            references go round in a circle.
        StateError: An entry does not fit the schema; the message names it.
    """
    entries = read(_Entries, data)
    _check_labels(schema, entries)
    given = State(rows=entries.rows, links=entries.links)
    check_state(schema, given)
    _check_ancestors(schema, given)
    return _renamed(schema, given, draw)


class _Intents(BaseModel):
    model_config = ConfigDict(extra="forbid")

    intents: list[str]


def read_intents(count: int, data: Mapping[str, Any]) -> list[str]:
    """Return so many intents.

    Raises:
        AnswerError: There are more or fewer, one is empty, or two are the same.
    """
    intents = [" ".join(text.split()) for text in read(_Intents, data).intents]
    if len(intents) != count:
        raise AnswerError(f"there are {len(intents)} intents, {count} were asked for")
    if not all(intents):
        raise AnswerError("an intent is empty")
    if len({text.casefold() for text in intents}) < count:
        raise AnswerError("two intents are the same")
    return intents


def _check_labels(schema: EnvironmentSchema, entries: _Entries) -> None:
    keys: dict[str, str] = {}
    for entity in schema.entities:
        rows = entries.rows.get(entity.name, {})
        if not rows:
            raise AnswerError(f"the entity {entity.name!r} has no entries")
        labels: dict[str, str] = {}
        for key, row in rows.items():
            if not key.strip():
                raise AnswerError(f"an entry of {entity.name!r} has an empty key")
            if key in keys:
                raise AnswerError(f"the key {key!r} is there twice, in {keys[key]!r} and {entity.name!r}")
            keys[key] = entity.name
            label = str(row.get(entity.label, "")).casefold().strip()
            if label in labels:
                raise AnswerError(f"{entity.name} {labels[label]} and {key} have the same {entity.label}, {label!r}")
            labels[label] = key


def _check_ancestors(schema: EnvironmentSchema, state: State) -> None:
    """Refuse an entry that is its own ancestor by references of one field."""
    for entity in schema.entities:
        for field in entity.references:
            if field.refers_to != entity.name:
                continue
            rows = state.rows[entity.name]
            for start in rows:
                path, key = [start], rows[start].get(field.name)
                while isinstance(key, str) and key not in path:
                    path.append(key)
                    key = rows[key].get(field.name)
                if key is not None:
                    circle = " -> ".join([*path, str(key)])
                    raise AnswerError(f"{field.name} of {entity.name} goes round in a circle: {circle}")


def _renamed(schema: EnvironmentSchema, given: State, draw: random.Random) -> State:
    form = draw.choice(ID_FORMS)
    ids: dict[str, str] = {}
    for name, rows in given.rows.items():
        for key in rows:
            ids[key] = _fresh(form, name, draw, ids.values())
    rows_by_id: dict[str, dict[str, Row]] = {}
    for entity in schema.entities:
        references = {field.name for field in entity.references}
        renamed: dict[str, Row] = {
            ids[key]: {
                name: ids[str(value)] if name in references else value
                for name, value in row.items()
                if value is not None
            }
            for key, row in given.rows[entity.name].items()
        }
        rows_by_id[entity.name] = dict(sorted(renamed.items()))
    links = {name: sorted({(ids[a], ids[b]) for a, b in pairs}) for name, pairs in given.links.items()}
    return State(rows=rows_by_id, links=links, id_form=form, id_seed=draw.getrandbits(32))


def _fresh(form: IdForm, entity: str, draw: random.Random, taken: Any) -> str:
    while True:
        key = new_id(form, entity, str(draw.random()))
        if key not in taken:
            return key
