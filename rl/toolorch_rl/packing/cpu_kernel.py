"""PyTorch's attention kernel for CPUs, called so that a backward pass need not forward again."""

from __future__ import annotations

import torch

_NAME = "_scaled_dot_product_flash_attention_for_cpu"


class CpuKernel:
    """The kernel through one forward and one backward pass over chunks of queries.

    `scaled_dot_product_attention` runs the same kernel, and keeps what its backward pass needs out of reach.
    """

    def __init__(self) -> None:
        self.norms: list[torch.Tensor] = []

    @classmethod
    def of(cls, query: torch.Tensor, value: torch.Tensor) -> CpuKernel | None:
        """Return a kernel; None where it does not serve, or this release of PyTorch lacks its operators."""
        known = hasattr(torch.ops.aten, _NAME) and hasattr(torch.ops.aten, f"{_NAME}_backward")
        return cls() if known and query.device.type == "cpu" and query.shape[-1] == value.shape[-1] else None

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return a chunk's attention, and keep the norms of its scores."""
        shared = query.shape[1] // key.shape[1]
        heads, keys, values = apart(query, shared), repeated(key, shared), repeated(value, shared)
        out, norms = getattr(torch.ops.aten, _NAME)(heads, keys, values, 0.0, False, attn_mask=bias, scale=scale)
        self.norms.append(norms)
        return together(out, shared)

    def backward(
        self,
        number: int,
        grad: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        out: torch.Tensor,
        bias: torch.Tensor,
        scale: float,
    ) -> tuple[torch.Tensor, ...]:
        """Return the gradients of queries, keys and values of the chunk that was forwarded as the number-th."""
        shared = query.shape[1] // key.shape[1]
        by_query, by_key, by_value = getattr(torch.ops.aten, f"{_NAME}_backward")(
            apart(grad, shared),
            apart(query, shared),
            repeated(key, shared),
            repeated(value, shared),
            apart(out, shared),
            self.norms[number],
            0.0,
            False,
            attn_mask=bias,
            scale=scale,
        )
        return together(by_query, shared), by_key.sum(0, keepdim=True), by_value.sum(0, keepdim=True)


def apart(query: torch.Tensor, shared: int) -> torch.Tensor:
    """Return queries as (batch * shared, key heads, Q, size): heads that share keys become a batch, copying no key."""
    batch, heads, number, size = query.shape
    return query.reshape(batch, heads // shared, shared, number, size).transpose(1, 2).flatten(0, 1)


def repeated(values: torch.Tensor, shared: int) -> torch.Tensor:
    """Return keys or values for what `apart` made of the queries."""
    return values if shared == 1 else values[:, None].expand(-1, shared, -1, -1, -1).flatten(0, 1)


def together(out: torch.Tensor, shared: int) -> torch.Tensor:
    """Return what `apart` took apart as (batch, heads, Q, size)."""
    batch, heads, number, size = out.shape
    return out.reshape(batch // shared, shared, heads, number, size).transpose(1, 2).flatten(1, 2)
