"""What the proxy changes in a request: it asks for ids, log-probabilities and usage, and names the policy version."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import orjson

from toolorch_serving.gateway.proxy.extras import IDS, USAGE

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
_ADDED: dict[str, dict[str, Any]] = {
    CHAT: {"return_token_ids": True, "logprobs": True},
    TEXT: {"return_token_ids": True, "logprobs": 0},
}
"""What exact capture needs, by path: for text completions `logprobs` is how many other candidates are wanted."""


@dataclass(slots=True)
class ProxyRequest:
    """A completion that a client asks for."""

    path: str
    body: bytes
    data: dict[str, Any]
    """The body, decoded."""
    messages: list[Any] = field(default_factory=list)

    @classmethod
    def read(cls, path: str, body: bytes) -> ProxyRequest | None:
        """Read a body; None where it is no JSON object with something to answer: the endpoint says what is wrong."""
        try:
            data = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(data, dict):
            return None
        messages = data.get("messages") if path == CHAT else [data.get("prompt")]
        if not isinstance(messages, list) or not messages:
            return None
        return cls(path, body, data, messages)

    @property
    def model(self) -> str:
        """The model that the client asks for; empty: the server's first."""
        return str(self.data.get("model") or "")

    def sent(self, model: str, extras: Set[str]) -> tuple[bytes, frozenset[str]]:
        """Return the body for the endpoint, and which extras were added to it: those that the client asks for are not.

        What the client wrote stays as it is, byte for byte, unless something in it has to be replaced.

        Args:
            model: The version that is to answer.
            extras: What else to ask for; see `extras`.
        """
        changed: dict[str, Any] = {} if model == self.model else {"model": model}
        missing: dict[str, Any] = {}
        added = frozenset(extra for extra in extras if self._add(extra, missing))
        replaced = changed | {key: value for key, value in missing.items() if key in self.data}
        if replaced:
            return orjson.dumps(self.data | missing | changed), added
        if not missing:
            return self.body, added
        head = self.body.rstrip()[:-1]  # without the closing brace
        return b"%b,%b" % (head, orjson.dumps(missing)[1:]), added

    def _add(self, extra: str, missing: dict[str, Any]) -> bool:
        """Put the fields that ask for an extra where they are missing; False: none is."""
        data, before = self.data, len(missing)
        if extra == IDS:
            missing.update((key, value) for key, value in _ADDED[self.path].items() if not _asks(data, key))
        elif extra == USAGE and data.get("stream"):
            options = data.get("stream_options") or {}
            if isinstance(options, dict) and not options.get("include_usage"):
                missing["stream_options"] = options | {"include_usage": True}
        return len(missing) > before


def _asks(data: Mapping[str, Any], key: str) -> bool:
    value = data.get(key)
    return value is not None and value is not False
