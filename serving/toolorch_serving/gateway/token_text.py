"""What token ids mean, as the policy server says: asked once for each id, and many of them in one request."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence

from toolorch_serving.gateway.errors import UpstreamError
from toolorch_serving.gateway.policy_client import PolicyClient

logger = logging.getLogger(__name__)

_BATCH = 512
_PATIENCE = 3.0
"""Seconds that one trace may wait for texts; what is missing then comes with the next look."""
_PAUSE = 60.0
"""Seconds after a server that could not say is asked again."""


class TokenText:
    """Texts of token ids. Safe across threads, and blocking.

    A server decodes lists of ids, and knows nothing of single tokens. So ids are sent with a separator between them, a
    special token that the trace itself has: its text cannot come out of other tokens, and cuts the answer in pieces.

    Args:
        upstream: The policy server; None: nothing is known.
    """

    def __init__(self, upstream: PolicyClient | None) -> None:
        self._upstream = upstream
        self._lock = threading.Lock()
        self._texts: dict[int, str] = {}
        self._not_before = 0.0

    def texts(self, ids: Iterable[int], separators: Sequence[int]) -> dict[int, str]:
        """Return the texts of ids, as far as they can be had now.

        Args:
            ids: Of a trace.
            separators: Ids that may be special tokens, the likeliest first, such as those that ended an answer.
        """
        wanted = set(ids)
        upstream = self._upstream
        if upstream is not None:
            with self._lock:
                missing = sorted(wanted - self._texts.keys())
                if missing and time.monotonic() >= self._not_before:
                    self._learn(upstream, missing, separators)
        return {token: self._texts[token] for token in wanted if token in self._texts}

    def _learn(self, upstream: PolicyClient, missing: list[int], separators: Sequence[int]) -> None:
        end = time.monotonic() + _PATIENCE
        try:
            for start in range(0, len(missing), _BATCH):
                if time.monotonic() < end:
                    self._texts |= _batch(upstream, missing[start : start + _BATCH], separators, end)
        except UpstreamError as error:
            self._not_before = time.monotonic() + _PAUSE
            logger.info("texts of tokens are not shown: %s", error)


def _batch(upstream: PolicyClient, ids: list[int], separators: Sequence[int], end: float) -> dict[int, str]:
    for separator in separators:
        text = upstream.detokenize([separator])
        if not text:
            continue
        others = [token for token in ids if token != separator]
        joined = [part for token in others for part in (separator, token)]
        pieces = upstream.detokenize([*joined, separator]).split(text)
        if len(pieces) == len(others) + 2 and pieces[0] == pieces[-1] == "":
            return dict(zip(others, pieces[1:-1], strict=True)) | {separator: text}
    found: dict[int, str] = {}
    for token in ids:
        if time.monotonic() >= end:
            break
        found[token] = upstream.detokenize([token])
    return found
