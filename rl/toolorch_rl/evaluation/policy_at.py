"""A served policy, as an evaluation asks it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from toolorch_integrations.entry import Endpoint, Price

RETRIES = 2
"""Further tries of a policy call that failed in a way that may pass."""


@dataclass(frozen=True)
class PolicyAt:
    """A policy that is served, and how it is asked.

    Attributes:
        endpoint: Where, with temperature and longest reply.
        price: What its tokens cost.
        exact: Ask for token ids and log-probabilities; False for endpoints that refuse these.
    """

    endpoint: Endpoint
    price: Price = field(default_factory=Price)
    exact: bool = True

    def fields(self) -> dict[str, Any]:
        """Return what both faces' policies are made with alike."""
        endpoint = self.endpoint
        given = {"temperature": endpoint.temperature, "default_headers": dict(endpoint.headers) or None}
        return {
            "model": endpoint.model,
            "api_key": endpoint.key() or "none",
            "timeout": endpoint.timeout,
            "max_retries": RETRIES,
            "max_tokens": endpoint.max_tokens,
            "price": self.price,
            "exact": self.exact,
            **{name: value for name, value in given.items() if value is not None},
        }
