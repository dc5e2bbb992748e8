"""The running batch: requests that join and leave between two tokens, a row of key-value cache each.

Positions are counted from a row's own first token, so that a row's result does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from toolorch_serving.embedded.key_values import KeyValues, Layers
from toolorch_serving.embedded.policy_model import PolicyModel


class Batch:
    """The requests that are running, one row each."""

    def __init__(self, model: PolicyModel) -> None:
        self._model = model
        self._held = KeyValues()
        self._adapters: list[str | None] = []

    @property
    def lengths(self) -> list[int]:
        """How many tokens each row holds."""
        return self._held.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    @torch.inference_mode()
    def join(self, prompt: Sequence[int], adapter: str | None = None, prefix: Layers | None = None) -> torch.Tensor:
        """Add a row for `prompt`, the last one, and return the logits after its last token.

        Args:
            prompt: All token ids of the prompt.
            adapter: Name of the LoRA adapter to use; None is the bare model.
            prefix: Cache of the prompt's first tokens where they are known already; shorter than the prompt.
        """
        known = prefix[0][0].shape[2] if prefix else 0
        cache = DynamicCache(prefix) if prefix else DynamicCache()
        ids = torch.tensor([list(prompt[known:])], device=self._model.device)
        output = self._model([adapter], input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        layers: list[Any] = list(cache.layers)
        self._held.add([(layer.keys, layer.values) for layer in layers])
        self._adapters.append(adapter)
        logits: torch.Tensor = output.logits[0, -1]
        return logits

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to each row and return the logits after it, of shape (rows, vocabulary)."""
        device = self._model.device
        lengths = torch.tensor(self.lengths, device=device)
        width = self._held.width
        columns = torch.arange(width + 1, device=device)
        output = self._model(
            self._adapters,
            input_ids=torch.tensor(tokens, device=device)[:, None],
            attention_mask=(columns >= width - lengths[:, None]).long(),
            position_ids=lengths[:, None],
            past_key_values=self._held.cache(),
            use_cache=True,
        )
        self._held.advance()
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def row(self, index: int) -> Layers:
        """Return a copy of one row's cache, without padding."""
        return self._held.row(index)

    @torch.inference_mode()
    def leave(self, gone: Sequence[int]) -> list[int]:
        """Let rows leave; returns of each row that is left, which one it was."""
        order = self._held.remove(gone)
        self._adapters = [self._adapters[before] for before in order]
        return order
