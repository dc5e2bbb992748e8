"""Rows: captured runs as a trainer reads them, with the server's own ids and log-probabilities.

A trace is a message graph, and each path of it from a root to a leaf is a row. Paths share what they have in common:
a token that several rows hold is trained by the first of them only, so that each sampled token counts once. All trained
tokens of a rollout together weigh 1, however many rows it gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One path of a captured run; all arrays have one entry a token.

    Attributes:
        trace_id: The run.
        leaf: Index of the graph node at the path's end.
        ids: `uint32`, exactly what the server saw and sampled.
        trained: Whether this row trains the token: the policy sampled it, and no earlier row of the run has it.
        logprobs: `float32`, natural log-probabilities that the tokens were sampled with; NaN where nothing was sampled.
        temperatures: `float32`, of the call that sampled the token: log-probabilities are those of logits divided by
            it; 1 where nothing was sampled.
        nodes: `int32`, index of the graph node that holds the token: what advantages and credits are looked up by.
    """

    trace_id: str
    leaf: int
    ids: npt.NDArray[np.uint32]
    trained: npt.NDArray[np.bool_]
    logprobs: npt.NDArray[np.float32]
    temperatures: npt.NDArray[np.float32]
    nodes: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A captured run as rows.

    Attributes:
        trace_id: The run.
        rows: Its paths, in the order in which their leaves came.
        policy_versions: Names of the policies that sampled it, in order of appearance.
    """

    trace_id: str
    rows: tuple[Row, ...]
    policy_versions: tuple[str, ...]

    @property
    def trained_tokens(self) -> int:
        """How many tokens of the run are trained."""
        return sum(int(row.trained.sum()) for row in self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A row with what a policy gradient needs.

    Attributes:
        row: The row.
        advantages: `float32`, one entry a token; 0 where the row does not train.
        weights: `float32`, one entry a token: over all rows of a rollout they sum to 1; 0 where the row does not train.
    """

    row: Row
    advantages: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
