"""Counting the tokens that a simulated specialist reads and writes, with a real tokenizer that needs no download.

`tokenizer.json` is a byte-level BPE of 2,700 tokens, made by `toolorch_rl.recipe.tokenizer` from runs of the shop
example.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

_MESSAGE = 4
"""Tokens that a chat template puts around each message."""


def count(text: str) -> int:
    """Return the number of tokens of a text."""
    return len(_tokenizer().encode(text).ids)


def count_messages(messages: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of tokens of a prompt, with what a chat template puts around its messages."""
    return sum(count(content_of(message)) + _MESSAGE for message in messages) + _MESSAGE


def content_of(message: Mapping[str, Any]) -> str:
    """Return a message's text, of plain content or of content blocks."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(block.get("text", "")) for block in content if isinstance(block, Mapping))
    return str(content or "")


@functools.cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(Path(__file__).with_name("tokenizer.json")))
