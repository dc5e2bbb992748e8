"""Whether captured ids are of the policy's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolorch_integrations.node import Node
from toolorch_integrations.trace import Trace
from toolorch_rl.training.errors import TrainingError

LOOKED_AT = 200
"""Most replies that are decoded."""
MATCHING = 0.8
"""Least share of them that must read as captured. A parser may drop blanks, or rewrite a call that was not JSON."""


def check_tokenizer(traces: Sequence[Trace], tokenizer: Any, vocabulary: int) -> None:
    """Check that ids mean what they meant when they were sampled: decoded, they must read as the captured replies.

    Args:
        traces: The runs.
        tokenizer: The policy's.
        vocabulary: How many tokens the policy has.

    Raises:
        TrainingError: They do not; nothing has been trained.
    """
    looked, wrong = 0, ""
    bad = 0
    nodes = [node for trace in traces for node in trace.graph.nodes if _says_something(node)]
    for node in nodes[:: max(1, len(nodes) // LOOKED_AT)]:
        looked += 1
        ids = node.token_ids
        text = tokenizer.decode(ids.tolist(), skip_special_tokens=True) if int(ids.max()) < vocabulary else ""
        if not all(_plain(part) in _plain(text) for part in _parts(node)):
            bad += 1
            wrong = wrong or f"{text[:60]!r} for {' '.join(_parts(node))[:60]!r}"
    if looked and bad > (1 - MATCHING) * looked:
        raise TrainingError(
            f"the policy's tokenizer does not match the traces' ids: {bad} of {looked} replies read otherwise, such as "
            f"{wrong}; give the policy that made these runs, or choose others with `model`"
        )


def _says_something(node: Node) -> bool:
    return node.turn is not None and node.turn.is_policy and bool(node.ids) and bool(_parts(node))


def _parts(node: Node) -> list[str]:
    """Return what must be found in a reply's tokens: its text, and the names of the tools that it calls."""
    content = node.message.get("content")
    parts = [content] if isinstance(content, str) and content.strip() else []
    return parts + [str(call["function"]["name"]) for call in node.message.get("tool_calls") or []]


def _plain(text: str) -> str:
    return "".join(text.split())
