"""From a configuration to everything that a gateway needs, opened in order and closed in reverse."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from toolorch_integrations.capture import capture
from toolorch_integrations.detached import DetachedRecorder
from toolorch_integrations.errors import StoreError
from toolorch_integrations.spool import Spool
from toolorch_integrations.store import RetentionPolicy, RetentionSchedule, TraceStore
from toolorch_integrations.store.engine import parse_url
from toolorch_serving.gateway.answer import Scope
from toolorch_serving.gateway.config import GatewayConfig, PolicyConfig
from toolorch_serving.gateway.errors import ConfigError, UpstreamError
from toolorch_serving.gateway.keys import CALLER, Keyring
from toolorch_serving.gateway.limits import PERMIT, Limits
from toolorch_serving.gateway.metrics import Metrics
from toolorch_serving.gateway.orchestrators import make_runners
from toolorch_serving.gateway.periodic import Periodic
from toolorch_serving.gateway.policy_client import PolicyClient, policy_key
from toolorch_serving.gateway.proxy import CapturingProxy, Claims, Proxied, ProxySettings, Upstream
from toolorch_serving.gateway.state import GatewayState
from toolorch_serving.gateway.versions import Versions
from toolorch_serving.promotion.records import PromotionRecords

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
"""Between two exchanges of what keys have spent."""
FOLLOW_SECONDS = 2.0
"""Between two looks at the record of promotions."""
PURGE_SECONDS = 3_600.0
"""Between two purges of traces that are too old."""


def rehearse(config: GatewayConfig) -> None:
    """Make all that a gateway needs and no server is asked for: keys, catalogues, tools, apps. Nothing stays open.

    Raises:
        ConfigError: The gateway could not start with it; the message names the field and the fix.
    """
    Keyring(config)
    try:
        parse_url(config.store.url)
    except StoreError as error:
        raise ConfigError(f"store.url: {error}") from error
    if config.policy is not None:
        policy_key(config.policy)
    make_runners(config)


@contextmanager
def open_state(config: GatewayConfig, add: Callable[[GatewayState], None] | None = None) -> Iterator[GatewayState]:
    """Open what a gateway needs, and close it at the end, with all that was captured in the store or the spool.

    Args:
        config: The configuration, checked.
        add: Adds runners and proxy in place of those that the configuration asks for.

    Raises:
        ToolorchError: Something cannot be opened; the message names the field and the fix.
    """
    with ExitStack() as stack:
        store = stack.enter_context(TraceStore.open(config.store.url))
        keys = Keyring(config)
        # Eager: what a client has seen the end of is in a file, whatever kills the gateway then.
        spool = Spool(config.store.spool_folder, eager=True)
        session = stack.enter_context(capture(store, everywhere=True, spool=spool))
        limits = Limits(store)
        stack.enter_context(Periodic("spending", FLUSH_SECONDS, limits.flush, last=True))
        upstream, versions = _policy(config, store, stack)
        router = None if versions is None else versions.router
        if config.store.retention_days is not None:
            schedule = RetentionSchedule(store, RetentionPolicy(days=config.store.retention_days), PURGE_SECONDS)
            schedule.start()
            stack.callback(schedule.stop)
        wire = _wire_recorder(config, store, stack) if add is None else None
        metrics = Metrics(session, router, wire)
        state = GatewayState(
            config, store, session, keys, limits, metrics, router, wire=wire, versions=versions, upstream=upstream
        )
        (add or add_parts)(state)
        yield state


def _wire_recorder(config: GatewayConfig, store: TraceStore, stack: ExitStack) -> DetachedRecorder | None:
    if config.policy is None:
        return None
    recorder = DetachedRecorder(store, spool=config.store.spool_folder)
    stack.callback(recorder.close)
    return recorder


def add_parts(state: GatewayState) -> None:
    """Add the orchestrators and the proxy that the configuration asks for."""
    state.runners = make_runners(state.config, state.router)
    if state.config.policy is not None:
        state.proxy = _proxy(state, state.config.policy)


def _proxy(state: GatewayState, policy: PolicyConfig) -> CapturingProxy:
    settings = ProxySettings(
        policy=policy.model or (state.router.routes.current if state.router else ""),
        router=state.router,
        price=policy.price,
        key=policy_key(policy),
        # Where callers have no key of the gateway's, what they send is for the policy server.
        pass_key=state.keys.is_open,
    )

    def ended(scope: Scope, call: Proxied) -> None:
        scope[PERMIT].spent(call.dollars)
        state.metrics.policy_call(call.model, call.status, call.seconds, call.input_tokens, call.output_tokens)

    return CapturingProxy(
        Upstream(policy.url, policy.timeout),
        state.wire or state.session.recorder,
        settings,
        caller=lambda scope: str(scope[CALLER].name),
        ended=ended,
        claims=None if state.keys.is_open else Claims(state.store),
        pause=(lambda: 0.0) if state.wire is None else state.wire.pause,
    )


def _policy(config: GatewayConfig, store: TraceStore, stack: ExitStack) -> tuple[PolicyClient | None, Versions | None]:
    if config.policy is None:
        return None, None
    upstream = PolicyClient(config.policy)
    stack.callback(upstream.close)
    versions = Versions(PromotionRecords(store), upstream, config.policy.model or _first(upstream))
    stack.enter_context(Periodic("versions", FOLLOW_SECONDS, versions.refresh))
    return upstream, versions


def _first(upstream: PolicyClient) -> str:
    """Return the first model of the policy server."""
    try:
        names = upstream.names()
    except UpstreamError as error:
        raise ConfigError(f"policy.model is not given, and the server cannot be asked: {error}") from error
    if not names:
        raise ConfigError(f"policy.model is not given, and {upstream.config.url} serves nothing: give its name")
    return names[0]
