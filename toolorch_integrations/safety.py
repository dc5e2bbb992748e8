"""Which calls are destructive, and so wait for a person before anything is spent.

An entry says so itself (`destructive=True` or `False`); where it says nothing, its name decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

DESTRUCTIVE_WORDS = (
    "archive",
    "book",
    "cancel",
    "charge",
    "close",
    "delete",
    "deploy",
    "destroy",
    "drop",
    "erase",
    "kill",
    "overwrite",
    "pay",
    "publish",
    "purchase",
    "purge",
    "refund",
    "remove",
    "reset",
    "revoke",
    "send",
    "shutdown",
    "terminate",
    "transfer",
    "truncate",
    "wipe",
    "withdraw",
)
"""Verbs that make a tool destructive when they stand as a whole word in its name."""

FIRST_ONLY = frozenset({"book"})
"""Verbs that are nouns elsewhere: `book_table` spends money, `create_book` does not."""

READING_WORDS = ("check", "count", "describe", "fetch", "find", "get", "list", "preview", "read", "search", "show")
"""Verbs that make a tool harmless when its name begins with one: `get_refund` only looks."""

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def is_destructive(
    name: str, declared: bool | None = None, words: Iterable[str] = frozenset(DESTRUCTIVE_WORDS)
) -> bool:
    """Say whether a call of the tool `name` needs a person's yes.

    Args:
        name: The tool's catalogue name, in snake, kebab or camel case.
        declared: What the entry says of itself; None leaves it to the name.
        words: Verbs that count as destructive.

    Example:
        >>> is_destructive("delete_project"), is_destructive("sendEmail"), is_destructive("list_sent")
        (True, True, False)
    """
    if declared is not None:
        return declared
    return _named_destructive(name, frozenset(words))


@lru_cache(maxsize=4096)
def _named_destructive(name: str, words: frozenset[str]) -> bool:
    parts = [part.lower() for part in _WORDS.findall(name)]
    return (
        bool(parts)
        and parts[0] not in READING_WORDS
        and (parts[0] in words or not (words - FIRST_ONLY).isdisjoint(parts))
    )
