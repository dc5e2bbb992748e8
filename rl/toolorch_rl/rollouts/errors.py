"""Errors of rollouts."""

from __future__ import annotations

from toolorch_integrations.errors import ToolorchError


class RolloutError(ToolorchError):
    """Rollouts cannot begin or go on; the message names what is wrong and the fix."""


class PolicyDownError(RolloutError):
    """The policy server does not answer, and waiting and restarting have not helped."""
