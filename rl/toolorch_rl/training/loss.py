"""The loss of a policy gradient on tokens that another version of the policy may have sampled."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Tokens:
    """The trained tokens of a batch, or of a part of it; all tensors have one entry a token.

    Attributes:
        logprobs: Under the policy that trains, with gradients, at the temperature of sampling.
        behaviour: Under the policy that sampled them.
        advantages: How much better than expected the run was that they belong to.
        weights: What they count; a rollout's sum to 1.
        entropy: Of the policy at these tokens, in nats, with gradients where the loss has an entropy term.
        reference: Under the policy that training began with; None without a divergence term.
    """

    logprobs: torch.Tensor
    behaviour: torch.Tensor
    advantages: torch.Tensor
    weights: torch.Tensor
    entropy: torch.Tensor
    reference: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class LossSettings:
    """How the loss is computed; see `TrainSettings`.

    Attributes:
        clip_low: A token under 1 minus this is not pushed down further.
        clip_high: A token over 1 plus this is not pushed up further.
        truncate: Greatest importance weight.
        entropy: Weight of the entropy.
        kl: Weight of the divergence from the reference.
        regression: Temperature of advantage-weighted regression; None: the policy gradient.
    """

    clip_low: float
    clip_high: float
    truncate: float
    entropy: float = 0.0
    kl: float = 0.0
    regression: float | None = None


def policy_loss(tokens: Tokens, settings: LossSettings) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss summed over weighted tokens, and sums for the log.

    With r the importance weight exp(logprobs - behaviour), the gradient is that of -min(r, truncate) A log p, which is
    the off-policy policy gradient with truncated weights (IMPALA, arXiv 1802.01561; CISPO, arXiv 2506.13585), and 0
    where PPO's clip (arXiv 1707.06347) cuts it off. The value is that of the surrogate, -min(r, truncate) A. With
    `regression` b it is that of -min(exp(A / b), truncate) log p instead, whatever r is: advantage-weighted regression
    (arXiv 1910.00177), whose optimum is the sampling policy times those weights. The
    divergence is estimated by exp(d) - d - 1 with d the reference's log-probability less the policy's. It
    is not weighted by r: where another policy sampled the tokens it is a mean under that policy, which is near the
    divergence only while the two are close.

    Returns:
        The loss, not yet divided by the number of rollouts; and by name the weighted sums of what the log shows, with
        `weight` the sum of the weights, `tokens` their number and `ratio_max` the greatest importance weight.
    """
    apart = tokens.logprobs - tokens.behaviour
    ratio = torch.exp(apart.detach().clamp(max=60.0))  # exp(60) is still a float; more would be infinite
    cut = ((tokens.advantages > 0) & (ratio > 1 + settings.clip_high)) | (
        (tokens.advantages < 0) & (ratio < 1 - settings.clip_low)
    )
    bounded = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    if settings.regression is None:
        weight = torch.where(cut, bounded, ratio.clamp(max=settings.truncate))
        slope = torch.where(cut, torch.zeros_like(weight), weight)
        # The value of the surrogate with the gradient of its log-probability form.
        surrogate = (weight + slope * (tokens.logprobs - tokens.logprobs.detach())) * tokens.advantages
    else:
        weight = torch.exp((tokens.advantages / settings.regression).clamp(max=60.0)).clamp(max=settings.truncate)
        surrogate = weight * tokens.logprobs
    loss = -(tokens.weights * surrogate).sum()
    if settings.entropy:  # else no gradient has to flow through it
        loss = loss - settings.entropy * (tokens.weights * tokens.entropy).sum()
    sums = {
        "weight": tokens.weights.sum(),
        "tokens": torch.tensor(float(len(ratio)), device=ratio.device),
        "ratio": (tokens.weights * ratio).sum(),
        "ratio_max": ratio.max() if len(ratio) else ratio.new_zeros(()),
        "clipped": (tokens.weights * cut).sum(),
        "truncated": (tokens.weights * (ratio > settings.truncate)).sum(),
        "entropy": (tokens.weights * tokens.entropy).sum(),
        "surrogate": (tokens.weights * surrogate).sum(),
        "behaviour_kl": (tokens.weights * (torch.exp(apart.clamp(max=60.0)) - apart - 1)).sum(),
    }
    if tokens.reference is not None:
        further = (tokens.reference - tokens.logprobs).clamp(max=60.0)
        divergence = torch.exp(further) - further - 1
        loss = loss + settings.kl * (tokens.weights * divergence).sum()
        sums["kl"] = (tokens.weights * divergence).sum()
    return loss, {name: value.detach() for name, value in sums.items()}
