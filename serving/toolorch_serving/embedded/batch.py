"""The running batch: rows of key-value cache that requests join and leave between two tokens.

Rows are aligned at their right end: row r with n tokens holds the columns [width - n, width). Positions are counted
from the row's own first token, so that a row's result does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from toolorch_serving.embedded.policy_model import PolicyModel

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, each of shape (rows, heads, columns, size)."""


class Batch:
    """Key-value caches of the requests that are running, one row each, in the order in which they joined."""

    def __init__(self, model: PolicyModel) -> None:
        self._model = model
        self._layers: Layers = []
        self._adapters: list[str | None] = []
        self.lengths: list[int] = []
        """How many tokens each row holds."""

    def __len__(self) -> int:
        return len(self.lengths)

    @torch.inference_mode()
    def join(self, prompt: Sequence[int], adapter: str | None = None, prefix: Layers | None = None) -> torch.Tensor:
        """Add a row for `prompt` and return the logits after its last token.

        Args:
            prompt: All token ids of the prompt.
            adapter: Name of the LoRA adapter to use; None is the bare model.
            prefix: Cache of the prompt's first tokens where they are known already; shorter than the prompt.
        """
        known = prefix[0][0].shape[2] if prefix else 0
        cache = DynamicCache(prefix) if prefix else DynamicCache()
        ids = torch.tensor([list(prompt[known:])], device=self._model.device)
        output = self._model([adapter], input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        row = _layers(cache)
        width = max(self._width(), len(prompt))
        self._layers = [
            (torch.cat([_widened(keys, width), _widened(new_keys, width)]),
             torch.cat([_widened(values, width), _widened(new_values, width)]))
            for (keys, values), (new_keys, new_values) in zip(self._layers, row, strict=True)
        ] if self.lengths else row  # fmt: skip
        self.lengths.append(len(prompt))
        self._adapters.append(adapter)
        logits: torch.Tensor = output.logits[0, -1]
        return logits

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to each row and return the logits after it, of shape (rows, vocabulary)."""
        device = self._model.device
        lengths = torch.tensor(self.lengths, device=device)
        width = self._width()
        columns = torch.arange(width + 1, device=device)
        cache = DynamicCache(self._layers)
        output = self._model(
            self._adapters,
            input_ids=torch.tensor(tokens, device=device)[:, None],
            attention_mask=(columns >= width - lengths[:, None]).long(),
            position_ids=lengths[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        self._layers = _layers(cache)
        self.lengths = [length + 1 for length in self.lengths]
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def row(self, index: int) -> Layers:
        """Return a copy of one row's cache, without padding."""
        width, length = self._width(), self.lengths[index]
        return [
            (
                keys[index : index + 1, :, width - length :].clone(),
                values[index : index + 1, :, width - length :].clone(),
            )
            for keys, values in self._layers
        ]

    def keep(self, indices: Sequence[int]) -> None:
        """Let all rows but `indices` leave, and drop the columns that nobody needs any more."""
        self.lengths, width = [self.lengths[index] for index in indices], self._width()
        self._adapters = [self._adapters[index] for index in indices]
        rows = torch.tensor(indices, dtype=torch.long, device=self._model.device)
        start = width - max(self.lengths, default=0)
        self._layers = [
            (keys.index_select(0, rows)[:, :, start:], values.index_select(0, rows)[:, :, start:])
            for keys, values in self._layers
        ] if indices else []  # fmt: skip

    def _width(self) -> int:
        return self._layers[0][0].shape[2] if self._layers else 0


def _layers(cache: DynamicCache) -> Layers:
    layers: list[Any] = list(cache.layers)
    return [(layer.keys, layer.values) for layer in layers]


def _widened(tensor: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(tensor, (0, 0, width - tensor.shape[2], 0))
