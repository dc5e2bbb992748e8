"""A byte-level BPE tokenizer of one's own text, with Qwen's special tokens and a prefix-preserving chat template."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Never part of what is said."""

MARKS = ("<tool_call>", "</tool_call>")
"""Single tokens that are part of the text, so that a tool parser sees them."""

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")
"""Renders tools as one line each, which keeps prompts short, and calls in the hermes form."""

# Qwen's split, but for numbers: up to three digits stay together, so that a policy copies a price in one token.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NUMBERS = " ".join(str(number) for number in range(1000))


def train_tokenizer(texts: Iterable[str], vocabulary: int = 3072, length: int = 4096) -> PreTrainedTokenizerFast:
    """Train a tokenizer.

    Args:
        texts: What it will have to write, rendered runs for instance.
        vocabulary: Most tokens, special ones included. Numbers under 1000 take a thousand of them.
        length: `model_max_length`, in tokens.
    """
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bare.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL) - len(MARKS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    bare.train_from_iterator([*texts, *[_NUMBERS] * 200], trainer=trainer)
    bare.add_special_tokens(list(SPECIAL))
    bare.add_tokens([AddedToken(token, normalized=False, special=False) for token in MARKS])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bare,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=length,
    )
