"""A sandbox for Python programs that a model has written."""

from toolorch_serving.sandbox.errors import SandboxBusyError, SandboxError, SandboxUnavailableError
from toolorch_serving.sandbox.limits import Limits
from toolorch_serving.sandbox.result import Reason, SandboxResult
from toolorch_serving.sandbox.sandbox import UNCONFINED, Sandbox

__all__ = [
    "UNCONFINED",
    "Limits",
    "Reason",
    "Sandbox",
    "SandboxBusyError",
    "SandboxError",
    "SandboxResult",
    "SandboxUnavailableError",
]
