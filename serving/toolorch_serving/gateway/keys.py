"""Who calls: API keys, their roles, and the dependency that routes ask for a caller with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from toolorch_serving.gateway.config import ROLES, GatewayConfig, KeyConfig, Role
from toolorch_serving.gateway.errors import AuthError, ConfigError, ForbiddenError

CALLER = "toolorch.caller"
"""Under which the caller stands in an ASGI scope."""

_CHALLENGE = {"WWW-Authenticate": "Bearer"}


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
        is_anonymous: There is no key.
    """

    name: str
    roles: frozenset[Role]
    models: frozenset[str] = frozenset()
    requests_per_minute: float | None = None
    dollars_per_day: float | None = None
    expires: datetime | None = None
    is_anonymous: bool = False

    @property
    def owner(self) -> str:
        """Whose the caller's conversations are: the key's name; empty without keys, as all are one owner then."""
        return "" if self.is_anonymous else self.name

    def require(self, role: Role) -> None:
        """Refuse a caller without a role.

        Raises:
            ForbiddenError: The caller lacks it.
        """
        if role not in self.roles:
            has = ", ".join(sorted(self.roles)) or "none"
            raise ForbiddenError(f"this needs the role {role}, and caller {self.name!r} has {has}: use another key")

    def may_ask(self, model: str) -> bool:
        """Whether the caller may ask a model or orchestrator."""
        return not self.models or model in self.models

    def require_model(self, model: str) -> None:
        """Refuse a caller who may not ask a model or orchestrator.

        Raises:
            ForbiddenError: The caller may ask others only.
        """
        if not self.may_ask(model):
            allowed = ", ".join(sorted(self.models))
            raise ForbiddenError(f"caller {self.name!r} may not ask {model!r}; allowed are {allowed}", param="model")


class Keyring:
    """All keys of a configuration.

    Raises:
        ConfigError: A variable is not set, or two entries have the same key.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self._callers: dict[bytes, Caller] = {}
        for index, key in enumerate(config.keys):
            digest = _digest(key, f"keys.{index} ({key.name})")
            if digest in self._callers:
                raise ConfigError(f"keys.{index} ({key.name}) is the same key as {self._callers[digest].name}'s")
            self._callers[digest] = _caller(key)
        # An open gateway on loopback stands behind a proxy of its owner's own: whoever comes through it is anybody.
        server = config.server
        roles = ROLES if server.is_loopback and not server.open else server.open_roles
        self._anonymous = None if self._callers else Caller("anonymous", frozenset(roles), is_anonymous=True)

    @property
    def is_open(self) -> bool:
        """Whether callers need no key."""
        return self._anonymous is not None

    def identify(self, authorization: str | bytes | None) -> Caller:
        """Return who calls.

        Args:
            authorization: The header's value.

        Raises:
            AuthError: There is no key, it is wrong, or it has expired.
        """
        if self._anonymous is not None:
            return self._anonymous
        header = authorization.encode("latin-1", "replace") if isinstance(authorization, str) else authorization or b""
        scheme, _, key = header.partition(b" ")
        if scheme.lower() != b"bearer" or not key.strip():
            raise AuthError("an API key is needed: send the header Authorization: Bearer KEY", headers=_CHALLENGE)
        # A digest is looked up, never the key: what a clock could tell of digests says nothing of any key.
        found = self._callers.get(hashlib.sha256(key.strip()).digest())
        if found is None:
            raise AuthError("the API key is wrong, or was taken back: ask for another", headers=_CHALLENGE)
        if found.expires is not None and datetime.now(UTC) >= found.expires:
            raise AuthError(
                f"the API key of {found.name!r} expired on {found.expires:%Y-%m-%d %H:%M} UTC: ask for another",
                code="expired_api_key",
                headers=_CHALLENGE,
            )
        return found


_bearer = HTTPBearer(auto_error=False, description="An API key, where keys are configured.")


def caller(role: Role) -> Callable[..., Awaitable[Caller]]:
    """Return a dependency that gives the caller, and refuses one without the role.

    Example:
        >>> @router.get("/v1/traces")  # doctest: +SKIP
        ... async def traces(who: Annotated[Caller, Depends(caller("read"))]): ...
    """

    async def dependency(
        request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
    ) -> Caller:
        found: Caller | None = request.scope.get(CALLER)
        if found is None:
            found = request.app.state.gateway.keys.identify(request.headers.get("authorization"))
        found.require(role)
        return found

    return dependency


def _digest(key: KeyConfig, where: str) -> bytes:
    if key.sha256 is not None:
        return bytes.fromhex(key.sha256)
    secret = os.environ.get(key.variable or "", "").strip()
    if not secret:
        raise ConfigError(f"{where}.variable: the environment variable {key.variable} is not set: export the key in it")
    return hashlib.sha256(secret.encode()).digest()


def _caller(key: KeyConfig) -> Caller:
    return Caller(
        key.name, frozenset(key.roles), frozenset(key.models), key.requests_per_minute, key.dollars_per_day, key.expires
    )
