"""What can go wrong when weights are published."""

from toolorch_integrations.errors import ToolorchError


class WeightsError(ToolorchError):
    """Weights cannot be published; the server goes on with those that it had, unless the message says otherwise."""


class ProbeError(WeightsError):
    """The server does not answer with the weights that it was given."""
