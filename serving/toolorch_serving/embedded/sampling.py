"""Turn logits into one token and the log-probabilities of the distribution that it was really drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sampling:
    """How one request is sampled. The defaults are those of vLLM."""

    max_tokens: int
    """Most tokens to write."""
    temperature: float = 1.0
    """0 is greedy, and then `top_p` and `top_k` do not matter."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with this much probability."""
    top_k: int = 0
    """Keep this many tokens; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Over 1 makes tokens of the prompt and of the answer less likely."""
    seed: int | None = None
    """The same seed, prompt and policy give the same tokens."""
    top_logprobs: int = 0
    """How many of the likeliest tokens to report at each position."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer."""
    include_stop: bool = False
    """Whether the stop text stays in the answer."""
    ignore_eos: bool = False
    """Whether to write on to `max_tokens` even after an end token."""


@dataclass(frozen=True)
class Sampled:
    """One token and how likely it was."""

    token: int
    logprob: float
    """Natural logarithm, under the processed distribution (after temperature, top_k and top_p)."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens with their log-probabilities, best first."""


def sample(logits: torch.Tensor, sampling: Sampling, seen: Sequence[int], generator: torch.Generator | None) -> Sampled:
    """Draw one token from `logits` (one row, any float type).

    Args:
        logits: The model's output at the last position, of shape (vocabulary,).
        sampling: The request's settings.
        seen: Prompt and answer so far, for the repetition penalty.
        generator: The request's own random state; None draws from the process's.
    """
    logits = logits.float()
    if sampling.repetition_penalty != 1.0:
        logits = _penalised(logits, seen, sampling.repetition_penalty)
    if sampling.temperature > 0:
        logits = _truncated(logits / sampling.temperature, sampling.top_k, sampling.top_p)
    logprobs = torch.log_softmax(logits, dim=-1)
    if sampling.temperature > 0:
        token = int(torch.multinomial(logprobs.exp(), 1, generator=generator))
    else:
        token = int(logprobs.argmax())
    top: tuple[tuple[int, float], ...] = ()
    if sampling.top_logprobs:
        values, ids = logprobs.topk(min(sampling.top_logprobs, logprobs.numel()))
        top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return Sampled(token, float(logprobs[token]), top)


def _penalised(logits: torch.Tensor, seen: Sequence[int], penalty: float) -> torch.Tensor:
    ids = torch.tensor(sorted(set(seen)), device=logits.device)
    values = logits[ids]
    return logits.scatter(0, ids, torch.where(values > 0, values / penalty, values * penalty))


def _truncated(logits: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    if 0 < top_k < logits.numel():
        smallest = logits.topk(top_k).values[-1]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    if top_p < 1.0:
        ordered, ids = logits.sort()
        dropped = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        dropped[-1] = False
        logits = logits.masked_fill(dropped.scatter(0, ids, dropped), float("-inf"))
    return logits
