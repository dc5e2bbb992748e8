"""What goes wrong in an evaluation."""

from toolorch_integrations.errors import ToolorchError


class EvaluationError(ToolorchError, ValueError):
    """An evaluation, or what it is to be compared with, cannot be used; the message names the item and the fix."""
