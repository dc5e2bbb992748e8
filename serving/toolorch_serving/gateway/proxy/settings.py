"""How a capturing proxy treats what passes through it."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolorch_integrations.entry import Price
from toolorch_integrations.versions import VersionRouter
from toolorch_serving.gateway.proxy.exchange import KEPT


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """How a capturing proxy treats what passes through it.

    Attributes:
        app: Name of the traces' app.
        policy: Model name whose conversations are routed among versions.
        router: Says which version answers a conversation; None: the one that was asked for.
        price: Of the policy's tokens.
        key: The policy server's own API key.
        pass_key: Whether the client's `Authorization` is for the policy server, where there is no `key`.
        exact: Whether to ask the server for token ids and log-probabilities.
        logprobs_mode: What its log-probabilities are of, as vLLM calls it.
        kept_bytes: Longest answer that is captured; longer ones pass, and their trace says so.
    """

    app: str = ""
    policy: str = ""
    router: VersionRouter | None = None
    price: Price = field(default_factory=Price)
    key: str | None = None
    pass_key: bool = True
    exact: bool = True
    logprobs_mode: str = "processed_logprobs"
    kept_bytes: int = KEPT
