"""What a run was made for: which runs are compared with each other, and which are held back from training."""

from __future__ import annotations

from toolorch_integrations.plain import content_hash
from toolorch_integrations.trace import Trace
from toolorch_rl.filters import EVALUATION
from toolorch_rl.training.settings import TrainSettings


def task_of(trace: Trace, settings: TrainSettings) -> str:
    """Return which runs a run is compared with: those of its task whose caller had the same preferences.

    Preferences are part of what counts as good.
    """
    return f"{task_name(trace, settings.group_by)} {content_hash([trace.preferences])}"


def task_name(trace: Trace, group_by: str | None = None) -> str:
    """Return what a run was made for: a name in its metadata, or else a hash of what the user had said.

    Args:
        trace: The run.
        group_by: Key of the metadata; None: `task`.
    """
    name = trace.metadata.get(group_by or "task")
    return _said(trace) if name is None else str(name)


def task_names(trace: Trace, group_by: str | None = None) -> set[str]:
    """Return all names by which a run's task may be known: its own, and what runs go by that carry no name.

    A task has a name where it is trained on or evaluated, and none where the app's own users bring it.
    """
    return {task_name(trace, group_by), _said(trace)}


def is_held_back(task: str, share: float) -> bool:
    """Return whether a task is among the share that is held back: always the same ones, and more of a larger share."""
    return int(content_hash(["held back", task])[:13], 16) < share * 16**13


def withheld(trace: Trace, settings: TrainSettings) -> str | None:
    """Return why a run is kept from training, so that it can be evidence of what came of it; None where it is not."""
    if trace.app == EVALUATION != settings.app:
        return f"held out: made by an evaluation (app {EVALUATION!r})"
    if settings.held_back and is_held_back(task_name(trace, settings.group_by), settings.held_back):
        return "held back for an estimate (held_back)"
    return None


def _said(trace: Trace) -> str:
    """Return a hash of what the user had said before the policy said anything."""
    first = next((node.index for node in trace.graph.nodes if node.sampled), None)
    said = trace.graph.messages_to(first)[:-1] if first is not None else []
    return content_hash([trace.request, [message for message in said if message.get("role") != "system"]])
