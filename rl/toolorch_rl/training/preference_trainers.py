"""TRL's preference trainers on the server's own ids.

Both render text in `_prepare_dataset` and go by ids and masks from there on: `_prepare_dataset` is left out, and the
collators add the masks of what the policy wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, KTOTrainer

from toolorch_rl.training.checkpoints import Guarded


@dataclass
class PairCollator(DataCollatorForPreference):
    """Pads pairs; `completion_mask` is 1 only for what the policy wrote."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch: chosen sequences, then rejected ones."""
        batch: dict[str, Any] = super().torch_call(examples)
        masks = [example[name] for name in ("chosen_mask", "rejected_mask") for example in examples]
        prompts = [len(example["prompt_ids"]) for _ in range(2) for example in examples]
        _mask(batch["completion_mask"], prompts, masks)
        return batch


@dataclass
class LabelledCollator(DataCollatorForUnpairedPreference):
    """Pads labelled runs; the masks are 1 only for what the policy wrote."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch."""
        batch: dict[str, Any] = super().torch_call(examples)
        prompts = [len(example["prompt_ids"]) for example in examples]
        _mask(batch["completion_mask"], prompts, [example["mask"] for example in examples])
        _mask(batch["KL_completion_mask"], prompts, [example["KL_mask"] for example in examples])
        return batch


class ExactDPOTrainer(Guarded, DPOTrainer):
    """DPO on ids."""

    _tag_names = ["toolorch", "dpo"]

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


class ExactKTOTrainer(Guarded, KTOTrainer):
    """KTO on ids."""

    _tag_names = ["toolorch", "kto"]

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


def _mask(mask: torch.Tensor, prompts: list[int], wrote: list[list[int]]) -> None:
    for line, start, one in zip(mask, prompts, wrote, strict=True):
        line[start : start + len(one)] = torch.tensor(one, dtype=mask.dtype)
