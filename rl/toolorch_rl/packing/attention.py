"""Attention over a trie in chunks of queries, as an attention implementation of transformers.

It runs wherever PyTorch does, needs memory for one chunk, and has what TRL's kernel for packed rows refuses: attention
sinks, sliding windows and capped scores. Keys and values of a chunk are copied together, attended to by PyTorch's own
`scaled_dot_product_attention`, and made anew in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

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

    `mask` is `bool`, (Q, K) or (batch, 1, Q, K). Heads that share keys are laid side by side as queries, so that no
    key is copied.
    """
    batch, heads, number, size = query.shape
    shared = heads // key.shape[1]
    folded = query.reshape(batch, key.shape[1], shared * number, size)
    if mask is not None and shared > 1:
        mask = torch.cat([mask] * shared, dim=-2)
    if sinks is None and softcap is None:
        out = scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scale)
        return out.reshape(batch, heads, number, value.shape[-1])
    scores = (folded @ key.transpose(-1, -2)).float() * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    if sinks is not None:
        # A sink takes its share of a query's attention and gives nothing for it.
        column = sinks.float().view(1, -1, shared, 1, 1).expand(batch, -1, -1, number, 1)
        column = column.reshape(batch, key.shape[1], shared * number, 1)
        shares = torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1]
    else:
        shares = scores.softmax(-1)
    return (shares.to(value.dtype) @ value).reshape(batch, heads, number, value.shape[-1])


class _TreeAttention(torch.autograd.Function):
    """Chunk after chunk forwards; backwards each chunk again, with its gradients added up by key."""

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
        ctx.save_for_backward(query, key, value, sinks)
        ctx.settings = (tree, scale, window, softcap)
        out = query.new_empty(*query.shape[:3], value.shape[-1])
        for chunk in tree.chunks(window):
            part = slice(chunk.start, chunk.stop)
            keys, values = chunk.gather(key), chunk.gather(value)
            out[:, :, part] = attend(query[:, :, part], keys, values, chunk.mask, scale, sinks, softcap)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, sinks = ctx.saved_tensors
        tree, scale, window, softcap = ctx.settings
        by_query = torch.empty_like(query)
        # Keys of a prompt sum over many chunks: in single precision at least.
        wide = torch.promote_types(key.dtype, torch.float32)
        by_key, by_value = torch.zeros_like(key, dtype=wide), torch.zeros_like(value, dtype=wide)
        by_sink = None if sinks is None else torch.zeros_like(sinks, dtype=wide)
        for chunk in tree.chunks(window):
            part = slice(chunk.start, chunk.stop)
            leaves = [query[:, :, part], chunk.gather(key), chunk.gather(value)] + ([] if sinks is None else [sinks])
            leaves = [leaf.detach().requires_grad_() for leaf in leaves]
            with torch.enable_grad():
                sink = None if sinks is None else leaves[3]
                out = attend(leaves[0], leaves[1], leaves[2], chunk.mask, scale, sink, softcap)
            by_query[:, :, part], keys, values, *rest = torch.autograd.grad(out, leaves, grad[:, :, part])
            at = 0
            for start, stop in chunk.spans:
                by_key[:, :, start:stop] += keys[:, :, at : at + stop - start]
                by_value[:, :, start:stop] += values[:, :, at : at + stop - start]
                at += stop - start
            if by_sink is not None:
                by_sink += rest[0]
        by_sink = None if by_sink is None else by_sink.to(sinks.dtype)
        return by_query, by_key.to(key.dtype), by_value.to(value.dtype), by_sink, None, None, None, None
