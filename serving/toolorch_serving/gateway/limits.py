"""What a key may use: requests a minute, and dollars a day."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolorch_serving.gateway.keys import Caller

if TYPE_CHECKING:
    from toolorch_integrations.store import TraceStore

PERMIT = "toolorch.permit"
"""Under which the permit stands in the ASGI scope of a request to /v1/chat/completions or /v1/completions."""


class Permit:
    """Leave to make one request, and the place to report what it cost. A context manager; safe across threads."""

    def dollars_left(self) -> float | None:
        """Return what the caller may still spend today, less what is reserved; None: no limit."""
        raise NotImplementedError

    def reserve(self, dollars: float) -> None:
        """Hold back the most that the request may cost, until the permit is closed."""
        raise NotImplementedError

    def spent(self, dollars: float) -> None:
        """Count what was spent; may be called again and again."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what was reserved."""
        raise NotImplementedError


class Limits:
    """Counts requests in this process, and dollars in the store's database for all gateways on it."""

    def __init__(self, store: TraceStore) -> None:
        raise NotImplementedError

    def admit(self, caller: Caller) -> Permit:
        """Count a request. Raises LimitError, with Retry-After, when a limit is reached."""
        raise NotImplementedError
