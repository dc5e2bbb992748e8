"""Who calls: API keys, their roles, and the dependency that routes ask for a caller with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import Request

from toolorch_serving.gateway.config import GatewayConfig, KeyConfig, Role

CALLER = "toolorch.caller"
"""Under which the caller stands in an ASGI scope."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Attributes:
        name: Of the key; `anonymous` where none is configured.
        roles: What the caller may do.
        models: Orchestrators and upstream models that may be asked; empty: all.
        requests_per_minute: None: no limit.
        dollars_per_day: None: no limit.
        expires: From when on the key is refused.
    """

    name: str
    roles: frozenset[Role]
    models: frozenset[str] = frozenset()
    requests_per_minute: float | None = None
    dollars_per_day: float | None = None
    expires: datetime | None = None

    def require(self, role: Role) -> None:
        """Raise ForbiddenError unless the caller has a role."""
        raise NotImplementedError

    def require_model(self, model: str) -> None:
        """Raise ForbiddenError unless the caller may ask a model or orchestrator."""
        raise NotImplementedError


class Keyring:
    """All keys of a configuration."""

    def __init__(self, config: GatewayConfig) -> None:
        raise NotImplementedError

    def identify(self, authorization: str | bytes | None) -> Caller:
        """Return who calls, from the `Authorization` header. Raises AuthError."""
        raise NotImplementedError


def caller(role: Role) -> Callable[..., Any]:
    """Return a dependency that gives the caller, and refuses one without the role.

    Example:
        >>> @router.get("/v1/traces")
        ... async def traces(who: Annotated[Caller, Depends(caller("read"))]): ...
    """
    raise NotImplementedError
