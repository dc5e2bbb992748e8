"""Which runs are left out of training, and why.

Filters are applied before rewards are normalised: a run that is dropped must not decide what counts as cheap. Only the
homogeneous filter, which needs rewards, comes after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from toolorch_integrations.events import TraceStatus
from toolorch_integrations.ledger import CallKind, CallStatus
from toolorch_integrations.reply import TOOL_CALL_MARKS
from toolorch_integrations.trace import Trace
from toolorch_rl.filtered import Dropped, Filtered
from toolorch_rl.quality import drop_faulty
from toolorch_rl.rewards.equations import Rewards
from toolorch_rl.rewards.presets import PAPER, Preset

EVALUATION = "evaluation"
"""App of runs on held-out tasks: not trained on unless asked for by name."""


def drop_unparsed(traces: Sequence[Trace]) -> Filtered[Trace]:
    """Drop runs with a policy call that did not parse as a call, or whose arguments did not fit (filter `format`)."""
    return _keep(traces, "format", _unparsed)


def drop_unanswered(traces: Sequence[Trace]) -> Filtered[Trace]:
    """Drop runs that did not end with an answer of their own (filter `output`)."""
    return _keep(traces, "output", _unanswered)


def drop_homogeneous(rewards: Rewards, settings: Preset = PAPER) -> Filtered[int]:
    """Drop groups whose rewards have a standard deviation under the preset's (filter `homogeneous`).

    Such a group's runs are all alike: their advantages would be noise. A group of one run always is.

    Returns:
        `kept` and `places` are rows of `rewards`.
    """
    number = int(rewards.groups.max()) + 1
    sizes = np.bincount(rewards.groups, minlength=number)
    mean = np.bincount(rewards.groups, rewards.scalars, number) / sizes
    std = np.sqrt(np.bincount(rewards.groups, (rewards.scalars - mean[rewards.groups]) ** 2, number) / sizes)
    alike = (std < settings.homogeneous_std)[rewards.groups]
    reason = f"the rewards of its group have a standard deviation under {settings.homogeneous_std:g}"
    kept = np.flatnonzero(~alike).tolist()
    dropped = [Dropped(rewards.runs[row].run, "homogeneous", reason) for row in np.flatnonzero(alike).tolist()]
    return Filtered(kept, kept, dropped)


FILTERS: Mapping[str, Callable[[Sequence[Trace]], Filtered[Trace]]] = {
    "format": drop_unparsed,
    "output": drop_unanswered,
    "quality": drop_faulty,
}
"""By the names that settings of training give them."""


def unknown_filter(names: Iterable[str]) -> str | None:
    """Return what is wrong with names of filters, in words, or None."""
    unknown = [name for name in names if name not in FILTERS]
    return f"there is no filter {unknown[0]!r}; choose among {', '.join(FILTERS)}" if unknown else None


def _keep(traces: Sequence[Trace], name: str, problem: Callable[[Trace], str | None]) -> Filtered[Trace]:
    found: Filtered[Trace] = Filtered([], [])
    for place, trace in enumerate(traces):
        reason = problem(trace)
        if reason is None:
            found.kept.append(trace)
            found.places.append(place)
        else:
            found.dropped.append(Dropped(trace.id, name, reason))
    return found


def _unparsed(trace: Trace) -> str | None:
    for node in trace.graph.nodes:
        if node.turn is None or not node.turn.is_policy:
            continue
        if node.turn.invalid_tool_calls:
            return "a tool call could not be parsed"
        content: Any = node.message.get("content")
        if isinstance(content, str) and any(mark in content for mark in TOOL_CALL_MARKS):
            return "a tool call was left in the text"
    for entry in trace.calls:
        if entry.call.status is CallStatus.MALFORMED:
            return "the arguments of a call did not fit"
    return None


_ENDS = {
    TraceStatus.RUNNING: "the run has not ended",
    TraceStatus.INTERRUPTED: "the run waits for a person, or its process died",
    TraceStatus.ERROR: "the run ended in an error",
    TraceStatus.BUDGET: "the budget ended before the policy answered",
}


def _unanswered(trace: Trace) -> str | None:
    if trace.status in _ENDS:
        return _ENDS[trace.status]
    if not trace.answer.strip():
        return "the answer is empty"
    if not any(call.kind is CallKind.POLICY and call.status is CallStatus.OK for call in trace.ledger()):
        return "the policy said nothing in it"
    return None
