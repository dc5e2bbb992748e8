"""Errors of the sandbox."""

from toolorch_integrations.errors import ToolorchError


class SandboxError(ToolorchError):
    """A program could not be run."""


class SandboxUnavailableError(SandboxError):
    """There is no sandbox on this machine; the message says what is missing and how to get it."""


class SandboxBusyError(SandboxError):
    """All places were taken for as long as a program may wait for one."""
