"""Cuts long texts into overlapping pieces, at the best place there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from toolorch_integrations.retrieval import RetrievalError

# Best first: before a heading, between paragraphs, lines, sentences, words.
_BREAKS = tuple(
    re.compile(pattern)
    for pattern in (r"\n(?=#{1,6} )", r"\n\s*\n", r"\n", r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])", r"\s+")
)
_WORD_START = re.compile(r"\s+(?=\S)")


@dataclass(frozen=True, slots=True)
class Chunking:
    """How texts are cut.

    Attributes:
        size: Characters a piece at most; 0 leaves texts whole. The default fits MiniLM's 256 tokens.
        overlap: Characters that a piece repeats of the one before, so that nothing is cut apart for good.
    """

    size: int = 1000
    overlap: int = 150

    def __post_init__(self) -> None:
        if self.size < 0 or (0 < self.size < 50):
            raise RetrievalError(f"chunk size {self.size}: give at least 50 characters, or 0 for whole texts", "size")
        if self.overlap < 0 or (self.size and self.overlap * 2 > self.size):
            raise RetrievalError(f"overlap {self.overlap}: give 0 to half of the chunk size, {self.size}", "overlap")


def chunks(text: str, chunking: Chunking) -> Iterator[tuple[int, str]]:
    """Yield the pieces of a text, none empty, each with the place where it starts."""
    start, size = 0, chunking.size or len(text)
    while start < len(text):
        end = len(text) if len(text) - start <= size else _break(text, start, start + size)
        piece = text[start:end]
        if piece.strip():
            yield start + len(piece) - len(piece.lstrip()), piece.strip()
        if end == len(text):
            return
        start = _overlapped(text, start, end, chunking.overlap)


def _break(text: str, start: int, end: int) -> int:
    """Return the best place to end a piece, in its second half."""
    for pattern in _BREAKS:
        place = -1
        for found in pattern.finditer(text, start + (end - start) // 2, end):
            place = found.end()
        if place > start:
            return place
    return end


def _overlapped(text: str, start: int, end: int, overlap: int) -> int:
    """Return where the next piece starts: at a word, `overlap` characters or fewer before the end of this one."""
    back = max(end - overlap, start + 1)
    found = _WORD_START.search(text, max(back - 1, 0), end) if overlap else None
    return found.end() if found else (back if overlap and not text[back - 1 : end].strip() else end)
