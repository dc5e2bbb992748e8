"""What went wrong in a run, in the words and codes of the gateway's errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from toolorch_integrations.endpoint_errors import explain
from toolorch_integrations.errors import (
    CatalogError,
    EmptyMessagesError,
    EndpointError,
    GivenUpError,
    MissingVariableError,
)
from toolorch_serving.gateway.errors import (
    GatewayError,
    TimeLimitError,
    UnavailableError,
    UpstreamError,
)

logger = logging.getLogger(__name__)

_VARIABLE = re.compile(r"environment variable (\w+)")
_POLICY = (
    (
        "no_function_calling",
        re.compile(r"tool.?cho|tool call|function.?call|support(s)? tools|--enable-auto-tool", re.I),
    ),
    ("policy_unreachable", re.compile(r"cannot be reached|APIConnectionError|APITimeoutError", re.I)),
    ("model_not_found", re.compile(r"NotFoundError|model.{0,80}does not exist", re.I | re.S)),
    ("policy_key_refused", re.compile(r"AuthenticationError|PermissionDenied|invalid.api.key", re.I)),
)
_SEARCH_LIMITED = re.compile(r"takes no further|rate.?limit|too many requests|\b429\b", re.I)
_CODE = ("code_interpreter", "enhance_reasoning")
_CODE_REFUSED = re.compile(r"the program was not run", re.I)
_CODE_TIMED_OUT = re.compile(r"the program was stopped after .{1,20}: it took too long", re.I)


def fault_of(error: Exception) -> GatewayError:
    """Return what ended a run as the error that its client is sent."""
    if isinstance(error, GatewayError):
        return error
    text = str(error)
    if isinstance(error, MissingVariableError):
        return UnavailableError(text, param=_variable(text), code="model_not_configured")
    if isinstance(error, EmptyMessagesError):
        return GatewayError(text, param="messages")
    if isinstance(error, CatalogError | ValidationError):
        return GatewayError(text, code="invalid_request")
    if isinstance(error, GivenUpError | TimeoutError):
        return TimeLimitError(text or "The run took longer than it may.", code="timeout")
    if isinstance(error, EndpointError) or hasattr(error, "status_code"):
        explained = str(explain(error))
        return UpstreamError(explained, code=policy_code(explained))
    logger.error("A run failed in a way that is not foreseen", exc_info=error)
    return UpstreamError(f"The run failed: {type(error).__name__}: {error}", code="run_failed")


def policy_code(text: str) -> str:
    """Return the code of what is wrong with a policy endpoint."""
    return next((code for code, pattern in _POLICY if pattern.search(text)), "policy_failed")


def event_fault(event: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a progress event says went wrong as `message`, `code` and `param`; None when nothing did."""
    if event["type"] == "budget_ended":
        limit = event["limit"]
        name = {"turns": "max_rounds"}.get(limit, f"max_{limit}")
        return _fault(f"The budget's limit of {limit} ended the run: it answers with what it has.", name, name)
    if event["type"] == "fallback":
        reason = str(event["reason"])
        return _fault(f"{reason} {event['name']} answers in the policy's place.", policy_code(reason))
    if event["type"] != "call_ended":
        return None
    return _call_fault(str(event["name"]), str(event["status"]), str(event["result"]))


def _call_fault(name: str, status: str, text: str) -> dict[str, Any] | None:
    """Return what an observation says went wrong with the service, by the words of its tools."""
    if name in _CODE:  # a program that fails is an observation like any other, with status ok
        if status == "timeout" or _CODE_TIMED_OUT.search(text):
            return _fault(text, "code_timed_out", name)
        if _CODE_REFUSED.search(text):
            return _fault(text, "code_refused", name)
    if status not in ("error", "timeout"):
        return None
    variable = _variable(text)
    if variable is not None:
        return _fault(text, "model_not_configured", variable)
    if "search" in name and _SEARCH_LIMITED.search(text):
        return _fault(text, "search_limited", name)
    return None


def _fault(message: str, code: str, param: str | None = None) -> dict[str, Any]:
    return {"message": message, "code": code, "param": param}


def _variable(text: str) -> str | None:
    found = _VARIABLE.search(text)
    return found.group(1) if found else None
