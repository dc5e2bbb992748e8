"""One forward of a model over packed rows, in whichever way it reads them."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from toolorch_rl.packing.errors import PackingError
from toolorch_rl.packing.models import Attention, unwrapped
from toolorch_rl.packing.plan import TreePlan
from toolorch_rl.packing.trie import PackedRows

_plain_heads: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


class Decoder:
    """A model split into what comes before its output head, and the head.

    Where the two cannot be had apart (sharded parameters, a wrapper that must see the forward, logits that the model
    scales or caps after its head), the model is called as a whole and gives the logits of the wanted tokens at once.
    """

    def __init__(self, model: torch.nn.Module, way: Attention) -> None:
        self.model = model
        self.inner = unwrapped(model)
        self.way = way
        self.split = _bare(model, self.inner) and _plain_head(self.inner)
        self.device = next(self.inner.parameters()).device

    @property
    def vocabulary(self) -> int:
        """How many tokens the model has."""
        return int(self.inner.config.get_text_config().vocab_size)

    def __call__(self, packed: PackedRows, sources: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return (L, size) of trie tokens: what the head reads where the model is split, else logits."""
        if self.way is Attention.PADDED:
            return self._padded(packed, sources)
        plan = TreePlan(packed, self.device)
        arguments: dict[str, Any] = {
            "input_ids": self._tensor(packed.ids)[None],
            "position_ids": self._tensor(packed.positions)[None],
            "attention_mask": self._masks(plan),
            "use_cache": False,
        }
        if self.way is Attention.CHUNKED:
            arguments["tree"] = plan
        wanted = self._tensor(sources)
        if self.split:
            out: torch.Tensor = self.inner.get_decoder()(**arguments).last_hidden_state[0, wanted]
        else:
            out = self.model(**arguments, logits_to_keep=wanted).logits[0]
        if self.way is Attention.CHUNKED and not plan.calls:
            raise PackingError(f"{type(self.inner).__name__} does not hand its attention what it is given: use dense")
        return out

    def logits(self, out: torch.Tensor) -> torch.Tensor:
        """Return the logits of some of what the decoder gave."""
        logits: torch.Tensor = self.inner.get_output_embeddings()(out) if self.split else out
        return logits

    def _masks(self, plan: TreePlan) -> Any:
        """Return what `attention_mask` has to be; transformers hands ready masks on as they are."""
        config = self.inner.config.get_text_config()
        kinds = sorted(set(getattr(config, "layer_types", None) or ()))
        window = getattr(config, "sliding_window", None)
        if kinds == ["full_attention"]:
            return self._mask(plan, None)
        if len(kinds) < 2:  # no kinds: a window, where there is one, is every layer's
            return self._mask(plan, window)
        return {kind: self._mask(plan, window if kind == "sliding_attention" else None) for kind in kinds}

    def _mask(self, plan: TreePlan, window: int | None) -> Any:
        if self.way is Attention.CHUNKED:
            return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device)  # the plan says it all
        if self.way is Attention.FLEX:
            return plan.blocks(window)
        mask = plan.dense(window)
        if self.inner.config.get_text_config()._attn_implementation == "sdpa":
            return mask
        kind = self.inner.dtype
        return torch.zeros(mask.shape, dtype=kind, device=self.device).masked_fill_(~mask, torch.finfo(kind).min)

    def _padded(self, packed: PackedRows, sources: npt.NDArray[np.int64]) -> torch.Tensor:
        """Read every row by itself, as many at a time as fit into the trie's tokens."""
        rows = [packed.row_index(place) for place in range(len(packed.rows))]
        holder, place = _holders(packed)[sources], packed.positions[sources]
        out: torch.Tensor | None = None
        for batch in _batches([len(row) for row in rows], len(packed)):
            mine = np.flatnonzero(np.isin(holder, batch))
            if not len(mine):
                continue
            width = max(len(rows[number]) for number in batch)
            ids = np.zeros((len(batch), width), np.int64)
            mask = np.zeros((len(batch), width), np.int64)
            for line, number in enumerate(batch):
                ids[line, : len(rows[number])] = packed.ids[rows[number]]
                mask[line, : len(rows[number])] = 1
            arguments = {"input_ids": self._tensor(ids), "attention_mask": self._tensor(mask), "use_cache": False}
            line_of = np.zeros(len(rows), np.int64)
            line_of[batch] = np.arange(len(batch))
            found = self._forward(arguments)[self._tensor(line_of[holder[mine]]), self._tensor(place[mine])]
            if out is None:
                out = found.new_zeros(len(sources), found.shape[-1])
            out = out.index_put((self._tensor(mine),), found)
        return torch.zeros(0, self.vocabulary, device=self.device) if out is None else out

    def _forward(self, arguments: dict[str, Any]) -> torch.Tensor:
        if self.split:
            hidden: torch.Tensor = self.inner.get_decoder()(**arguments).last_hidden_state
            return hidden
        logits: torch.Tensor = self.model(**arguments).logits
        return logits

    def _tensor(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.as_tensor(values.astype(np.int64), device=self.device)


def _holders(packed: PackedRows) -> npt.NDArray[np.int64]:
    """Return, for each trie token, the place of the first row that holds it."""
    holders = np.empty(len(packed), np.int64)
    lengths = np.diff(packed.offsets)
    holders[packed.index[::-1]] = np.repeat(np.arange(len(lengths)), lengths)[::-1]
    return holders


def _batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Return places of rows in batches of like length that hold at most so many tokens, padding included."""
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def _bare(model: torch.nn.Module, inner: Any) -> bool:
    """Whether the model's parts can be called by themselves: no wrapper has to see the forward, no shards."""
    from torch.distributed.tensor import DTensor

    alone = model is inner or hasattr(model, "get_base_model")
    return alone and not any(isinstance(parameter, DTensor) for parameter in inner.parameters())


def _plain_head(inner: Any) -> bool:
    """Whether logits are just what the head makes of the decoder's output: looked at once a model, on two tokens."""
    if inner not in _plain_heads:
        seen: dict[str, torch.Tensor] = {}

        def decoded(module: Any, arguments: Any, output: Any) -> None:
            seen["hidden"] = output.last_hidden_state

        def headed(module: Any, arguments: Any, output: torch.Tensor) -> None:
            seen["input"], seen["logits"] = arguments[0], output

        parts = ((inner.get_decoder(), decoded), (inner.get_output_embeddings(), headed))
        hooks = [part.register_forward_hook(hook) for part, hook in parts]
        name = inner.config.get_text_config()._attn_implementation
        try:
            inner.set_attn_implementation("eager")  # nothing to compile for two tokens
            device = next(inner.parameters()).device
            # Dropout must not move the random state: a resumed training run looks anew, and has to go on as it was.
            with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
                ids = torch.zeros(1, 2, dtype=torch.long, device=device)
                logits = inner(input_ids=ids, use_cache=False).logits
        finally:
            inner.set_attn_implementation(name)
            for hook in hooks:
                hook.remove()
        whole = len(seen) == 3 and torch.equal(seen["hidden"], seen["input"])
        _plain_heads[inner] = whole and torch.equal(seen["logits"], logits)
    return _plain_heads[inner]
