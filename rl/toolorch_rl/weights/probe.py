"""Probes that tell whether a server answers with the weights that the trainer has.

The server samples after fixed prompts and says with what log-probabilities; the trainer computes those of the same
ids. They have to agree, and to have left the version before behind: a swap that did nothing, or left part of the old
weights in place, fails here. Log-probabilities of prompts would do with fewer requests, but with adapters enabled
vLLM 0.32 ends when such a request shares a batch with others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from toolorch_rl.weights.errors import ProbeError

Logprobs: TypeAlias = npt.NDArray[np.float64]
"""Natural log-probabilities at temperature 1."""

Reference: TypeAlias = Callable[[Sequence[Sequence[int]]], list[Logprobs]]
"""Computes, with the weights that are to be served, the log-probability of each id but the first of each sequence."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server sampled after a prompt.

    Attributes:
        ids: Prompt and sampled ids.
        logprobs: Of the sampled ids, as the server gave them.
    """

    ids: tuple[int, ...]
    logprobs: Logprobs


@dataclass(frozen=True, slots=True)
class Precision:
    """How well a server can agree with a trainer that computes in float32.

    Attributes:
        tolerance: Largest difference of log-probabilities that is allowed.
        noise: Differences below are not told from rounding.
    """

    tolerance: float
    noise: float


FLOAT32 = Precision(1e-3, 2e-5)
BFLOAT16 = Precision(0.3, 0.2)
"""Also for float16. A bfloat16 server was measured up to 0.19 away from the trainer."""


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
    """Fixed prompts of token ids, and how well server and trainer have to agree on what is sampled after them.

    Attributes:
        prompts: The ids.
        tokens: How many ids the server samples after each.
        precision: Of the server; the default suits float32 on both sides.
    """

    prompts: tuple[tuple[int, ...], ...]
    tokens: int = 16
    precision: Precision = FLOAT32

    @classmethod
    def random(cls, vocabulary: int, *, prompts: int = 4, length: int = 48, seed: int = 0) -> Probe:
        """Return a probe of random ids below `vocabulary`, always the same ones."""
        ids = np.random.default_rng(seed).integers(0, vocabulary, (prompts, length))
        return cls(tuple(tuple(row) for row in ids.tolist()))

    def compare(self, now: Sequence[Answer], before: Sequence[Answer], reference: Reference) -> ProbeResult:
        """Judge what a server answers after a swap.

        Args:
            now: What it answers.
            before: What it answered with the version before.
            reference: The trainer's model.

        Raises:
            ProbeError: The server does not answer with the trainer's weights.
        """
        error, moved = (distance(answers, reference) for answers in (now, before))
        tolerance, noise = self.precision.tolerance, self.precision.noise
        told_apart = moved > noise
        same_ids = [answer.ids for answer in now] == [answer.ids for answer in before]
        if told_apart and same_ids and _largest(_joined(now), _joined(before)) <= min(noise, moved / 2):
            raise ProbeError(
                "the server still answers with the weights from before: its log-probabilities are the same as then, "
                f"and the trainer's have moved by {moved:.2g}"
            )
        if not error <= tolerance or (told_apart and error > max(moved / 2, noise)):
            raise ProbeError(
                f"the server does not answer with the weights that were published: its log-probabilities differ by "
                f"{error:.2g} from the trainer's (allowed: {tolerance:.2g}), which have moved by {moved:.2g}"
            )
        return ProbeResult(error, moved, told_apart)


def distance(answers: Sequence[Answer], reference: Reference) -> float:
    """Return the largest difference between the log-probabilities that a server gave and those of a trainer's model."""
    return _largest(_joined(answers), _wanted(answers, reference))


def _joined(answers: Sequence[Answer]) -> Logprobs:
    return np.concatenate([answer.logprobs for answer in answers])


def _wanted(answers: Sequence[Answer], reference: Reference) -> Logprobs:
    computed = reference([answer.ids for answer in answers])
    return np.concatenate([values[-len(answer.logprobs) :] for values, answer in zip(computed, answers, strict=True)])


def _largest(left: Logprobs, right: Logprobs) -> float:
    return float(np.abs(left - right).max())
