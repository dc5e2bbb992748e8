"""What the gateway refuses, and how it says so: OpenAI's error body, with the cause and the fix."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, ClassVar

from toolorch_integrations.errors import ToolorchError
from toolorch_serving.error_body import ErrorBody as ErrorBody
from toolorch_serving.error_body import error_body

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ConfigError(ToolorchError, ValueError):
    """The gateway's configuration cannot be used; the message names the field and the fix."""


class GatewayError(ToolorchError):
    """A request that the gateway does not serve.

    Attributes:
        status: HTTP status.
        kind: OpenAI's `type`.
        code: For programs, such as `rate_limit_exceeded`.
        param: Field at fault, if it is one.
        headers: To be sent with the answer.
    """

    status: ClassVar[int] = 400
    kind: ClassVar[str] = "invalid_request_error"
    code: ClassVar[str] = "invalid_request"

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, headers: Mapping[str, str] = {}
    ) -> None:
        super().__init__(message)
        self.param = param
        self.headers = dict(headers)
        self._code = code or self.code

    @property
    def body(self) -> dict[str, Any]:
        """The error as OpenAI writes it."""
        return error_body(str(self), self.kind, param=self.param, code=self._code)


class AuthError(GatewayError):
    """No key, a wrong one, or one that has expired."""

    status, kind, code = 401, "authentication_error", "invalid_api_key"


class ForbiddenError(GatewayError):
    """The key is right, and may not do this."""

    status, kind, code = 403, "permission_error", "forbidden"


class NotFoundError(GatewayError):
    """There is no such model, trace or path."""

    status, code = 404, "not_found"


class ConflictError(GatewayError):
    """It cannot be done in the state that things are in."""

    status, code = 409, "conflict"


class SlowBodyError(GatewayError):
    """The request's body did not come in time."""

    status, code = 408, "request_timeout"


class TooLargeError(GatewayError):
    """The request's body is over the limit."""

    status, code = 413, "request_too_large"


class LimitError(GatewayError):
    """The key has used up its requests of this minute, or its dollars of this day."""

    status, kind, code = 429, "rate_limit_error", "rate_limit_exceeded"


class UpstreamError(GatewayError):
    """The policy server, or the store, gave no usable answer."""

    status, kind, code = 502, "api_error", "upstream_error"


class UnavailableError(GatewayError):
    """The gateway is about to end, or what it needs is not there now; the same request may succeed later."""

    status, kind, code = 503, "api_error", "unavailable"


class TimeLimitError(GatewayError):
    """The request took longer than it may."""

    status, kind, code = 504, "api_error", "timeout"


class InternalError(GatewayError):
    """Something went wrong that nobody has thought of; the log has all of it."""

    status, kind, code = 500, "api_error", "internal_error"

    @classmethod
    def of(cls, error: Exception) -> InternalError:
        """Return what a client may know of an error: its kind, since its words may hold what is nobody's business."""
        return cls(f"the gateway failed ({type(error).__name__}); its log says where and why")


async def send_error(send: Send, error: GatewayError) -> None:
    """Answer a request with an error, over plain ASGI."""
    body = json.dumps(error.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
