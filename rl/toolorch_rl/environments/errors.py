"""What can be wrong with an environment's schema, its state, or a call of its tools."""

from toolorch_integrations.errors import ToolorchError


class SchemaError(ToolorchError, ValueError):
    """A schema is not usable; the message names the item and what to do."""


class StateError(ToolorchError, ValueError):
    """A state does not fit the schema; the message names the entry."""


class EnvironmentCallError(ToolorchError, ValueError):
    """A call of an environment's tool cannot be made; the message is what a policy sees."""
