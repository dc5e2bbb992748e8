"""The domains that templates are filled from: schemas with the words to make up entries."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from toolorch_rl.environments import ActionSpec, EntitySpec, EnvironmentSchema, FieldSpec, LinkSpec, SchemaError
from toolorch_rl.environments.checks import creation_order

SLOT = re.compile(r"\{(\w+)\}")
"""What stands for a word in an example."""


@dataclass(frozen=True)
class Family:
    """Entities that belong together: most templates speak of them.

    Attributes:
        parent: Can be made on its own.
        child: Refers to a parent by `up`.
        grandchild: Refers to a child by `child_up`.
        other: What children are linked with.
    """

    parent: EntitySpec
    child: EntitySpec
    up: FieldSpec
    grandchild: EntitySpec
    child_up: FieldSpec
    other: EntitySpec
    link: LinkSpec


@dataclass(frozen=True)
class Domain:
    """A schema, and what entries are made up from.

    Attributes:
        schema: Of the environment.
        words: What stands for `{word}` in the examples of fields.
        order: The entities, each after those that it refers to.
        family: The entities that templates speak of.
    """

    schema: EnvironmentSchema
    words: Mapping[str, Sequence[str]]
    order: tuple[EntitySpec, ...] = field(init=False)
    family: Family = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", tuple(creation_order(self.schema)))
        object.__setattr__(self, "family", _family(self.schema))

    @property
    def name(self) -> str:
        """The domain's name."""
        return self.schema.name

    def actions(self, entity: EntitySpec) -> list[ActionSpec]:
        """Return what can be done with an entity besides editing it."""
        return [action for action in self.schema.actions if action.entity == entity.name]


@cache
def domains() -> dict[str, Domain]:
    """Return the domains that come with the package, by name."""
    return {name: read_domain({"name": name, **item}) for name, item in _file().items() if name != "words"}


def domain(name: str) -> Domain:
    """Return a domain by name.

    Raises:
        SchemaError: There is none of that name.
    """
    try:
        return domains()[name]
    except KeyError:
        raise SchemaError(f"There is no domain {name!r}; there are {', '.join(domains())}.") from None


def read_domain(data: Mapping[str, Any]) -> Domain:
    """Read a domain as `domains.toml` writes it: entities and fields by name, and `words` besides the shared ones.

    Raises:
        SchemaError: It is not usable; the message names the item.
    """
    entities = [
        {"name": name, **item, "fields": [{"name": key, **value} for key, value in item.get("fields", {}).items()]}
        for name, item in data.get("entities", {}).items()
    ]
    plain = {key: value for key, value in data.items() if key != "words"}
    schema = EnvironmentSchema.from_dict({**plain, "entities": entities})
    words = {**_file()["words"], **data.get("words", {})}
    for entity in schema.entities:
        for item in entity.fields:
            for slot in (slot for example in item.examples for slot in SLOT.findall(example)):
                if not words.get(slot):
                    raise SchemaError(
                        f"Domain {schema.name!r}: examples of {entity.name}.{item.name} have the word {slot!r}, which "
                        "stands for nothing: add it to `words`."
                    )
    return Domain(schema, words)


@cache
def _file() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("domains.toml").read_text(encoding="utf-8"))


def _family(schema: EnvironmentSchema) -> Family:
    for link in schema.links:
        child, other = schema.by_name[link.source], schema.by_name[link.target]
        for up in (item for item in child.references if item.required):
            for grandchild in schema.entities:
                for child_up in (item for item in grandchild.references if item.required):
                    if child_up.refers_to == child.name:
                        parent = schema.by_name[up.refers_to or ""]
                        return Family(parent, child, up, grandchild, child_up, other, link)
    raise SchemaError(
        f"Domain {schema.name!r} has no entity that refers to another, is referred to by a third and is linked with a "
        "fourth: templates need all four."
    )
