"""Greedy replies of a small policy, many runs at once, in process: for evaluation without a server."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Sampled:
    """A reply.

    Attributes:
        prompt_ids: What the policy read.
        ids: What it wrote, the end token included.
        message: The same as a message in OpenAI's format, as the hermes parser of a policy server reads it.
    """

    prompt_ids: list[int]
    ids: list[int]
    message: dict[str, Any]


Asked = tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]
"""Messages and tool schemas."""


def reply_to(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    asked: Sequence[Asked],
    most: int = 160,
    batch: int = 32,
) -> list[Sampled]:
    """Return the policy's greedy reply to each of `asked`, of `most` tokens at most."""
    prompts = [_prompt(tokenizer, messages, tools) for messages, tools in asked]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    replies: dict[int, Sampled] = {}
    for first in range(0, len(order), batch):
        part = order[first : first + batch]
        for index, ids in zip(part, _generate(model, tokenizer, [prompts[i] for i in part], most), strict=True):
            text = str(tokenizer.decode(ids, skip_special_tokens=True))
            replies[index] = Sampled(prompts[index], ids, parse(text))
    return [replies[index] for index in range(len(prompts))]


def parse(text: str) -> dict[str, Any]:
    """Return the message that a hermes tool parser makes of a reply; calls that are no JSON leave it plain text."""
    try:
        written = [json.loads(found) for found in _CALL.findall(text)]
        calls = [{"name": call["name"], "arguments": json.dumps(call["arguments"])} for call in written]
    except (ValueError, KeyError, TypeError):
        calls = []
    if not calls:
        return {"role": "assistant", "content": text}
    return {
        "role": "assistant",
        "content": text[: text.index("<tool_call>")],
        "tool_calls": [
            {"id": f"call_{index}_{abs(hash(text)) % 10**8}", "type": "function", "function": call}
            for index, call in enumerate(calls)
        ],
    }


def _prompt(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[int]:
    given: Any = ([_decoded(message) for message in messages], list(tools) or None)
    ids: Any = tokenizer.apply_chat_template(given[0], tools=given[1], add_generation_prompt=True, return_dict=False)
    return list(ids)


def _decoded(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Turn the arguments of calls into objects, as policy servers do before they render a prompt."""
    if not message.get("tool_calls"):
        return message
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


@torch.inference_mode()
def _generate(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[list[int]], most: int
) -> list[list[int]]:
    width = max(map(len, prompts))
    pad, end = int(tokenizer.pad_token_id), int(tokenizer.eos_token_id)
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    engine: Any = model
    made = engine.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=most, do_sample=False, eos_token_id=end, pad_token_id=pad
    )
    rows: list[list[int]] = made[:, width:].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]
