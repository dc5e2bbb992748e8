"""The tools of an environment, made from its schema: what each takes and does, as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from toolorch_rl.environments.schema import EntitySpec, EnvironmentSchema, FieldSpec, LinkSpec, Scalar
from toolorch_rl.said import article

OperationKind = Literal["create", "get", "list", "search", "update", "delete", "link", "unlink", "action"]

DEFAULT_LIMIT = 50
"""Entries that `list` and `search` give unless asked for more or fewer."""


@dataclass(frozen=True)
class Operation:
    """A tool.

    Attributes:
        name: Of the tool.
        kind: What it does.
        entity: With entries of what; the source of a link.
        arguments: What it takes; `refers_to` of a reference names the entity whose id it is.
        description: For the policy.
        destructive: Whether a person confirms each call.
        link: For `link` and `unlink`.
        sets: Value by field, for `action`.
    """

    name: str
    kind: OperationKind
    entity: EntitySpec
    arguments: tuple[FieldSpec, ...]
    description: str
    destructive: bool = False
    link: LinkSpec | None = None
    sets: tuple[tuple[str, Scalar], ...] = ()


def operations(schema: EnvironmentSchema) -> list[Operation]:
    """Return the tools of a schema, in a fixed order."""
    made = [operation for entity in schema.entities for operation in _of_entity(entity)]
    for action in schema.actions:
        entity = schema.by_name[action.entity]
        words = ", ".join(f"{name.replace('_', ' ')} becomes {value}" for name, value in action.sets.items())
        made.append(
            Operation(
                action.name,
                "action",
                entity,
                (id_argument(entity),),
                action.description or f"{action.verb.capitalize()} {article(entity.noun)}: {words}.",
                destructive=action.destructive,
                sets=tuple(action.sets.items()),
            )
        )
    for link in schema.links:
        source, target = schema.by_name[link.source], schema.by_name[link.target]
        ends = (id_argument(source), id_argument(target))
        text = f"{article(source.noun)} {{}} {article(target.noun)}."
        made.append(Operation(f"link_{link.name}", "link", source, ends, f"Link {text.format('with')}", link=link))
        made.append(
            Operation(f"unlink_{link.name}", "unlink", source, ends, f"Unlink {text.format('from')}", link=link)
        )
    return made


def id_argument(entity: EntitySpec) -> FieldSpec:
    """Return the argument that names an entry."""
    return FieldSpec(
        name=f"{entity.name}_id",
        type="reference",
        required=True,
        refers_to=entity.name,
        description=f"Id of the {entity.noun}.",
    )


def _of_entity(entity: EntitySpec) -> Iterator[Operation]:
    one, many = article(entity.noun), entity.nouns
    about = f" {entity.description}" if entity.description else ""
    own = id_argument(entity)
    optional = tuple(_optional(field) for field in entity.fields)
    limit = FieldSpec(name="limit", type="integer", description=f"At most so many; {DEFAULT_LIMIT} by default.")
    query = FieldSpec(name="query", required=True, description="Words that must all occur.")
    filters = tuple(field for field in optional if field.type in ("choice", "boolean", "reference", "date"))
    yield Operation(f"create_{entity.name}", "create", entity, entity.fields, f"Create {one}.{about}")
    yield Operation(f"get_{entity.name}", "get", entity, (own,), f"Get {one} by its id.")
    yield Operation(f"list_{entity.plural}", "list", entity, (*filters, limit), f"List {many}, all or those that fit.")
    yield Operation(f"search_{entity.plural}", "search", entity, (query, limit), f"Search {many} by their texts.")
    yield Operation(f"update_{entity.name}", "update", entity, (own, *optional), f"Change fields of {one}.")
    yield Operation(f"delete_{entity.name}", "delete", entity, (own,), f"Delete {one} for good.", destructive=True)


def _optional(field: FieldSpec) -> FieldSpec:
    """Return a field as an argument that may be left out."""
    return field.model_copy(update={"required": False, "default": None})
