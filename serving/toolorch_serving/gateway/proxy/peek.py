"""Facts of an answer that are read from its bytes without decoding it: a few searches in place of a parser.

Quotes within JSON strings are escaped, so a name in quotes with a colon behind it is a field.
"""

from __future__ import annotations

_CALLS = (b'"tool_calls":[{', b'"tool_calls": [{')


def usage_in(answer: bytes) -> tuple[int, int]:
    """Return the tokens read and written: as the answer reports them, else counted from its ids; 0: not known."""
    place = answer.rfind(b'"usage":')
    if place >= 0:
        read, wrote = (_number(answer, name, place) for name in (b'"prompt_tokens":', b'"completion_tokens":'))
        if read or wrote:
            return read, wrote
    return _length(answer, b'"prompt_token_ids":'), answer.count(b'"logprob":')


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


def _length(answer: bytes, name: bytes) -> int:
    start = answer.find(name)
    end = answer.find(b"]", start)
    return answer.count(b",", start, end) + 1 if 0 <= start < end else 0
