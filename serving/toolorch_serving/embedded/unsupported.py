"""Fields that change what a client gets, and that this engine does not do: a wish that is ignored is a wrong answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_special_tokens": (False,),
    "allowed_token_ids": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "frequency_penalty": (0,),
    "include_reasoning": (True,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "logprob_token_ids": ([],),
    "min_p": (0,),
    "min_tokens": (0,),
    "mm_processor_kwargs": ({},),
    "n": (1,),
    "presence_penalty": (0,),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "reasoning_effort": (),
    "repetition_detection": (),
    "response_format": ({"type": "text"},),
    "return_prompt_text": (False,),
    "return_token_offsets": (False,),
    "return_tokens_as_token_ids": (False,),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "suffix": ("",),
    "thinking_token_budget": (),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
    "watermarking": (False,),
}
"""Fields of vLLM's chat and text completions, each with the values that change nothing; None never does."""
_NEWER = {
    "functions": "tools",
    "function_call": "tool_choice",
    "guided_choice": "structured_outputs",
    "guided_grammar": "structured_outputs",
    "guided_json": "structured_outputs",
    "guided_regex": "structured_outputs",
}
"""Fields that the protocol no longer has, with their successors."""


def refusal(fields: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the first field that cannot be served, and why; None where there is none.

    Args:
        fields: Of a request, those that the engine does not know.
    """
    for name, value in fields.items():
        if value is None:
            continue
        if name in _NEWER:
            return name, f"{name} is no longer part of the protocol: use {_NEWER[name]}"
        if name in _NEUTRAL and value not in _NEUTRAL[name]:
            return name, f"{name} is not supported by the embedded engine: leave it out, or serve the policy with vLLM"
    return None
