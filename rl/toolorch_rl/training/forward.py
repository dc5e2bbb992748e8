"""The tokens of a share as the loss takes them."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch

from toolorch_rl.packing.forward import logprobs_of
from toolorch_rl.training.loss import Tokens
from toolorch_rl.training.shares import Share


def tokens_of(model: Any, share: Share, *, reference: torch.Tensor | None = None, entropy: bool = True) -> Tokens:
    """Forward a share; gradients flow through its log-probabilities and entropies.

    Args:
        model: Set up by `packing.set_attention`; in the wrapper that gradients are exchanged by.
        share: The rows.
        reference: Log-probabilities under the policy that training began with.
        entropy: Whether gradients flow through the entropies too, which costs memory.
    """
    scores = logprobs_of(model, share.packed, share.terms, entropy=entropy)
    entropies = torch.zeros_like(scores.logprobs) if scores.entropies is None else scores.entropies
    return Tokens(
        logprobs=scores.logprobs,
        behaviour=_tensor(share.terms.logprobs, scores.logprobs),
        advantages=_tensor(share.terms.advantages, scores.logprobs),
        weights=_tensor(share.terms.weights, scores.logprobs),
        entropy=entropies,
        reference=reference,
    )


def _tensor(values: npt.NDArray[Any], like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(values, device=like.device, dtype=torch.float32)
