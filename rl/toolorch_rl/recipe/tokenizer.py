"""A byte-level BPE tokenizer of one's own text, with Qwen's special tokens and a prefix-preserving chat template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Never part of what is said."""

MARKS = ("<tool_call>", "</tool_call>")
"""Single tokens that are part of the text, so that a tool parser sees them."""

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")
"""Renders calls in the hermes form, and of tools only what a policy needs: what one does, its name, its arguments.

The name comes last: a policy that looks for what is to be done then finds the name right behind it. Only long
descriptions of arguments are shown, such as the choices of the `select` rendering.
"""

# Qwen's split, but for numbers: up to three digits stay together, so that a policy copies a price in one token.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NUMBERS = tuple(str(number) for number in range(1000))

_HEX8 = r"[0-9a-f]{8}(?![\p{L}\p{N}])"
_NEXT = rf"(?=[\p{{Lu}}\p{{N}}]|{_HEX8})"
_NAME = "|".join(r"\p{Lu}" + r"\p{Ll}" * count for count in range(14))
DENSE_SPLIT = "|".join((
    # Ids of hexadecimal digits fall into pieces of three: a policy copies them in two or three tokens.
    r"(?<![\p{L}\p{N}])[0-9a-f]{3}(?=[0-9a-f]{5}(?![\p{L}\p{N}]))",
    r"_(?=[0-9a-f]{6}(?![\p{L}\p{N}]))",
    r"(?<=_)[0-9a-f]{3}(?=[0-9a-f]{3}(?![\p{L}\p{N}]))",
    r"(?<=[0-9a-f]{3})[0-9a-f]{3}(?=[0-9a-f]{2}(?![\p{L}\p{N}]))",
    r"(?<=[0-9a-f]{3})[0-9a-f]{2,3}(?![\p{L}\p{N}])",
    r"(?<!\d)\d{4}-(?=\d\d-\d\d)|(?<=\d{4}-)\d\d-(?=\d\d)|(?<!\d)20\d\d(?!\d)",
    # A key of JSON with all that stands around it.
    r"[\"\]}]*(?:, )?[\[{]*\"[a-z_]+\": (?:\[?\"|\{(?=\"))?|\", \"",
    # Names begin without their space, wherever they stand, so that copying them is copying tokens.
    rf"(?<={_NAME}) \p{{Lu}}\p{{L}}*|\p{{Lu}}\p{{L}}*",
    rf"(?:, | |_|\(|-)?(?!{_HEX8})[^\P{{L}}\p{{Lu}}]+(?: {_NEXT})?",
    r"\p{N}{1,3}",
    rf" ?[^\s\p{{L}}\p{{N}}]+(?: {_NEXT})?[\r\n]*",
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
))  # fmt: skip
"""For policies that mostly read and write JSON with ids, names and dates: about half the tokens."""

HEXADECIMALS = tuple(f"{number:03x}{4095 - number:03x}{number % 256:02x}" for number in range(4096))
"""Ids that have all the pieces that ids have in `DENSE_SPLIT`."""


def train_tokenizer(
    texts: Iterable[str],
    vocabulary: int = 3072,
    length: int = 4096,
    split: str = _SPLIT,
    whole: Sequence[str] = _NUMBERS,
    repeats: int = 200,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer.

    Args:
        texts: What it will have to write, rendered runs for instance.
        vocabulary: Most tokens, special ones included. Numbers under 1000 take a thousand of them.
        length: `model_max_length`, in tokens.
        split: A regular expression of the pieces that no token crosses.
        whole: Texts whose pieces shall each become one token.
        repeats: How often each of them counts; more where they are many beside the texts.
    """
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
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
    bare.train_from_iterator([*texts, *[" ".join(whole)] * repeats], trainer=trainer)
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
