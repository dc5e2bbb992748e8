"""Attention over a trie in chunks of queries, as an attention implementation of transformers.

It runs wherever PyTorch does, needs memory for one chunk, and has what TRL's kernel for packed rows refuses: attention
sinks, sliding windows and capped scores. Keys and values of a chunk are copied together and attended to by PyTorch's
own `scaled_dot_product_attention`; they are copied anew in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from toolorch_rl.packing.cpu_kernel import CpuKernel, apart, repeated, together
from toolorch_rl.packing.errors import PackingError
from toolorch_rl.packing.plan import TreePlan

NAME = "toolorch_tree"
"""What transformers knows it by: `model.set_attn_implementation(NAME)` after `register()`."""


def register() -> None:
    """Make the implementation known to transformers; more than once does no harm."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, tree_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)  # for forwards of unpacked rows


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    tree: TreePlan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend over packed rows where a plan is given as `tree`, else as the mask says (None: causally).

    Args and result are those of transformers' `AttentionInterface`: (batch, heads, tokens, size) in, (batch, tokens,
    heads, size) out.

    Raises:
        PackingError: Attention has dropout, or a bias that rows in a trie cannot have.
    """
    if dropout:
        raise PackingError(f"attention_dropout is {dropout:g}: set it to 0, packed rows are read without dropout")
    if kwargs.get("position_bias") is not None:
        raise PackingError(
            "the model adds a bias by distance, which tokens of a trie do not have: do not pack its rows"
        )
    # Under autocast norms and rotations leave queries and keys in single precision, and values are as they should be.
    query, key = query.to(value.dtype), key.to(value.dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    sinks = None if s_aux is None else s_aux.reshape(-1)
    if tree is None:
        mask = attention_mask
        if mask is None and query.shape[2] > 1:
            mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
            mask = mask.tril(key.shape[2] - query.shape[2])
        out = attend(query, key, value, mask, scale, sinks, softcap)
    else:
        tree.calls += 1
        out = _TreeAttention.apply(  # type: ignore[no-untyped-call]
            query, key, value, sinks, tree, scale, sliding_window, softcap
        )
    return out.transpose(1, 2).contiguous(), None


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    sinks: torch.Tensor | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Return attention of queries (batch, heads, Q, size) to keys and values (batch, key heads, K, size).

    `mask` is (Q, K) or (batch, 1, Q, K): `bool`, or what is added to the scores.
    """
    shared = query.shape[1] // key.shape[1]
    heads, keys, values = apart(query, shared), repeated(key, shared), repeated(value, shared)
    if mask is not None and mask.dim() == 4:
        mask = mask.repeat_interleave(shared, 0)
    if sinks is None and softcap is None:
        return together(scaled_dot_product_attention(heads, keys, values, attn_mask=mask, scale=scale), shared)
    scores = (heads @ keys.transpose(-1, -2)).float() * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if sinks is None:
        shares = scores.softmax(-1)
    else:
        # A sink takes its share of a query's attention and gives nothing for it.
        column = sinks.float().view(-1, shared).t().repeat(len(query), 1)[:, :, None, None]
        shares = torch.cat([scores, column.expand(*scores.shape[:3], 1)], dim=-1).softmax(-1)[..., :-1]
    return together(shares.to(values.dtype) @ values, shared)


class _TreeAttention(torch.autograd.Function):
    """Chunk after chunk forwards, and again backwards, with gradients added up by key."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        sinks: torch.Tensor | None,
        tree: TreePlan,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        if query.shape[0] != 1 or query.shape[2] != len(tree.packed):
            raise PackingError(f"{tuple(query.shape)} queries do not go with one trie of {len(tree.packed)} tokens")
        out = query.new_empty(*query.shape[:3], value.shape[-1])
        kernel = None if sinks is not None or softcap is not None else CpuKernel.of(query, value)
        for chunk in tree.chunks(window, query.dtype):
            part = slice(chunk.start, chunk.stop)
            given = (query[:, :, part], chunk.gather(key), chunk.gather(value))
            if kernel is not None:
                out[:, :, part] = kernel.forward(*given, chunk.bias, scale)
            else:
                out[:, :, part] = attend(*given, chunk.bias, scale, sinks, softcap)
        ctx.save_for_backward(query, key, value, sinks, None if kernel is None else out)
        ctx.settings = (tree, scale, window, softcap, kernel)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, sinks, out = ctx.saved_tensors
        tree, scale, window, softcap, kernel = ctx.settings
        by_query = torch.empty_like(query)
        # Keys of a prompt sum over many chunks: in single precision at least.
        wide = torch.promote_types(key.dtype, torch.float32)
        by_key, by_value = torch.zeros_like(key, dtype=wide), torch.zeros_like(value, dtype=wide)
        by_sink = None if sinks is None else torch.zeros_like(sinks, dtype=wide)
        for number, chunk in enumerate(tree.chunks(window, query.dtype)):
            part = slice(chunk.start, chunk.stop)
            given = (query[:, :, part], chunk.gather(key), chunk.gather(value))
            if kernel is not None:
                slopes = kernel.backward(number, grad[:, :, part], *given, out[:, :, part], chunk.bias, scale)
            else:
                slopes = _slopes(grad[:, :, part], given, chunk.bias, scale, sinks, softcap)
            by_query[:, :, part] = slopes[0]
            at = 0
            for start, stop in chunk.spans:
                by_key[:, :, start:stop] += slopes[1][:, :, at : at + stop - start]
                by_value[:, :, start:stop] += slopes[2][:, :, at : at + stop - start]
                at += stop - start
            if by_sink is not None:
                by_sink += slopes[3]
        by_sink = None if by_sink is None else by_sink.to(sinks.dtype)
        return by_query, by_key.to(key.dtype), by_value.to(value.dtype), by_sink, None, None, None, None


def _slopes(
    grad: torch.Tensor,
    given: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    bias: torch.Tensor,
    scale: float,
    sinks: torch.Tensor | None,
    softcap: float | None,
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of a chunk's queries, keys, values and sinks, from a forward made anew."""
    leaves = [one.detach().requires_grad_() for one in (*given, *([] if sinks is None else [sinks]))]
    with torch.enable_grad():
        out = attend(leaves[0], leaves[1], leaves[2], bias, scale, None if sinks is None else leaves[3], softcap)
    return torch.autograd.grad(out, leaves, grad)
