"""The policy's weights: loaded from a folder or hub name, with LoRA adapters that come and go while it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from toolorch_serving.process import PolicyServerError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

SMALL = 50_000_000
"""Parameters under which one thread is quicker: a step is shorter than waiting for other threads on a busy machine."""


class PolicyModel:
    """A causal language model whose rows may each use another adapter."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: Any = model
        self._adapters: dict[str, str] = {}
        self._loaded = 0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self._model.device
        return device

    @property
    def vocabulary(self) -> int:
        """How many token ids there are."""
        size: int = self._model.config.get_text_config().vocab_size
        return size

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that are loaded."""
        return tuple(self._adapters)

    def load_adapter(self, name: str, path: str) -> None:
        """Load a LoRA adapter in peft's format from folder `path`; one that does not load leaves nothing behind.

        Raises:
            ValueError: Its weights are missing, or are not for this model.
            RuntimeError: They are of other shapes.
        """
        # peft uses the name as a module's name, which must not have dots.
        self._loaded += 1
        inner = f"adapter_{self._loaded}"
        model = self._model if self._adapters else _with_adapter(self._model, path, inner)
        try:
            found = model.load_adapter(path, adapter_name=inner)
            wrong = [*found.missing_keys, *found.unexpected_keys]
            if wrong:
                raise ValueError(f"its weights are not for this model: {', '.join(wrong[:3])} missing or unknown")
        except Exception:
            # What peft has put into the model, and perhaps half filled, would take part in what the bare model answers.
            if not self._adapters:
                self._model = model.unload()
            elif inner in model.peft_config:
                model.delete_adapter(inner)
            raise
        self._model = model.eval()
        self._adapters[name] = inner

    def unload_adapter(self, name: str) -> None:
        """Drop an adapter; requests that run with it must have ended."""
        inner = self._adapters.pop(name)
        if not self._adapters:
            self._model = self._model.unload()
            return
        # peft keeps one adapter active even when each row names its own, and it must be one that is there.
        self._model.set_adapter(next(iter(self._adapters.values())))
        self._model.delete_adapter(inner)

    def reload(self, path: str) -> None:
        """Take the weights in folder `path`, of the same shapes; adapters stay.

        Raises:
            ValueError: They are of another model.
            OSError: The folder holds no model.
        """
        new = AutoModelForCausalLM.from_pretrained(path, dtype=self._model.dtype).state_dict()
        own = {name.replace(".base_layer.", "."): value for name, value in self._bare().items()}
        wrong = [name for name in sorted(own.keys() | new.keys()) if _shape(own, name) != _shape(new, name)]
        if wrong:
            raise ValueError(f"the weights in {path} are of another model: {', '.join(wrong[:3])} differ")
        with torch.inference_mode():
            for name, value in own.items():
                value.copy_(new[name])

    def _bare(self) -> dict[str, torch.Tensor]:
        """Return the bare model's own tensors, which share their memory with it."""
        model = self._model.get_base_model() if self._adapters else self._model
        return {name: value for name, value in model.state_dict().items() if ".lora_" not in name}

    def __call__(self, adapters: Sequence[str | None], **inputs: Any) -> Any:
        """Run the model, row r with adapter `adapters[r]` (None: the bare model)."""
        if self._adapters:
            inputs["adapter_names"] = [self._adapters[name] if name is not None else "__base__" for name in adapters]
        return self._model(**inputs)


def _with_adapter(model: PreTrainedModel, path: str, name: str) -> Any:
    """Return a model with room for the weights of its first adapter."""
    import peft

    config = peft.PeftConfig.from_pretrained(path)
    config.inference_mode = True
    return peft.PeftModel(model, config, name)


def _shape(tensors: dict[str, torch.Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None


def load(
    model: str, *, dtype: str = "auto", max_model_len: int | None = None
) -> tuple[PolicyModel, PreTrainedTokenizerBase, frozenset[int], int]:
    """Load a policy.

    The sampling defaults in its generation_config.json are left alone: what a request does not say is neutral, as its
    trace has it, and as in vLLM with `--generation-config vllm`.

    Args:
        model: Folder or hub name.
        dtype: float32, bfloat16, float16, or auto (as stored; float32 on a CPU if that is half precision).
        max_model_len: Longest prompt plus answer in tokens; None takes the model's own.

    Returns:
        Model, tokenizer, tokens that end an answer, and longest prompt plus answer.

    Raises:
        PolicyServerError: The model cannot be served by this engine; the message says why.
    """
    config = AutoConfig.from_pretrained(model)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds - {"full_attention", "sliding_attention"}:
        raise PolicyServerError(
            f"model {model} has layers of kind {', '.join(sorted(kinds))}; the embedded engine serves models with "
            "ordinary attention only: install vLLM (scripts/install_vllm.py)"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(model)
    if not tokenizer.chat_template:
        raise PolicyServerError(f"model {model} has no chat template: add chat_template.jinja to its folder")
    wanted = DTYPES.get(dtype, "auto")
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=wanted, attn_implementation="sdpa")
    if dtype == "auto" and device == "cpu" and loaded.dtype != torch.float32:
        loaded = loaded.to(dtype=torch.float32)
    loaded = loaded.to(device).eval()
    if device == "cpu" and loaded.num_parameters() < SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    ends = loaded.generation_config.eos_token_id
    end_tokens = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    longest = int(config.get_text_config().max_position_embeddings)
    if max_model_len is not None and max_model_len > longest:
        raise PolicyServerError(f"max_model_len is {max_model_len}, and model {model} allows at most {longest} tokens")
    return PolicyModel(loaded), tokenizer, frozenset(end_tokens), max_model_len or longest
