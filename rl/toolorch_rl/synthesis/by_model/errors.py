"""What can end or spoil synthesis by model."""

from toolorch_integrations.errors import ToolorchError


class AnswerError(ToolorchError, ValueError):
    """A model's answer is not usable; the message is what the model is told when it is asked again."""


class SynthesisError(ToolorchError):
    """Synthesis cannot go on; the message says why, and what is kept."""
