"""What all routes of a gateway share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from toolorch_integrations.capture import CaptureSession
from toolorch_integrations.detached import DetachedRecorder
from toolorch_integrations.store import TraceStore
from toolorch_integrations.versions import VersionRouter
from toolorch_serving.gateway.config import GatewayConfig
from toolorch_serving.gateway.keys import Keyring
from toolorch_serving.gateway.limits import Limits
from toolorch_serving.gateway.metrics import Metrics
from toolorch_serving.gateway.policy_client import PolicyClient
from toolorch_serving.gateway.versions import Versions

if TYPE_CHECKING:
    from toolorch_serving.gateway.runner import Runner


class Proxy(Protocol):
    """Passes policy calls on to the policy server, and captures them."""

    async def __call__(self, scope: Any, receive: Any, send: Any, body: bytes) -> None:
        """Answer a request whose body has been read; its caller and permit stand in the scope."""
        ...


@dataclass
class GatewayState:
    """What all routes of a gateway share; routers are made by functions `xyz_routes(state)`.

    Attributes:
        config: The configuration.
        store: The trace store.
        session: Captures every run in the process.
        keys: Knows the callers.
        limits: Counts what they use.
        metrics: Counts everything.
        router: Says which policy version answers a conversation; for `RoutedChatPolicy` and `RoutedPolicyLLM`. Reading
            it never touches the database: a thread follows the record of promotions. None without [policy].
        runners: Orchestrators, by the name that clients ask for.
        wire: Recorder of the proxy's calls, whose writer is a process of its own; None without [policy].
        proxy: In front of the policy server; None without [policy].
        versions: Decisions about policy versions by hand, and their history.
        upstream: Asks the policy server what it serves; None without [policy].
        draining: Whether the gateway is about to end.
    """

    config: GatewayConfig
    store: TraceStore
    session: CaptureSession
    keys: Keyring
    limits: Limits
    metrics: Metrics
    router: VersionRouter | None = None
    runners: dict[str, Runner] = field(default_factory=dict)
    wire: DetachedRecorder | None = None
    proxy: Proxy | None = None
    versions: Versions | None = None
    upstream: PolicyClient | None = None
    draining: bool = False

    def flush(self, timeout: float) -> bool:
        """Wait until all that was captured so far is in the store; False when the time, in seconds, ran out."""
        done = self.session.flush(timeout)
        return (self.wire is None or self.wire.flush(timeout)) and done

    async def close(self) -> None:
        """Close what belongs to the event loop: the connections of proxy and runners."""
        for part in (self.proxy, *self.runners.values()):
            close = getattr(part, "close", None)
            if close is not None:
                await close()
