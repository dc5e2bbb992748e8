"""What a client asks of an orchestrator, and what of it cannot be served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from toolorch_integrations.budget import Budget
from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import Price
from toolorch_integrations.errors import CatalogError
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.view import CatalogFilter
from toolorch_serving.gateway.errors import GatewayError


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What a client asks of an orchestrator.

    Attributes:
        messages: In OpenAI's format with plain text, the user's newest the last. In a conversation that the gateway
            knows, those before it are left out.
        thread_id: The conversation; empty begins one.
        owner: Name of the caller's API key, empty where the gateway has none: nobody else goes on with the
            conversation.
        preferences: None takes the orchestrator's.
        budget: Its limits hold beside those that the orchestrator sets; of two the stricter.
        changes: What is hidden, renamed, re-priced or shortlisted, besides what the orchestrator hides.
        sampling: `temperature`, `max_tokens` and others, by the names of OpenAI's chat completions.
        decisions: By call id, for a run that has stopped for a person; it goes on with the options that it has.
    """

    messages: Sequence[Mapping[str, Any]] = ()
    thread_id: str = ""
    owner: str = ""
    preferences: Preferences | None = None
    budget: Budget | None = None
    changes: CatalogFilter | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    decisions: Mapping[str, bool] | None = None


def check(request: RunRequest, catalog: Catalog, own: CatalogFilter, context: Mapping[str, Any], name: str) -> None:
    """Refuse a request that an orchestrator cannot serve.

    Args:
        request: The request.
        catalog: What the orchestrator may call.
        own: What it changes about that by itself.
        context: What the framework will be given.
        name: Of the orchestrator.

    Raises:
        GatewayError: The message names the field and the fix.
    """
    if not request.messages or request.messages[-1]["role"] != "user":
        raise GatewayError("messages must end with a message of the user, which says what to do.", param="messages")
    if not str(request.messages[-1]["content"]).strip():
        raise GatewayError("The user's last message is empty: say what to do.", param="messages")
    for index, message in enumerate(request.messages):
        try:
            str(message["content"]).encode()
        except UnicodeEncodeError as error:
            raise GatewayError(
                f"messages.{index} is not Unicode text: {error}. Send whole characters.",
                param=f"messages.{index}.content",
            ) from error
    for key, value in context.items():
        try:
            orjson.dumps(value.model_dump(mode="json"))
        except (TypeError, ValueError) as error:  # half characters, numbers of more than 64 bits
            field = "changes" if key == "catalog" else key
            raise GatewayError(f"{field} holds what cannot be stored: {error}.", param=field) from error
    if request.changes is not None:
        try:
            catalog.view(context["catalog"])
        except CatalogError as error:
            raise GatewayError(f"changes: {error}", param="changes") from error
        _check_prices(request.changes.prices, catalog, own, name)
    known = {entry.name for entry in catalog}
    unknown = sorted(set(request.preferences.tools) - known) if request.preferences is not None else []
    if unknown:
        raise GatewayError(
            f"preferences.tools names {unknown[0]!r}, which {name} does not have: {sorted(known)}.",
            param="preferences.tools",
        )


def _check_prices(wanted: Mapping[str, Price], catalog: Catalog, own: CatalogFilter, name: str) -> None:
    """Refuse prices below those that count: the budget, and what an API key has spent, go by them."""
    for entry, price in wanted.items():
        charged = own.prices.get(entry, catalog[entry].price)
        if price.input < charged.input or price.output < charged.output or price.call < charged.call:
            raise GatewayError(
                f"changes.prices.{entry} is below what {name} charges ({charged.sentence()}): raise it, or leave it "
                "out.",
                param="changes.prices",
            )
