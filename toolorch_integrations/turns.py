"""The turns of a run in a conversation, however a framework holds its messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import TypeVar

Message = TypeVar("Message")


class Kind(StrEnum):
    """What a message is to the run."""

    REPLY = "reply"
    """The policy's."""
    RESULT = "result"
    """Of a call that went well."""
    ERROR = "error"
    """An observation that a call or a reply was none."""
    OTHER = "other"


def since_request(messages: Sequence[Message], is_request: Callable[[Message], bool]) -> Sequence[Message]:
    """Return what has happened since the newest request, that message left out; all where there is none."""
    for index in range(len(messages) - 1, -1, -1):
        if is_request(messages[index]):
            return messages[index + 1 :]
    return messages


def failed_turns(newest_first: Iterable[Kind]) -> int:
    """Return how many turns at the end of a run brought nothing but errors.

    Args:
        newest_first: What the run's messages are, the newest first.

    Example:
        >>> failed_turns([Kind.ERROR, Kind.REPLY, Kind.ERROR, Kind.RESULT, Kind.REPLY])
        1
    """
    count = 0
    bad = good = False
    for kind in newest_first:
        if kind is Kind.REPLY:
            if good or not bad:
                break
            count += 1
            good = bad = False
        good = good or kind is Kind.RESULT
        bad = bad or kind is Kind.ERROR
    return count
