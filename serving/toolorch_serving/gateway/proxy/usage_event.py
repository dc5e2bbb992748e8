"""Takes the event with the usage out of a stream whose client did not ask for it; all else passes byte for byte."""

from __future__ import annotations

import re

import orjson

_MARKS = (b'"choices":[]', b'"choices": []')
"""What an event with the usage holds, and next to no other."""
_ENDS = (b"\n\n", b"\r\n\r\n")
_EVENTS = re.compile(rb".*?\r?\n\r?\n", re.DOTALL)
_MOST = 2**16
"""Bytes that an event with the usage has at most: longer ones are not held back."""


class UsageEvent:
    """Filters the pieces of one stream.

    An event may be cut anywhere between two pieces. So one that is not whole is held back until its rest comes; servers
    send whole events, and as long as they do nothing is.
    """

    def __init__(self) -> None:
        self._held = b""

    def without(self, piece: bytes) -> bytes:
        """Return what can go to the client of a piece, and of what was held back."""
        if self._held:
            piece, self._held = self._held + piece, b""
        if not piece.endswith(_ENDS):
            end = max((place + len(mark) for mark in _ENDS if (place := piece.rfind(mark)) >= 0), default=0)
            if len(piece) - end <= _MOST:
                piece, self._held = piece[:end], piece[end:]
        if _MARKS[0] not in piece and _MARKS[1] not in piece:
            return piece
        return _EVENTS.sub(lambda found: b"" if _is_usage(found[0]) else found[0], piece)

    def rest(self) -> bytes:
        """Return what was held back, and never became a whole event."""
        held, self._held = self._held, b""
        return held


def _is_usage(event: bytes) -> bool:
    if not event.startswith(b"data:"):
        return False
    try:
        data = orjson.loads(event[5:])
    except orjson.JSONDecodeError:
        return False
    return isinstance(data, dict) and data.get("choices") == [] and bool(data.get("usage"))
