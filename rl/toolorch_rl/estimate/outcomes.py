"""What is looked at before a policy is promoted: one figure a run for each metric, of logged and of live runs alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from toolorch_integrations.ledger import CallKind, CallStatus
from toolorch_integrations.safety import is_destructive
from toolorch_integrations.trace import Trace
from toolorch_rl.rewards.features import MADE, RunFeatures

HIGHER_IS_BETTER = {
    "reward": True,
    "solved": True,
    "dollars": False,
    "seconds": False,
    "format_errors": False,
    "destructive_calls": False,
}
"""The metrics, and which way they should go. `reward` is the scalar under the caller's preferences."""

_BROKEN = frozenset({CallStatus.UNKNOWN, CallStatus.MALFORMED})


def outcomes_of(trace: Trace, features: RunFeatures, reward: float) -> dict[str, float]:
    """Return a run's figures by metric; NaN where one is not known.

    Args:
        trace: The run.
        features: Of the run.
        reward: Its scalar reward.
    """
    return {
        "reward": reward,
        "solved": float(features.solved),
        "dollars": np.nan if features.dollars is None else features.dollars,
        "seconds": np.nan if features.seconds is None else features.seconds,
        "format_errors": float(_format_errors(trace)),
        "destructive_calls": float(_destructive_calls(trace)),
    }


def _format_errors(trace: Trace) -> int:
    """Count calls that name no entry or do not fit its schema, and calls that were not even JSON."""
    broken = sum(entry.call.status in _BROKEN for entry in trace.calls)
    return broken + sum(len(node.turn.invalid_tool_calls) for node in trace.graph.nodes if node.turn is not None)


def _destructive_calls(trace: Trace) -> int:
    """Count calls that were made, or that a person refused, of tools that change or spend something."""
    declared = dict(_declared(trace.catalog))
    return sum(
        is_destructive(entry.call.name, declared.get(entry.call.name))
        for entry in trace.calls
        if entry.call.kind is CallKind.TOOL and (entry.call.status in MADE or entry.call.status is CallStatus.REFUSED)
    )


def _declared(catalog: Any) -> Iterator[tuple[str, bool | None]]:
    for entry in (catalog or {}).get("entries") or () if isinstance(catalog, Mapping) else ():
        if isinstance(entry, Mapping) and "name" in entry:
            yield str(entry["name"]), entry.get("destructive")
