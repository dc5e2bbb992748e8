"""Rows, ids and arguments: what goes into an environment's database, and how it comes out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from toolorch_rl.environments.checks import value_problem
from toolorch_rl.environments.errors import EnvironmentCallError, StateError
from toolorch_rl.environments.operations import Operation
from toolorch_rl.environments.schema import EntitySpec, EnvironmentSchema, FieldSpec, Scalar
from toolorch_rl.environments.state import IdForm, Row, State


def check_state(schema: EnvironmentSchema, state: State) -> None:
    """Check that a state fits a schema.

    Raises:
        StateError: It does not; the message names the entry.
    """
    where = f"State of the domain {schema.name!r}"
    for name, rows in state.rows.items():
        if name not in schema.by_name:
            raise StateError(f"{where}: there is no entity {name!r}; there are {sorted(schema.by_name)}.")
        entity = schema.by_name[name]
        for key, row in rows.items():
            for unknown in row.keys() - entity.by_name.keys():
                raise StateError(f"{where}: {name} {key} has {unknown!r}, which is no field of it.")
            for field in entity.fields:
                problem = _row_problem(field, row.get(field.name), state)
                if problem:
                    raise StateError(f"{where}: {name} {key}: {field.name}: {problem}.")
    links = {link.name: link for link in schema.links}
    for name, pairs in state.links.items():
        if name not in links:
            raise StateError(f"{where}: there is no link {name!r}; there are {sorted(links)}.")
        for pair in pairs:
            for end, key in zip((links[name].source, links[name].target), pair, strict=True):
                if key not in state.rows.get(end, {}):
                    raise StateError(f"{where}: link {name} names the {end} {key!r}, which is not there.")


def new_id(form: IdForm, entity: str, content: str) -> str:
    """Return an id that follows from what an entry holds."""
    digest = hashlib.sha256(content.encode()).hexdigest()
    match form:
        case "prefix-number":
            return f"{entity[:3].upper()}-{1000 + int(digest[:8], 16) % 9000}"
        case "prefix_hex":
            return f"{entity}_{digest[:6]}"
        case "hex":
            return digest[:8]
        case "number":
            return str(10000 + int(digest[:8], 16) % 90000)


def row_of(entity: EntitySpec, values: Sequence[Any]) -> Row:
    """Return an entry as the database gave it, without the fields that it has not."""
    return {
        field.name: bool(value) if field.type == "boolean" else value
        for field, value in zip(entity.fields, values, strict=True)
        if value is not None
    }


def _row_problem(field: FieldSpec, value: Scalar, state: State) -> str | None:
    if value is None:
        return "it is required" if field.required else None
    if field.type == "reference" and value not in state.rows.get(field.refers_to or "", {}):
        return f"there is no {field.refers_to} {value!r}"
    return value_problem(field, value)


def shown(key: str, row: Row) -> dict[str, Any]:
    """Return an entry as a tool's result shows it."""
    return {"id": key, **{name: value for name, value in row.items() if value is not None}}


def checked_arguments(operation: Operation, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as the database keeps them."""
    known = {argument.name: argument for argument in operation.arguments}
    given: dict[str, Any] = {}
    for name, value in arguments.items():
        if value is None:
            continue
        if name not in known:
            raise EnvironmentCallError(f"{operation.name} takes no {name!r}; it takes {', '.join(known)}")
        problem = value_problem(known[name], value)
        if problem:
            raise EnvironmentCallError(f"{name}: {problem}")
        given[name] = float(value) if known[name].type == "number" else value
    for name, argument in known.items():
        if argument.required and name not in given:
            raise EnvironmentCallError(f"{operation.name} needs {name!r}")
    return given


def like_pattern(word: str) -> str:
    """Return the pattern that finds a word with LIKE."""
    for special in ("\\", "%", "_"):
        word = word.replace(special, f"\\{special}")
    return f"%{word}%"
