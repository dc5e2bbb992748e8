"""Log-probabilities of the trained tokens of packed rows, as if each row had been read by itself.

The output head is applied to the tokens that predict something, some at a time, so that no more than `LOGITS` of its
logits are in memory at once, in the backward pass too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.checkpoint import checkpoint

from toolorch_rl.packing.decoder import Decoder
from toolorch_rl.packing.errors import PackingError
from toolorch_rl.packing.models import Attention, attention_of
from toolorch_rl.packing.terms import Terms
from toolorch_rl.packing.trie import PackedRows

LOGITS = 1 << 27
"""Logits in memory at a time: half a GiB in single precision."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a model makes of the terms of packed rows; tensors are `float32` (M,), in the order of the terms.

    Attributes:
        logprobs: Of the labels; gradients flow through them.
        entropies: Of the distributions that the labels are drawn from, in nats; None where they were not asked for.
    """

    logprobs: torch.Tensor
    entropies: torch.Tensor | None


def logprobs_of(
    model: torch.nn.Module,
    packed: PackedRows,
    terms: Terms,
    *,
    temperature: float | None = None,
    entropy: bool = False,
    attention: Attention | str | None = None,
    logits: int = LOGITS,
) -> Scores:
    """Return the model's log-probabilities of the trained tokens.

    Args:
        model: A causal language model of transformers, bare or in PEFT's, DDP's or FSDP's wrapper; set up by
            `set_attention`.
        packed: The rows.
        terms: Their trained tokens.
        temperature: What logits are divided by; None takes that of each term.
        entropy: Whether entropies are wanted; gradients flow through them too.
        attention: `padded` reads every row by itself whatever the model is set up for; None takes the set-up.
        logits: How many logits may be in memory at a time.

    Raises:
        PackingError: A token is not in the model's vocabulary, a temperature is not above 0, or the model is not set
            up for packed rows.
    """
    way = attention_of(model) if attention is None else Attention(attention)
    decoder = Decoder(model, way)
    if int(packed.ids.max()) >= decoder.vocabulary:
        raise PackingError(
            f"token id {int(packed.ids.max())} is outside the model's {decoder.vocabulary}: the rows were sampled by "
            "a model with another tokenizer"
        )
    temperatures = terms.temperatures if temperature is None else np.full(len(terms), temperature, np.float32)
    if len(terms) and not temperatures.min() > 0:
        raise PackingError(f"temperature is {temperatures.min():g}: it must be above 0")
    lines, line_of, line_temperatures = _lines(terms.sources, temperatures)
    hidden = decoder(packed, lines)
    return _score(decoder, hidden, line_temperatures, line_of, terms.labels, entropy, logits)


def _lines(
    sources: npt.NDArray[np.int64], temperatures: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the distinct pairs of source and temperature (one line of logits each), and the line of each term."""
    kinds, kind = np.unique(temperatures, return_inverse=True)
    keys, line_of = np.unique(sources * max(len(kinds), 1) + kind, return_inverse=True)
    return keys // max(len(kinds), 1), line_of, kinds[keys % max(len(kinds), 1)]


def _score(
    decoder: Decoder,
    hidden: torch.Tensor,
    temperatures: npt.NDArray[np.float32],
    line_of: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    entropy: bool,
    logits: int,
) -> Scores:
    device = hidden.device
    order = np.argsort(line_of, kind="stable")
    step = max(logits // decoder.vocabulary, 1)
    edges = np.arange(0, len(temperatures), step)
    bounds = np.searchsorted(line_of[order], np.append(edges, len(temperatures))).tolist()
    parts = []
    for number, edge in enumerate(edges.tolist()):
        chosen = order[bounds[number] : bounds[number + 1]]
        arguments = (
            hidden[edge : edge + step],
            torch.as_tensor(temperatures[edge : edge + step], device=device),
            torch.as_tensor(line_of[chosen] - edge, device=device),
            torch.as_tensor(labels[chosen], device=device),
            entropy,
        )
        if len(edges) > 1 and torch.is_grad_enabled():
            parts.append(checkpoint(_part, decoder, *arguments, use_reentrant=False))
        else:
            parts.append(_part(decoder, *arguments))
    back = torch.as_tensor(np.argsort(order, kind="stable"), device=device)
    empty = hidden.new_zeros(0, dtype=torch.float32)
    logprobs = torch.cat([part[0] for part in parts])[back] if parts else empty
    entropies = torch.cat([part[1] for part in parts])[back] if parts and entropy else empty
    return Scores(logprobs, entropies if entropy else None)


def _part(
    decoder: Decoder,
    hidden: torch.Tensor,
    temperatures: torch.Tensor,
    lines: torch.Tensor,
    labels: torch.Tensor,
    entropy: bool,
) -> Any:
    logits = decoder.logits(hidden).float() / temperatures[:, None]
    norms = logits.logsumexp(-1)
    logprobs = logits[lines, labels] - norms[lines]
    if not entropy:
        return (logprobs,)
    entropies = norms - ((logits - norms[:, None]).exp() * logits).sum(-1)
    return logprobs, entropies[lines]
