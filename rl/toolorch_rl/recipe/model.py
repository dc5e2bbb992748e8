"""A small Qwen3-shaped model, which every server and trainer for Qwen3 takes unchanged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM


def small_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden: int = 192,
    layers: int = 4,
    length: int = 4096,
    seed: int = 0,
    related: bool = False,
) -> Qwen3ForCausalLM:
    """Return a model with random weights.

    Heads have 64 channels each, as attention kernels like it. Embeddings and output head are apart, since servers that
    reload weights in place lose a tied head.

    Args:
        tokenizer: Gives vocabulary and special tokens.
        hidden: Width; a multiple of 64.
        layers: Depth.
        length: Longest sequence, in tokens.
        seed: Of the random weights.
        related: Start with embeddings in which spellings of a word are alike.
    """
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        head_dim=64,
        max_position_embeddings=length,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        architectures=["Qwen3ForCausalLM"],
    )
    model = Qwen3ForCausalLM(config)
    _prepare_copying(model)
    if related:
        relate_spellings(model, tokenizer)
    return model


def save_policy(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, **generation: Any) -> None:
    """Write a policy's folder.

    Args:
        model: As it is to be stored.
        tokenizer: Its tokenizer.
        folder: Where to.
        **generation: Defaults for `generation_config.json`, besides the special tokens.
    """
    special = {"eos_token_id": model.config.eos_token_id, "pad_token_id": model.config.pad_token_id}
    model.generation_config = GenerationConfig(**generation, **special)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def relate_spellings(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, share: float = 0.6) -> None:
    """Let tokens that spell the same word read alike: ` task `, `_task`, `Tasks` and `", "task_id": "`.

    To find the tool for a noun of the request, a policy must know that these are one word. Each token's embedding gets
    `share` of the others'; what is predicted stays apart.
    """
    words: dict[str, list[int]] = {}
    for token in range(len(tokenizer)):
        parts = [part for part in re.findall(r"[a-z]+", str(tokenizer.decode([token])).lower()) if part != "id"]
        if len(parts) == 1 and len(parts[0]) > 2:
            words.setdefault(re.sub(r"ies$", "y", parts[0]).rstrip("s"), []).append(token)
    weight = model.model.embed_tokens.weight
    for tokens in words.values():
        if len(tokens) > 1:
            own = weight[tokens].clone()
            weight[tokens] = own + (own.sum(0) - own) * share / (len(tokens) - 1) ** 0.5


@torch.no_grad()
def _prepare_copying(model: Qwen3ForCausalLM) -> None:
    """Start the upper half of the layers as heads that copy whatever they attend to.

    Tokens stand in one direction of the residual stream when read and in another, turned by a fixed rotation, when
    predicted; values and outputs of the upper heads turn one into the other. What is left to learn is where to look.
    """
    hidden = model.config.hidden_size
    turn = torch.linalg.qr(torch.randn(hidden, hidden))[0]
    embedding = torch.randn_like(model.model.embed_tokens.weight)
    model.model.embed_tokens.weight.copy_(embedding)
    model.lm_head.weight.copy_(embedding @ turn * 0.06)
    layers = list(model.model.layers)
    for layer in layers[len(layers) // 2 :]:
        values = torch.linalg.qr(torch.randn(hidden, hidden))[0]
        layer.self_attn.v_proj.weight.copy_(values)
        layer.self_attn.o_proj.weight.copy_(turn.T @ values.T)
