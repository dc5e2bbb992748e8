"""Log-probabilities of captured rows under a policy in a folder. Needs torch, which is imported when it is called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toolorch_rl.estimate.logged import EstimateError
from toolorch_rl.rows import Row

TOKENS = 16_384
"""Tokens of a packed forward."""


class ScoredPolicy:
    """A policy that says how likely it would have written what was captured.

    Args:
        policy: Folder or hub name of a model, or folder of a LoRA adapter.
        base: Folder or hub name of the model that an adapter is for; None: what the adapter says.

    Raises:
        EstimateError: It cannot be loaded; the message says which part.
    """

    def __init__(self, policy: str | Path, base: str | Path | None = None) -> None:
        import torch

        from toolorch_rl.packing import set_attention

        self.base = str(base or _base_of(policy) or policy)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = _load(str(policy), self.base).to(self._device).eval()
        set_attention(self._model)

    @property
    def vocabulary(self) -> int:
        """How many tokens the policy has."""
        return int(self._model.config.get_text_config().vocab_size)

    def tokenizer(self) -> Any:
        """Return the policy's tokenizer."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.base)

    def __call__(self, rows: Sequence[Row]) -> list[npt.NDArray[np.float32]]:
        """Return float32 (T,) of each row: NaN where it trains nothing."""
        import torch

        from toolorch_rl.packing import logprobs_of, pack, terms_of

        found = [np.full(len(row), np.nan, np.float32) for row in rows]
        with torch.inference_mode():
            for packed in pack([row.ids for row in rows], TOKENS):
                terms = terms_of(packed, rows)
                values = logprobs_of(self._model, packed, terms).logprobs.cpu().numpy()
                for number in np.unique(terms.rows):
                    own = terms.rows == number
                    found[number][terms.places[own]] = values[own]
        return found


def _base_of(policy: str | Path) -> str | None:
    """Return what an adapter says it is for; None: it is no adapter."""
    config = Path(policy) / "adapter_config.json"
    if not config.is_file():
        return None
    return str(json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path") or "") or None


def _load(policy: str, base: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        # float32 even on a GPU: rounding of bfloat16 alone makes ratios of long runs wander.
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if policy != base:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, policy).merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise EstimateError(
            f"policy {policy} (base {base}) cannot be loaded: {error}; give --policy a model or an adapter, and --base "
            "the model that an adapter is for"
        ) from error
    return model
