"""The schema of an environment, as data: entities, their fields, links and actions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolorch_rl.environments.errors import SchemaError

FieldType = Literal["text", "integer", "number", "boolean", "date", "choice", "reference"]
Scalar = str | int | float | bool | None
"""What a field can hold."""


class FieldSpec(BaseModel):
    """A field of an entity.

    Attributes:
        name: Column and argument name; a reference's ends with `_id`.
        type: `date` is text of the form YYYY-MM-DD; `reference` holds the id of another entry.
        required: Whether an entry cannot be made without it.
        choices: The values of a `choice`.
        default: What a new entry has where nothing is said.
        refers_to: Entity that a `reference` points to.
        description: For the policy.
        examples: Texts to make up entries from; `{word}` stands for one of a domain's words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    type: FieldType = "text"
    required: bool = False
    choices: tuple[str, ...] = ()
    default: Scalar = None
    refers_to: str | None = None
    description: str = ""
    examples: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The name in words."""
        return self.name.removesuffix("_id").replace("_", " ")


class EntitySpec(BaseModel):
    """A kind of entry.

    Attributes:
        name: Singular, in snake case.
        plural: For the tools that give several.
        fields: Its fields; every entry also has an `id`.
        label: Required text field by which people name an entry.
        description: For the policy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    plural: str
    fields: tuple[FieldSpec, ...]
    label: str
    description: str = ""

    @cached_property
    def by_name(self) -> dict[str, FieldSpec]:
        """The fields by name."""
        return {field.name: field for field in self.fields}

    @property
    def references(self) -> list[FieldSpec]:
        """The fields that hold the id of another entry."""
        return [field for field in self.fields if field.type == "reference"]

    @property
    def noun(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")

    @property
    def nouns(self) -> str:
        """The plural in words."""
        return self.plural.replace("_", " ")


class LinkSpec(BaseModel):
    """A link between entries of two entities, many to many.

    Attributes:
        source: Entity whose entries are linked.
        target: Entity that they are linked with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    target: str

    @property
    def name(self) -> str:
        """Name of the table, and of the tools after `link_` and `unlink_`."""
        return f"{self.source}_{self.target}"


class ActionSpec(BaseModel):
    """Something that can be done with an entry besides editing it: it sets fields to fixed values.

    Attributes:
        verb: First word of the tool's name, such as `cancel`.
        entity: What it is done with.
        sets: Value by field.
        destructive: Whether a person confirms it.
        description: For the policy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    verb: str
    entity: str
    sets: Mapping[str, Scalar]
    destructive: bool = True
    description: str = ""

    @property
    def name(self) -> str:
        """Name of the tool."""
        return f"{self.verb}_{self.entity}"


class EnvironmentSchema(BaseModel):
    """What an environment's database holds.

    Attributes:
        name: The domain.
        description: What it is about.
        entities: In any order.
        links: Many-to-many links.
        actions: What can be done with entries besides editing.

    Raises:
        SchemaError: By `from_dict`, the way to read a schema that somebody wrote.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str = ""
    entities: tuple[EntitySpec, ...] = Field(default=())
    links: tuple[LinkSpec, ...] = ()
    actions: tuple[ActionSpec, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EnvironmentSchema:
        """Read and check a schema.

        Raises:
            SchemaError: Something is missing, unknown, doubled or circular; the message names it.
        """
        from toolorch_rl.environments.checks import check

        name = data.get("name", "without a name") if isinstance(data, Mapping) else "without a name"
        try:
            schema = cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            raise SchemaError(f"Domain {name!r}: {_where(data, first['loc'])}: {first['msg']}.") from error
        check(schema)
        return schema

    @cached_property
    def by_name(self) -> dict[str, EntitySpec]:
        """The entities by name."""
        return {entity.name: entity for entity in self.entities}

    def links_of(self, entity: str) -> list[LinkSpec]:
        """Return the links that an entity takes part in."""
        return [link for link in self.links if entity in (link.source, link.target)]


def _where(data: Any, path: tuple[int | str, ...]) -> str:
    """Write a path with the names of the items in it, where they have one."""
    parts: list[str] = []
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            data = None
        named = data.get("name") if isinstance(part, int) and isinstance(data, Mapping) else None
        parts.append(f"[{named or part}]" if isinstance(part, int) else f".{part}")
    return "".join(parts).lstrip(".")
