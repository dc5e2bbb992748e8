"""Checks of a schema as a whole."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from keyword import iskeyword

from pydantic import BaseModel

from toolorch_rl.environments.errors import SchemaError
from toolorch_rl.environments.operations import operations
from toolorch_rl.environments.schema import EntitySpec, EnvironmentSchema, FieldSpec, Scalar

_NAME = re.compile(r"(?!sqlite_)[a-z][a-z0-9_]{0,39}")
_LOST = ("args", "callbacks", "config", "kwargs", "run_manager", "self")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def check(schema: EnvironmentSchema) -> None:
    """Check a schema.

    Raises:
        SchemaError: It is not usable.
    """
    where = f"Domain {schema.name!r}"
    if not schema.entities:
        raise SchemaError(f"{where} is empty: give it at least one entity.")
    names = [entity.name for entity in schema.entities] + [entity.plural for entity in schema.entities]
    names += [f"link_{link.name}" for link in schema.links]  # their tables
    _distinct(names, f"{where}: entity, plural or link")
    for entity in schema.entities:
        _check_entity(schema, entity)
    for link in schema.links:
        for end in (link.source, link.target):
            if end not in schema.by_name:
                raise SchemaError(f"{where}: link {link.name!r} names {end!r}; the entities are {_names(schema)}.")
        if link.source == link.target:
            raise SchemaError(f"{where}: link {link.name!r} joins an entity to itself: use a reference field.")
    _distinct([action.name for action in schema.actions], f"{where}: action")
    for action in schema.actions:
        _name(action.verb, f"{where}: verb of action {action.name!r}")
        if action.verb in ("create", "get", "list", "search", "update", "delete", "link", "unlink"):
            raise SchemaError(f"{where}: action {action.name!r} has the verb of a tool that every entity has.")
        if action.entity not in schema.by_name:
            raise SchemaError(
                f"{where}: action {action.name!r} names {action.entity!r}; the entities are {_names(schema)}."
            )
        entity = schema.by_name[action.entity]
        for name, value in action.sets.items():
            if name not in entity.by_name:
                raise SchemaError(f"{where}: action {action.name!r} sets {name!r}, which {entity.name!r} has not.")
            problem = value_problem(entity.by_name[name], value)
            if problem:
                raise SchemaError(f"{where}: action {action.name!r} sets {name!r}: {problem}.")
    creation_order(schema)
    _distinct([operation.name for operation in operations(schema)], f"{where}: tool")


def creation_order(schema: EnvironmentSchema) -> list[EntitySpec]:
    """Return the entities so that each comes after those that it cannot be made without.

    Raises:
        SchemaError: Required references form a cycle: no entry of it could be the first.
    """
    order: list[EntitySpec] = []
    path: list[str] = []

    def visit(entity: EntitySpec) -> None:
        if entity in order:
            return
        if entity.name in path:
            cycle = " -> ".join([*path[path.index(entity.name) :], entity.name])
            raise SchemaError(
                f"Domain {schema.name!r}: required references form a cycle, {cycle}: make one of them optional."
            )
        path.append(entity.name)
        for field in entity.references:
            if field.required and field.refers_to:
                visit(schema.by_name[field.refers_to])
        path.pop()
        order.append(entity)

    for entity in schema.entities:
        visit(entity)
    return order


def value_problem(field: FieldSpec, value: Scalar) -> str | None:
    """Say why a field cannot hold a value; None when it can. References are only looked at as text."""
    kind = field.type
    if kind == "boolean":
        fits = isinstance(value, bool)
    elif kind == "integer":
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif kind == "number":
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    elif kind == "choice":
        fits = value in field.choices
        if not fits:
            return f"{value!r} is none of {', '.join(field.choices)}"
    elif kind == "date":
        fits = isinstance(value, str) and _DATE.fullmatch(value) is not None
        if not fits:
            return f"{value!r} is no date of the form YYYY-MM-DD"
    else:
        fits = isinstance(value, str) and bool(value.strip())
    return None if fits else f"{value!r} is no {'text' if kind == 'reference' else kind}"


def _check_entity(schema: EnvironmentSchema, entity: EntitySpec) -> None:
    where = f"Domain {schema.name!r}: entity {entity.name!r}"
    _name(entity.name, f"{where}: name")
    _name(entity.plural, f"{where}: plural")
    if not entity.fields:
        raise SchemaError(f"{where} has no fields: give it at least the one that its label names.")
    _distinct([field.name for field in entity.fields], f"{where}: field")
    label = entity.by_name.get(entity.label)
    if label is None or label.type != "text" or not label.required:
        raise SchemaError(f"{where}: label {entity.label!r} must name a required text field of it.")
    if f"{entity.name}_id" in entity.by_name:
        raise SchemaError(f"{where}: field '{entity.name}_id' has the name of the entity's own key: choose another.")
    for field in entity.fields:
        _check_field(schema, field, f"{where}: field {field.name!r}")


def _check_field(schema: EnvironmentSchema, field: FieldSpec, where: str) -> None:
    _name(field.name, where)
    if field.name in ("id", "query", "limit"):
        raise SchemaError(f"{where}: the name is taken by the tools: choose another.")
    if iskeyword(field.name) or field.name in _LOST or hasattr(BaseModel, field.name):
        raise SchemaError(f"{where}: frameworks lose an argument of that name: choose another.")
    if field.type == "choice" and not field.choices:
        raise SchemaError(f"{where}: a choice needs `choices`.")
    if field.type == "reference":
        if field.refers_to is None:
            raise SchemaError(f"{where}: a reference needs the key `refers_to`.")
        if field.refers_to not in schema.by_name:
            raise SchemaError(f"{where}: refers_to names {field.refers_to!r}; the entities are {_names(schema)}.")
        if not field.name.endswith("_id"):
            raise SchemaError(f"{where}: the name of a reference ends with `_id`.")
    elif field.refers_to is not None:
        raise SchemaError(f"{where}: refers_to needs the type `reference`.")
    if field.default is not None:
        problem = value_problem(field, field.default)
        if problem:
            raise SchemaError(f"{where}: default: {problem}.")


def _names(schema: EnvironmentSchema) -> str:
    return ", ".join(sorted(schema.by_name))


def _name(text: str, where: str) -> None:
    if not _NAME.fullmatch(text):
        raise SchemaError(f"{where}: {text!r} must be lower-case letters, digits and '_', 40 at most, a letter first.")


def _distinct(names: Iterable[str], where: str) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise SchemaError(f"{where} {name!r} is there {count} times: rename one.")
