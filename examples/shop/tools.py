"""The shop assistant's two tools: searching the shop's documents, and running a little Python."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Sequence

from langchain_core.tools import tool

from examples.shop.documents import Shop
from toolorch_serving.bounded import run_program

SECONDS = 3
"""Wall clock and processor seconds that a program may take."""


_FOUND_NOTHING = "No document found."


class Index:
    """A BM25 index over short documents.

    Args:
        documents: The texts.
        saturation: BM25's k1.
        length: BM25's b.
    """

    def __init__(self, documents: Sequence[str], saturation: float = 1.2, length: float = 0.4) -> None:
        self._documents = list(documents)
        self._counts = [Counter(_terms(text)) for text in documents]
        sizes = [sum(counts.values()) for counts in self._counts]
        mean = sum(sizes) / max(1, len(sizes))
        self._norms = [saturation * (1 - length + length * size / mean) for size in sizes]
        self._saturation = saturation
        frequency = Counter(term for counts in self._counts for term in counts)
        count = len(self._documents)
        self._weights = {term: math.log(1 + (count - n + 0.5) / (n + 0.5)) for term, n in frequency.items()}

    def search(self, query: str, most: int = 2) -> list[str]:
        """Return the best documents: none where none has a name of the query, two where they nearly tie."""
        terms = set(_terms(query))
        names = {term for name in re.findall(r"(?<=\w )[A-Z]\w+", query) for term in _terms(name)}
        if names - self._weights.keys():
            return []
        scored = sorted(((self._score(index, terms), -index) for index in range(len(self._documents))), reverse=True)[
            :most
        ]
        if not scored or scored[0][0] <= 0:
            return []
        return [self._documents[-index] for score, index in scored if score >= 0.75 * scored[0][0]]

    def _score(self, index: int, terms: set[str]) -> float:
        counts = self._counts[index]
        return sum(
            self._weights[term] * counts[term] * (self._saturation + 1) / (counts[term] + self._norms[index])
            for term in terms
            if term in counts
        )


_STOP = frozenset((
    "a", "an", "and", "are", "at", "can", "do", "does", "for", "have", "how", "i", "in", "is", "it", "long", "many",
    "me", "much", "my", "of", "on", "or", "please", "shop", "the", "to", "up", "we", "what", "when", "which",
    "will", "with", "you", "your", "cost", "hello", "hi", "hey", "thanks", "together", "pay", "total",
))  # fmt: skip


def _terms(text: str) -> list[str]:
    return [
        word[:-1] if word.endswith("s") and len(word) > 3 else word
        for word in re.findall(r"[a-z]+", text.lower())
        if word not in _STOP
    ]


def search(shop: Shop, query: str) -> str:
    """Search one shop's documents, as `search_docs` does with the demo's shop."""
    return "\n".join(_index(shop).search(query)) or _FOUND_NOTHING


def execute(code: str) -> str:
    """Run Python in a child process with limits and return what it prints.

    Raises:
        ValueError: The program fails or takes too long; the message is its last line of error output.
    """
    return run_program(code, SECONDS, imports=True)[:2000] or "(nothing printed)"


@functools.cache
def _index(shop: Shop) -> Index:
    return Index(shop.documents)


@functools.cache
def _demo_shop() -> Shop:
    return Shop.open(0)


@tool
def search_docs(query: str) -> str:
    """Search the shop's documents."""
    return search(_demo_shop(), query)


@tool
def run_python(code: str) -> str:
    """Run Python, return what it prints."""
    return execute(code)


TOOLS = [search_docs, run_python]
"""The tools in the order in which the policy sees them."""
