"""When a run stands still: between the end of one run of its graph and the resume of the same thread.

LangGraph stops a graph in many ways: `interrupt` in a tool or a middleware, `interrupt_before`, a drained server. In
each the caller's call returns, and another one goes on with the run. What lies between them is nobody's working time.
"""

from __future__ import annotations

import threading
import time

from langgraph.runtime import get_runtime

from toolorch_integrations.budget import Account
from toolorch_integrations.run import Run
from toolorch_integrations.steps import Outcome, Steps


class Pauses:
    """Tells a run's account how long it stood still. One for each run in this process."""

    def __init__(self) -> None:
        self._graph_run: object = self
        """What is one for each run of a graph, its subgraphs included; to begin with something that no run has."""
        self._worked = 0.0
        """Epoch seconds of the end of the newest step."""
        self._lock = threading.Lock()

    def step_begins(self, account: Account, updated: float) -> None:
        """Count the time since the last sign of life, if this step is the first of a run of the graph.

        Args:
            account: The run's.
            updated: Epoch seconds of the last sign of life that the agent's state knows of, from whichever process.
        """
        graph_run = get_runtime().control
        with self._lock:
            if graph_run is not self._graph_run:
                self._graph_run = graph_run
                account.stood_still(max(updated, self._worked))

    def step_ended(self) -> None:
        """Take note of a sign of life."""
        self._worked = time.time()


def pauses_of(run: Run) -> Pauses:
    """Return what knows of a run's pauses."""
    pauses: Pauses | None = run.framework_data.get("pauses")
    return pauses or run.framework_data.setdefault("pauses", Pauses())  # calls of one turn begin side by side


def noted(run: Run, steps: Steps[Outcome]) -> Steps[Outcome]:
    """Do steps of a run, and take note of their end."""
    try:
        return (yield from steps)
    finally:
        pauses_of(run).step_ended()
