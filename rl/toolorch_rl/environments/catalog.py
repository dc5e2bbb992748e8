"""The tools of a schema by name and as a catalogue, made once for each schema."""

from __future__ import annotations

from functools import lru_cache

from pydantic import BaseModel

from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import Tool
from toolorch_integrations.schema import canonical_parameters
from toolorch_rl.environments.arguments import arguments_model
from toolorch_rl.environments.operations import Operation, operations
from toolorch_rl.environments.schema import EnvironmentSchema

_KEPT = 256


def operations_of(schema: EnvironmentSchema) -> dict[str, Operation]:
    """Return the tools of a schema by name."""
    return _operations(_Key(schema))


def catalog_of(schema: EnvironmentSchema) -> Catalog:
    """Return the tools of a schema as a catalogue: what they take, and whether a person confirms them."""
    return _catalog(_Key(schema))


def models_of(schema: EnvironmentSchema) -> dict[str, type[BaseModel]]:
    """Return the arguments of a schema's tools as models, by the tool's name."""
    return _models(_Key(schema))


class _Key:
    """A schema as a key of a cache: the same object is the same key, since hashing a whole schema takes long."""

    def __init__(self, schema: EnvironmentSchema) -> None:
        self.schema = schema

    def __hash__(self) -> int:
        return id(self.schema)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.schema is other.schema


@lru_cache(_KEPT)
def _operations(key: _Key) -> dict[str, Operation]:
    return {operation.name: operation for operation in operations(key.schema)}


@lru_cache(_KEPT)
def _models(key: _Key) -> dict[str, type[BaseModel]]:
    return {name: arguments_model(operation) for name, operation in _operations(key).items()}


@lru_cache(_KEPT)
def _catalog(key: _Key) -> Catalog:
    models = _models(key)
    return Catalog(
        Tool(
            name=name,
            description=operation.description,
            parameters=canonical_parameters(models[name].model_json_schema()),
            destructive=operation.destructive,
        )
        for name, operation in _operations(key).items()
    )
