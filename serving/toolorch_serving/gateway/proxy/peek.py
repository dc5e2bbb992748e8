"""Facts of an answer that are read from its bytes without decoding it: a few searches in place of a parser.

Quotes within JSON strings are escaped, so a name in quotes with a colon behind it is a field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

_CALLS = (b'"tool_calls":[{', b'"tool_calls": [{')
_PROMPT_IDS = re.compile(rb'"prompt_token_ids": ?\[([^\]]+)\]')
_IDS = re.compile(rb'"token_ids": ?\[([^\]]+)\]')
_TEXT = re.compile(rb'"(?:content|reasoning|reasoning_content|text|arguments)": ?"((?:[^"\\]|\\.)+)"')
_TOKEN_BYTES = 4


def usage_in(answer: bytes) -> tuple[int, int]:
    """Return the tokens read and written: as the answer reports them, else counted from its ids; 0: not known."""
    place = answer.rfind(b'"usage":')
    if place >= 0:
        read, wrote = (_number(answer, name, place) for name in (b'"prompt_tokens":', b'"completion_tokens":'))
        if read or wrote:
            return read, wrote
    prompts = set(_PROMPT_IDS.findall(answer))  # each choice of a text completion may repeat its prompt
    return _numbers(prompts), _numbers(_IDS.findall(answer))


def estimated_usage(request: bytes, answer: bytes, size: int) -> tuple[int, int]:
    """Return about how many tokens were read and written where the answer does not say.

    A token has some 4 bytes of text, and servers send a piece of a stream for each.

    Args:
        request: The body of the request.
        answer: That of the answer, empty where it was not kept.
        size: Bytes of the answer.
    """
    texts = _TEXT.findall(answer)
    wrote = max(len(texts), math.ceil(sum(map(len, texts)) / _TOKEN_BYTES)) if answer else size // _TOKEN_BYTES
    return math.ceil(len(request) / _TOKEN_BYTES), wrote


def asks_for_tools(answer: bytes) -> bool:
    """Whether the answer holds tool calls."""
    return any(mark in answer for mark in _CALLS)


def model_in(answer: bytes) -> str:
    """Return the model that the answer names; empty where it is not near the beginning."""
    start = answer.find(b'"model":', 0, 2000)
    parts = answer[start + 8 : start + 300].split(b'"', 2) if start >= 0 else []
    return parts[1].decode("utf-8", "replace") if len(parts) == 3 else ""


def _number(answer: bytes, name: bytes, place: int) -> int:
    start = answer.find(name, place, place + 1000)
    digits = answer[start + len(name) : start + len(name) + 20].split(b",")[0].split(b"}")[0].strip()
    return int(digits) if start >= 0 and digits.isdigit() else 0


def _numbers(lists: Iterable[bytes]) -> int:
    return sum(numbers.count(b",") + 1 for numbers in lists)
