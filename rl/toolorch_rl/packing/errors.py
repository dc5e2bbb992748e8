"""What can be wrong with rows or a model for packing."""

from toolorch_integrations.errors import ToolorchError


class PackingError(ToolorchError, ValueError):
    """Rows cannot be packed, or a model cannot read packed rows the way that was asked for."""
