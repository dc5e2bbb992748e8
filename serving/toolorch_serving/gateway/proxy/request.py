"""What the proxy changes in a request: it asks for ids and log-probabilities, and names the policy version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

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

    def sent(self, model: str, *, exact: bool) -> tuple[bytes, bool]:
        """Return the body for the endpoint, and whether fields were added to it.

        What the client wrote stays as it is, byte for byte, unless something in it has to be replaced.

        Args:
            model: The version that is to answer.
            exact: Whether to ask for token ids and log-probabilities.
        """
        changed: dict[str, Any] = {} if model == self.model else {"model": model}
        missing = {key: value for key, value in _ADDED[self.path].items() if exact and not _asks(self.data, key)}
        replaced = changed | {key: value for key, value in missing.items() if key in self.data}
        if replaced:
            return orjson.dumps(self.data | missing | changed), bool(missing)
        if not missing:
            return self.body, False
        head = self.body.rstrip()[:-1]  # without the closing brace
        return b"%b,%b" % (head, orjson.dumps(missing)[1:]), True


def _asks(data: Mapping[str, Any], key: str) -> bool:
    value = data.get(key)
    return value is not None and value is not False
