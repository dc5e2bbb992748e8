"""Errors of training."""

from __future__ import annotations

from toolorch_integrations.errors import ToolorchError


class TrainingError(ToolorchError, ValueError):
    """Training cannot begin or go on; the message names what is wrong, how much of it, and the fix."""
