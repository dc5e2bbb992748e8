"""Parameters that a caller sets for all policy calls of a context, whatever the app was built with.

A rollout is the user's own app, built before anybody thought of training. What differs from run to run - which version
of the policy answers, with which seed and temperature - is set around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_overrides: ContextVar[tuple[str | None, Mapping[str, Any]] | None] = ContextVar("toolorch_overrides", default=None)


@contextmanager
def policy_overrides(url: str | None = None, **parameters: Any) -> Iterator[None]:
    """Set request parameters such as `model`, `seed` and `temperature` for the policy calls inside of the block.

    It follows the context: tasks and threads with a copied context belong to it. An inner block takes the place of an
    outer one.

    Args:
        url: Only for calls of this endpoint, `/v1` included, so that specialists which happen to be called through the
            same classes are left alone; None: all.
        parameters: By the names of OpenAI's chat completions.

    Example:
        >>> with policy_overrides(model="policy-v3", seed=7):
        ...     agent.invoke({"messages": [("user", "...")]})
    """
    token = _overrides.set((url.rstrip("/") if url else None, parameters))
    try:
        yield
    finally:
        _overrides.reset(token)


def overrides_for(url: str | None) -> Mapping[str, Any]:
    """Return what is set here and now for an endpoint."""
    found = _overrides.get()
    if found is None or (found[0] is not None and found[0] != (url or "").rstrip("/")):
        return {}
    return found[1]
