"""What goes wrong in a promotion."""

from toolorch_integrations.errors import ToolorchError


class PromotionError(ToolorchError):
    """A promotion cannot be begun or go on; the message names the field and the fix."""
