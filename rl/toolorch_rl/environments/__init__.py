"""Environments: databases with a schema given as data, and tools made from it."""

from toolorch_rl.environments.environment import Environment
from toolorch_rl.environments.errors import EnvironmentCallError, SchemaError, StateError
from toolorch_rl.environments.operations import Operation, operations
from toolorch_rl.environments.schema import (
    ActionSpec,
    EntitySpec,
    EnvironmentSchema,
    FieldSpec,
    LinkSpec,
    Scalar,
)
from toolorch_rl.environments.state import State, StateChanges, changed, changes, differences

__all__ = [
    "ActionSpec",
    "EntitySpec",
    "Environment",
    "EnvironmentCallError",
    "EnvironmentSchema",
    "FieldSpec",
    "LinkSpec",
    "Operation",
    "Scalar",
    "SchemaError",
    "State",
    "StateChanges",
    "StateError",
    "changed",
    "changes",
    "differences",
    "operations",
]
