"""What a model can do with packed rows, and setting it up for that."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch

from toolorch_rl.packing.attention import NAME, register
from toolorch_rl.packing.errors import PackingError


class Attention(StrEnum):
    """Ways to read packed rows."""

    CHUNKED = "chunked"
    """In chunks of queries, on any device; see `attention`."""
    FLEX = "flex"
    """FlexAttention with a block mask: compiled, for GPUs."""
    DENSE = "dense"
    """The model's own SDPA or eager attention with a mask of N x N: for short tries, and to check the others by."""
    PADDED = "padded"
    """Every row by itself, padded: for models that cannot share, and then nothing is saved."""


@dataclass(frozen=True, slots=True)
class Support:
    """What a model supports.

    Attributes:
        ways: In order of preference on the model's device; the last is always PADDED.
        reason: Why rows cannot share tokens; empty if they can.
    """

    ways: tuple[Attention, ...]
    reason: str = ""

    @property
    def shares(self) -> bool:
        """Whether tokens that rows have in common are forwarded once."""
        return self.ways[0] is not Attention.PADDED


def unwrapped(model: torch.nn.Module) -> Any:
    """Return the transformers model in its wrappers (PEFT's, DistributedDataParallel's, torch.compile's)."""
    from transformers import PreTrainedModel

    inner: Any = model
    while not isinstance(inner, PreTrainedModel):
        if hasattr(inner, "get_base_model"):
            inner = inner.get_base_model()
        elif isinstance(deeper := getattr(inner, "module", getattr(inner, "_orig_mod", None)), torch.nn.Module):
            inner = deeper
        else:
            raise PackingError(f"{type(model).__name__} holds no transformers model")
    return inner


def support(model: torch.nn.Module) -> Support:
    """Say how a model can read packed rows."""
    inner = unwrapped(model)
    if reason := _cannot_share(inner):
        return Support((Attention.PADDED,), reason)
    on_gpu = next(inner.parameters()).device.type != "cpu"
    ways = [Attention.CHUNKED] if inner._can_set_attn_implementation() else []
    if on_gpu and getattr(inner, "_supports_flex_attn", False):
        ways.insert(0, Attention.FLEX)
    ways.append(Attention.DENSE)
    return Support((*ways, Attention.PADDED))


_MISSING = {
    Attention.CHUNKED: "its attention does not go through transformers' AttentionInterface",
    Attention.FLEX: "it lacks FlexAttention, or it is on a CPU, where PyTorch has no backward pass of it",
}


def _cannot_share(model: Any) -> str:
    config = model.config.get_text_config()
    if getattr(config, "is_encoder_decoder", False):
        return "it has an encoder"
    kinds = set(getattr(config, "layer_types", None) or ())
    if others := sorted(kinds - {"full_attention", "sliding_attention"}):
        return f"its {' and '.join(others)} layers carry a state from token to token, which cannot branch"
    if getattr(model, "_is_stateful", False):
        return "it carries a state from token to token, which cannot branch"
    if getattr(config, "attention_chunk_size", None) or getattr(config, "alibi", False):
        return "its attention goes by where tokens stand in memory, not by their positions"
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return "it takes no position_ids"
    return ""


def set_attention(model: torch.nn.Module, attention: Attention | str | None = None) -> Attention:
    """Set a model up to read packed rows, for good: forwards of unpacked rows go on as before.

    Args:
        model: A causal language model of transformers, wrapped or not.
        attention: How; None takes the best that the model and its device support.

    Returns:
        How `logprobs_of` will read packed rows.

    Raises:
        PackingError: The model does not support it; the message says why and what it supports.
    """
    inner = unwrapped(model)
    found = support(model)
    way = found.ways[0] if attention is None else Attention(attention)
    if way not in found.ways:
        why = found.reason or _MISSING[way]
        raise PackingError(
            f"{type(inner).__name__} cannot read packed rows with {way.value} attention: {why}; "
            f"it supports {', '.join(found.ways)}"
        )
    if way is Attention.CHUNKED:
        register()
        inner.set_attn_implementation(NAME)
    elif way is Attention.FLEX:
        inner.set_attn_implementation("flex_attention")
    elif way is Attention.DENSE:
        inner.set_attn_implementation("sdpa" if getattr(inner, "_supports_sdpa", False) else "eager")
    return way


def attention_of(model: torch.nn.Module) -> Attention:
    """Return how a model is set up to read packed rows.

    Raises:
        PackingError: Its attention implementation cannot read them.
    """
    inner = unwrapped(model)
    if _cannot_share(inner):
        return Attention.PADDED
    name = inner.config.get_text_config()._attn_implementation
    known = {
        NAME: Attention.CHUNKED,
        "flex_attention": Attention.FLEX,
        "sdpa": Attention.DENSE,
        "eager": Attention.DENSE,
    }
    if name not in known:
        raise PackingError(f"{name} attention cannot read packed rows: call set_attention(model) first")
    return known[name]
