"""The log-probabilities that the trainer's model computes, for probes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolorch_rl.weights.errors import WeightsError
from toolorch_rl.weights.probe import Logprobs, Reference


def model_logprobs(model: Any) -> Reference:
    """Return what computes log-probabilities with a torch model as it is now, adapters included.

    Args:
        model: Takes `input_ids` and returns `logits`; its training mode is put back afterwards.
    """
    import torch

    def logprobs(sequences: Sequence[Sequence[int]]) -> list[Logprobs]:
        training = model.training
        model.eval()
        found: list[Logprobs] = []
        try:
            with torch.no_grad():
                for ids in sequences:
                    tokens = torch.tensor([list(ids)], device=next(model.parameters()).device)
                    logits = model(input_ids=tokens).logits[0, :-1].float()
                    found.append(logits.log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0].double().cpu().numpy())
        finally:
            model.train(training)
        return found

    return logprobs


def folder_logprobs(folder: str | Path, *, base: str | Path | None = None) -> Reference:
    """Return what computes log-probabilities with the weights or the adapter in a folder, in float32 on the CPU.

    Args:
        folder: A model in transformers' format, or a LoRA adapter in peft's.
        base: The adapter's model; by default the one that it names.

    Raises:
        WeightsError: The folder holds neither, or the adapter's model is not there.
    """
    import torch
    from transformers import AutoModelForCausalLM

    settings = Path(folder) / "adapter_config.json"
    try:
        if not settings.is_file():
            return model_logprobs(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
        from peft import PeftModel

        own = base or json.loads(settings.read_text(encoding="utf-8"))["base_model_name_or_path"]
        return model_logprobs(
            PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(own, dtype=torch.float32), str(folder))
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(f"the weights in {folder} cannot be loaded: {error}") from error
