"""What an orchestrator says of its runs to the traces that are taken of them, the same in both faces."""

from __future__ import annotations

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
