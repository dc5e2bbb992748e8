"""What the proxy asks a server for beside what the client has, and which servers refuse to give it.

Token ids and log-probabilities make traces exact. The usage of a stream says what it cost: what a
client that did not ask for it uses would else have to be counted in what came.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Set

logger = logging.getLogger(__name__)

IDS, USAGE = "token ids", "the usage of streams"
_WORDS = {IDS: (b"return_token_ids", b"logprobs"), USAGE: (b"stream_options", b"include_usage")}
"""By which an error says that the server does not know what it was asked for."""
_REFUSALS = 600.0
"""Seconds for which a server is believed not to give it for a model, after it refused to."""
_MODELS = 1_000
"""Of which that is remembered: their names come from clients."""


class Extras:
    """Knows what a server gives.

    Args:
        url: Of the server, for the log.
        exact: Whether token ids are wanted at all.
    """

    def __init__(self, url: str, *, exact: bool) -> None:
        self._url = url
        self._all = frozenset((IDS, USAGE) if exact else (USAGE,))
        self._refused: dict[str, dict[str, float]] = {}

    def of(self, model: str) -> frozenset[str]:
        """Return what to ask a model for."""
        refused = self._refused.get(model)
        if refused is None:
            return self._all
        now = time.monotonic()
        return self._all - {extra for extra, until in refused.items() if until > now}

    def remember(self, model: str, refused: Set[str], answer: bytes) -> None:
        """Ask a model no more for a while for what it refused, once it has answered without.

        Args:
            model: That was asked.
            refused: What `refused_in` found.
            answer: In which it was.
        """
        if len(self._refused) >= _MODELS:
            self._refused.clear()
        for extra in refused:
            logger.warning("%s does not give %s for model %r: %s", self._url, extra, model, answer[:300])
            self._refused.setdefault(model, {})[extra] = time.monotonic() + _REFUSALS


def refused_in(status: int, answer: bytes, added: Set[str]) -> frozenset[str]:
    """Return which extras an answer may have been refused for.

    Args:
        status: HTTP status of the answer.
        answer: Its body.
        added: The extras that the request had.
    """
    if status not in (400, 422):
        return frozenset()
    return frozenset(extra for extra in added if any(word in answer for word in _WORDS[extra]))
