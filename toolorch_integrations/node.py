"""A node of a message graph: one message, and the token ids that it adds."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from toolorch_integrations.events import Message
from toolorch_integrations.plain import canonical

ID_TYPE = np.dtype("<u4")
LOGPROB_TYPE = np.dtype("<f4")


@dataclass(slots=True)
class Turn:
    """What is known of the model call that sampled a node."""

    model: str = ""
    """Policy version: the model name that the server answered with."""
    response_id: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    logprobs_mode: str = ""
    finish_reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    started: float = 0.0
    seconds: float = 0.0
    dollars: float = 0.0
    agent: str = ""
    is_policy: bool = True
    tools: str = ""
    """Hash of the tool schemas that were sent, under which the store keeps them."""
    raw_text: str = ""
    invalid_tool_calls: list[dict[str, Any]] = field(default_factory=list)
    rewrites: dict[int, Message] = field(default_factory=dict)
    """Messages that the app sent in other words than the node of that index holds, where the ids were the same."""


@dataclass(slots=True)
class Node:
    """One message, and what it adds to the path that leads to it."""

    index: int
    """Place in `TraceGraph.nodes`; a parent's is lower."""
    parent: int | None
    message: Message
    ids: bytes = b""
    """The delta: little-endian uint32. Empty inside a group, and where the endpoint gives no ids."""
    logprob_bytes: bytes | None = None
    """Little-endian float32, one for each id of a sampled node; None where the server gave none."""
    exact: bool = True
    """Whether `ids` is what the server reported. False: it reported none, or they were redacted."""
    turn: Turn | None = None
    """The call that sampled the message; None for messages that the app wrote."""
    _key: str | None = None

    @property
    def role(self) -> str:
        """The message's role; empty for a bare prompt."""
        return str(self.message.get("role", ""))

    @property
    def sampled(self) -> bool:
        """Whether a model sampled this message in this trace."""
        return self.turn is not None

    @property
    def token_ids(self) -> npt.NDArray[np.uint32]:
        """The ids that this node adds, as a read-only array."""
        return np.frombuffer(self.ids, ID_TYPE)

    @property
    def logprobs(self) -> npt.NDArray[np.float32] | None:
        """Log-probabilities of `token_ids`, as a read-only array."""
        return None if self.logprob_bytes is None else np.frombuffer(self.logprob_bytes, LOGPROB_TYPE)

    @property
    def tool_call_ids(self) -> list[str]:
        """Ids of the calls that the message asks for."""
        return [str(call.get("id") or "") for call in self.message.get("tool_calls") or []]

    def arguments(self, call_id: str) -> Any:
        """Return what the message asks to call a tool with: parsed JSON, else the raw text; None: it does not ask."""
        for call in self.message.get("tool_calls") or []:
            if call.get("id") == call_id:
                text = (call.get("function") or {}).get("arguments")
                with contextlib.suppress(ValueError):
                    return json.loads(text) if isinstance(text, str) else text
                return text
        return None

    @property
    def key(self) -> str:
        """The message in canonical form, for comparison."""
        if self._key is None:
            self._key = canonical(self.message)
        return self._key
