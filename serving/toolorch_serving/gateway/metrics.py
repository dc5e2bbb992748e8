"""What Prometheus reads: requests, runs, calls, dollars, seconds, tokens, routing shares and capture losses."""

from __future__ import annotations

from collections.abc import Iterable

from toolorch_integrations.ledger import Call


class Metrics:
    """The gateway's figures, in a registry of their own. Safe across threads."""

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Args:
            route: The route's pattern, such as `/v1/traces/{id}`; never what the client wrote.
            status: HTTP status.
            seconds: Until its last byte.
        """

    def run_ended(self, orchestrator: str, status: str, calls: Iterable[Call], version: str = "") -> None:
        """Count a run of an orchestrator.

        Args:
            orchestrator: Its name.
            status: How it ended: answered, budget, error ...
            calls: Its ledger: policy, specialist and tool calls.
            version: Of the policy that answered.
        """

    def policy_call(self, model: str, status: int, seconds: float, input_tokens: int, output_tokens: int) -> None:
        """Count a call that the proxy passed on to the policy server.

        Args:
            model: That answered, as the server names it.
            status: HTTP status; 0: the server gave none.
            seconds: Until its last byte.
            input_tokens: 0 where not known.
            output_tokens: 0 where not known.
        """

    def exposition(self) -> bytes:
        """Return all figures in Prometheus's text format."""
        return b""
