"""The ids of prompts that grow: only those are decoded that the conversation's answer before did not have.

As text, a conversation's prompt ids are the beginning of the next call's. To read them as JSON takes half of the time
that it takes to decode an answer.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict

import numpy as np
import numpy.typing as npt
import orjson

_KEY = b'"prompt_token_ids":['
MARK = [-1]
"""Stands in a body for the ids that were cut out of it; no server can have sent it."""
_MARK = b"-1"
_MAX_BYTES = 16 * 2**20
_LEAST = 1_000
"""Bytes of ids below which a body is left as it is."""


class PromptIds:
    """Remembers the newest prompt of each conversation, up to some megabytes. Safe across threads."""

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._known: OrderedDict[str, tuple[bytes, array[int]]] = OrderedDict()
        self._bytes = 0
        self._max_bytes = max_bytes
        self._lock = threading.Lock()

    def cut(self, conversation: str, body: bytes) -> tuple[bytes, npt.NDArray[np.uint32] | None]:
        """Take the prompt's ids out of an answer's body.

        Returns:
            The body with `MARK` in their place, and the ids; or the body as it is, and None, where it does not hold one
            list of them in the form that servers write.
        """
        found = body.find(_KEY)
        start = found + len(_KEY)
        # In a text the quote would have a backslash before it; the list of a text's own choice would be a second one.
        if found < 1 or body[found - 1 : found] == b"\\" or body.find(_KEY, start) >= 0:
            return body, None
        stop = body.find(b"]", start)
        if stop < start + _LEAST:
            return body, None
        text = body[start:stop]
        try:
            ids = self._ids(conversation, text)
        except (ValueError, TypeError, OverflowError):  # Not ids: for whoever reads the body to say so.
            return body, None
        return b"".join((body[:start], _MARK, body[stop:])), ids

    def _ids(self, conversation: str, text: bytes) -> npt.NDArray[np.uint32]:
        with self._lock:
            old, known = self._known.get(conversation, (b"", array("I")))
        if old and text.startswith(old) and text[len(old) : len(old) + 1] in (b",", b""):
            ids = known + array("I", orjson.loads(b"[%b]" % text[len(old) + 1 :]))
        else:
            ids = array("I", orjson.loads(b"[%b]" % text))
        self._keep(conversation, text, ids)
        found = np.frombuffer(ids, np.uint32)
        found.flags.writeable = False  # The next prompt begins with it.
        return found

    def _keep(self, conversation: str, text: bytes, ids: array[int]) -> None:
        with self._lock:
            before = self._known.pop(conversation, None)
            self._known[conversation] = text, ids
            self._bytes += _size(text, ids) - (0 if before is None else _size(*before))
            while self._bytes > self._max_bytes:
                _, oldest = self._known.popitem(last=False)
                self._bytes -= _size(*oldest)


def _size(text: bytes, ids: array[int]) -> int:
    return len(text) + ids.itemsize * len(ids)
