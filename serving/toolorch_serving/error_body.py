"""How the servers of this package say what is wrong: the error body of OpenAI's servers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    """What is wrong, and where."""

    message: str
    type: str
    param: str | None = None
    code: str | int | None = None


class ErrorBody(BaseModel):
    """Body of every answer that is an error."""

    error: ErrorDetail


def error_body(message: str, kind: str, *, param: str | None = None, code: str | int | None = None) -> dict[str, Any]:
    """Return an error's body, which `ErrorBody` describes.

    Args:
        message: What is wrong, and what to do.
        kind: OpenAI's `type`, such as `invalid_request_error`.
        param: Field at fault, if it is one.
        code: For programs.
    """
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
