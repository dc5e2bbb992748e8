"""The gateway as an ASGI app: routing, authentication, limits, headers, drain."""

from __future__ import annotations

from typing import Any

from toolorch_serving.gateway.state import GatewayState

# Wiring to come, as the parts appear in the tree:
#   runner.py       build_runner(config: OrchestratorConfig, state: GatewayState) -> Runner
#   completions.py  completions_routes(state) -> APIRouter      POST /v1/chat/completions (model is an orchestrator)
#   chat.py         chat_routes(state) -> APIRouter             POST /api/chat/orchestrator/stream
#   proxy/          CapturingProxy, and build_proxy(state) -> Proxy
#   web/            page_routes() -> APIRouter
# A request to /v1/chat/completions or /v1/completions has been authenticated (role chat, model allowed), and admitted:
# scope[keys.CALLER] is its Caller and scope[limits.PERMIT] its Permit, closed by the app when the request ends.


class Gateway:
    """Outermost ASGI callable."""

    def __init__(self, state: GatewayState) -> None:
        self.state = state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        raise NotImplementedError
