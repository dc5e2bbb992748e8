"""From rollouts to examples: what each token earned, and how much it weighs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from toolorch_integrations.errors import ToolorchError
from toolorch_rl.rows import Example, Rollout


class ExampleError(ToolorchError, ValueError):
    """Rollouts and what they earned do not go together."""


def examples_of(
    rollouts: Iterable[Rollout],
    advantages: Mapping[str, float],
    credit: Mapping[str, Mapping[int | None, float]] | None = None,
) -> list[Example]:
    """Return the examples of rollouts, row by row.

    A trained token weighs 1 by the trained tokens of its rollout, in whichever row it stands.

    Args:
        rollouts: The runs.
        advantages: Of each run, by trace id.
        credit: What the tokens of a graph node get on top, in the units of the advantages: by trace id and node index,
            as `rewards.RunCredit.by_node` gives them (scaled by the caller). What stands under None, calls that no
            node is known to have asked for, goes to all trained tokens of the run.

    Raises:
        ExampleError: A run has no advantage, one that is not a number, or trains nothing; or a credit names a node
            that no trained token of the run belongs to.
    """
    examples = []
    for rollout in rollouts:
        base = advantages.get(rollout.trace_id)
        if base is None or not math.isfinite(base):
            raise ExampleError(f"the advantage of trace {rollout.trace_id} is {base}: it must be a number")
        if not (number := rollout.trained_tokens):
            raise ExampleError(f"trace {rollout.trace_id} trains no token: leave it out")
        table = _table(rollout, base, (credit or {}).get(rollout.trace_id) or {})
        for row in rollout.rows:
            earned = np.where(row.trained, table[row.nodes], np.float32(0.0))
            examples.append(Example(row, earned, row.trained * np.float32(1.0 / number)))
    return examples


def _table(
    rollout: Rollout, base: float, extra: Mapping[int | None, float]
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return the advantage of each node's tokens."""
    size = 1 + max(int(row.nodes.max()) for row in rollout.rows)
    table = np.full(size, base + extra.get(None, 0.0), np.float32)
    if len(extra) > (None in extra):
        known = set(np.unique(np.concatenate([row.nodes[row.trained] for row in rollout.rows])).tolist())
        for node, value in extra.items():
            if node is None:
                continue
            if value and node not in known:
                raise ExampleError(f"trace {rollout.trace_id} gets {value:g} for node {node}, which trains no token")
            if node in known:
                table[node] += value
    if not np.isfinite(table).all():
        raise ExampleError(f"the credits of trace {rollout.trace_id} are not all numbers: {dict(extra)}")
    return table
