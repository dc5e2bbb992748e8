"""Probes that tell whether a server answers with the weights that the trainer has.

Both compute the log-probabilities of the same token ids. The server's have to be those of the trainer, and to have
left the old version behind. A swap that did nothing, or left part of the old weights in place, fails here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from toolorch_rl.weights.errors import ProbeError

Logprobs: TypeAlias = npt.NDArray[np.float64]
"""Natural log-probabilities at temperature 1 of all tokens but the first of each sequence, joined."""

Reference: TypeAlias = Callable[[Sequence[Sequence[int]]], Logprobs]
"""Computes the log-probabilities of sequences of ids with the weights that are to be served."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        error: Largest difference between the server and the trainer.
        moved: Largest difference between the trainer and what the server said with the version before.
        told_apart: Whether `moved` is more than noise. False: old and new weights are as good as the same.
    """

    error: float
    moved: float
    told_apart: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """Fixed sequences of token ids, and how well server and trainer have to agree on them.

    Attributes:
        sequences: The ids.
        tolerance: Largest difference that is allowed. The default suits float32 on both sides; a bfloat16 server
            was measured up to 0.19 away.
        noise: Differences below are not told from rounding; 0.2 for bfloat16.
    """

    sequences: tuple[tuple[int, ...], ...]
    tolerance: float = 1e-3
    noise: float = 2e-5

    @classmethod
    def random(cls, vocabulary: int, *, sequences: int = 4, length: int = 48, seed: int = 0) -> Probe:
        """Return a probe of random ids below `vocabulary`, always the same ones."""
        ids = np.random.default_rng(seed).integers(0, vocabulary, (sequences, length))
        return cls(tuple(tuple(row) for row in ids.tolist()))

    def compare(self, answered: Logprobs, reference: Logprobs, before: Logprobs) -> ProbeResult:
        """Judge what a server answers after a swap.

        Args:
            answered: By the server, now.
            reference: By the trainer's model.
            before: By the server, with the version before.

        Raises:
            ProbeError: They are not the trainer's.
        """
        error, moved, left = (
            _largest(a, b) for a, b in ((answered, reference), (reference, before), (answered, before))
        )
        told_apart = moved > self.noise
        if told_apart and left <= min(self.noise, moved / 2):
            raise ProbeError(
                f"the server still answers with the weights from before: its log-probabilities have moved by "
                f"{left:.2g}, the trainer's by {moved:.2g}"
            )
        if not error <= self.tolerance or (told_apart and error > max(moved / 2, self.noise)):
            raise ProbeError(
                f"the server does not answer with the weights that were published: its log-probabilities differ by "
                f"{error:.2g} from the trainer's (allowed: {self.tolerance:.2g}; from the version before: {left:.2g})"
            )
        return ProbeResult(error, moved, told_apart)


def _largest(left: Logprobs, right: Logprobs) -> float:
    if left.shape != right.shape:
        raise ProbeError(f"{left.size} log-probabilities stand against {right.size}: the probe's ids were changed")
    return float(np.abs(left - right).max())
