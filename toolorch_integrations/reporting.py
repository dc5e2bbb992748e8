"""What an orchestrator says of its runs to the traces that are taken of them, the same in both faces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from toolorch_integrations.entry import Price
from toolorch_integrations.events import Deferred, TraceAnnotated
from toolorch_integrations.run import Run


def annotation(trace_id: str, run: Run) -> Deferred:
    """Return what a run was asked to do it with: preferences, budget, and the catalogue as it sees it."""
    options = run.options.model_dump(mode="json")

    def annotated() -> TraceAnnotated:
        return TraceAnnotated(
            trace_id,
            preferences=options["preferences"],
            budget=options["budget"],
            catalog={"entries": run.view.snapshot()},
            metadata={"run_id": run.id},
        )

    return Deferred(trace_id, annotated)


@contextmanager
def asks_policy(price: Price) -> Iterator[None]:
    """Say that an orchestrator makes the model calls inside, and what the tokens cost where the model does not say."""
    token = _price.set(price)
    try:
        yield
    finally:
        _price.reset(token)


def policy_price() -> Price | None:
    """Return what an orchestrator pays for the model call that is made here; None where none of them makes it."""
    return _price.get()


_price: ContextVar[Price | None] = ContextVar("toolorch_policy_price", default=None)
