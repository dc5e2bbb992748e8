"""What an answer's text means: reasoning, content and tool calls in the hermes form, as vLLM reads it.

A call stands as JSON between `<tool_call>` and `</tool_call>`. If one call of an answer is not valid, none is taken
and the text stays content, so that nothing which the policy wrote gets lost. A streamed answer means exactly what the
same answer means in one piece; therefore text is held back from the first `<tool_call>` on.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_THINK, _THOUGHT = "<think>", "</think>"
# An answer may end before its last call is closed; the call counts if its JSON is whole.
_CALL = re.compile(rf"{_OPEN}(.*?)(?:{_CLOSE}|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Call:
    """One tool call."""

    name: str
    arguments: str
    """JSON text."""


@dataclass(frozen=True)
class Answer:
    """The parts of an answer, or what a streamed answer has gained since the last piece."""

    reasoning: str | None = None
    content: str | None = None
    calls: list[Call] = field(default_factory=list)


class AnswerReader:
    """Reads one answer, piece by piece or at once."""

    def __init__(self, *, tools: bool, reasoning: bool) -> None:
        """Prepare for one answer.

        Args:
            tools: Whether tool calls are to be found; else their text is content.
            reasoning: Whether the answer begins with reasoning, ended by `</think>` or by a tool call.
        """
        self._tools = tools
        self._reasoning = reasoning
        self._at_start = True
        self._content_begun = False
        self._rest = ""

    def read(self, text: str, *, last: bool = False) -> Answer:
        """Add text and return what has become certain; `last` says that no more comes."""
        self._rest += text
        reasoning = self._read_reasoning(last) if self._reasoning else ""
        content, calls = ("", []) if self._reasoning else self._read_content(last)
        return Answer(reasoning or None, content or None, calls)

    def _read_reasoning(self, last: bool) -> str:
        if self._at_start:
            if not last and len(self._rest) < len(_THINK) and _THINK.startswith(self._rest):
                return ""
            self._rest = self._rest.removeprefix(_THINK)
            self._at_start = False
        ends = [at for at in (self._rest.find(_THOUGHT), self._rest.find(_OPEN)) if at >= 0]
        if ends:
            self._reasoning = False
            reasoning, self._rest = self._rest[: min(ends)], self._rest[min(ends) :].removeprefix(_THOUGHT)
            return reasoning
        return self._release(len(self._rest) if last else _certain(self._rest, _THOUGHT, _OPEN))

    def _read_content(self, last: bool) -> tuple[str, list[Call]]:
        if last:
            text, self._rest = self._rest, ""
            calls = read_calls(text) if self._tools else []
            before = text[: text.find(_OPEN)] if calls else text
            return ("" if calls and not self._content_begun and not before.strip() else before), calls
        if not self._tools:
            return self._release(len(self._rest)), []
        end = self._rest.find(_OPEN) if _OPEN in self._rest else _certain(self._rest, _OPEN)
        # White space alone stays held: before a call it is no content.
        self._content_begun = self._content_begun or bool(self._rest[:end].strip())
        return (self._release(end) if self._content_begun else ""), []

    def _release(self, end: int) -> str:
        piece, self._rest = self._rest[:end], self._rest[end:]
        return piece


def read_calls(text: str) -> list[Call]:
    """Return the tool calls in `text`; none if any of them is malformed."""
    try:
        return [_call(json.loads(body)) for body in _CALL.findall(text)]
    except (ValueError, KeyError, TypeError):
        return []


def _call(body: dict[str, Any]) -> Call:
    if not isinstance(body["name"], str):
        raise TypeError("the name of a tool is a string")
    return Call(body["name"], json.dumps(body["arguments"], ensure_ascii=False))


def _certain(text: str, *tags: str) -> int:
    """Return how much of `text` cannot be the beginning of one of `tags`."""
    longest = max(map(len, tags)) - 1
    for start in range(max(0, len(text) - longest), len(text)):
        if any(tag.startswith(text[start:]) for tag in tags):
            return start
    return len(text)
