"""The message graph of a trace.

Invariant: the token ids along a path from a root are exactly the ids that the server saw and sampled. Nothing here
tokenises, splits the ids of a message, or drops an id. A node holds one message and the ids that it adds to its
parent's path, so branches, subagents, edited histories and drifted tokens are just other paths, and a growing
conversation grows linearly.

A server reports ids per call, not per message. The messages that a call adds to the path therefore form a group:
all ids of the group sit on its last message, and the others hold none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from toolorch_integrations.events import Message, PolicyCalled
from toolorch_integrations.node import ID_TYPE, LOGPROB_TYPE, Node, Turn
from toolorch_integrations.plain import canonical, plain


@dataclass(slots=True)
class Path:
    """A way from a root to a leaf, as a trainer reads it."""

    nodes: list[Node]
    token_ids: npt.NDArray[np.uint32]
    logprobs: npt.NDArray[np.float32]
    """NaN where nothing was sampled, or the server gave none."""
    sampled: npt.NDArray[np.bool_]
    """True for ids that the policy sampled; ids that another model of the app sampled are context."""
    spans: list[tuple[int, int]]
    """Start and stop of each node's ids."""
    messages: list[Message]
    """As the app sent them last."""

    @property
    def exact(self) -> bool:
        """Whether all ids are the server's own."""
        return all(node.exact for node in self.nodes)


@dataclass(slots=True)
class TraceGraph:
    """The nodes of a trace in the order in which they came."""

    nodes: list[Node] = field(default_factory=list)
    _children: dict[int | None, list[int]] = field(default_factory=dict)
    _askers: dict[str, int] = field(default_factory=dict)
    _rewritten: bool = False
    """Whether any turn holds rewritten messages: where none does, equal messages need no second look."""

    def __len__(self) -> int:
        return len(self.nodes)

    def append(self, node: Node) -> Node:
        """Add a node whose index is the next one: `add_policy_call` and stores build graphs with it."""
        if node.index != len(self.nodes) or (node.parent is not None and node.parent >= node.index):
            raise ValueError(f"node {node.index} with parent {node.parent} does not follow {len(self.nodes)} nodes")
        self.nodes.append(node)
        self._children.setdefault(node.parent, []).append(node.index)
        if node.turn is not None:
            self._askers.update(dict.fromkeys(node.tool_call_ids, node.index))
            self._rewritten = self._rewritten or bool(node.turn.rewrites)
        return node

    def children(self, index: int | None) -> list[int]:
        """Return the nodes that follow a node; None gives the roots."""
        return self._children.get(index, [])

    def asker(self, call_id: str) -> int | None:
        """Return the newest sampled node that asks for a tool call."""
        return self._askers.get(call_id)

    def add_policy_call(self, call: PolicyCalled, tools: str = "") -> Node | None:
        """Add what a call adds to the graph.

        Args:
            call: The call; its messages and ids are copied.
            tools: Hash of the tool schemas that were sent.

        Returns:
            The sampled node, or where the call failed, the node that it was made from (None without messages).
        """
        # All that can be refused is looked at before the graph changes.
        prompt = None if call.prompt_token_ids is None else _id_bytes(call.prompt_token_ids)
        ids = b"" if call.token_ids is None else _id_bytes(call.token_ids)
        logprobs = None if call.logprobs is None else np.asarray(call.logprobs, LOGPROB_TYPE).tobytes()
        if logprobs is not None and len(logprobs) != len(ids):
            logprobs = None  # A trainer could not tell which id each belongs to.
        exact = prompt is not None and call.token_ids is not None
        if prompt is not None and exact:
            last, rewrites = self._add_prompt(call.messages, prompt)
        else:
            last, rewrites = self._add_inexact_prompt(call.messages)
        if call.reply is None:
            return None if last is None else self.nodes[last]
        turn = Turn(
            model=call.model,
            response_id=call.response_id,
            sampling=plain(call.sampling),
            logprobs_mode=call.logprobs_mode,
            finish_reason=call.finish_reason,
            usage=plain(call.usage),
            started=call.started,
            seconds=call.seconds,
            dollars=call.dollars,
            agent=call.agent,
            is_policy=call.is_policy,
            tools=tools,
            raw_text=call.raw_text,
            invalid_tool_calls=plain(call.invalid_tool_calls),
            rewrites=rewrites,
        )
        return self._new(last, call.reply, ids, exact, logprobs, turn)

    def path_to(self, index: int) -> list[Node]:
        """Return the nodes from the root to a node."""
        nodes: list[Node] = []
        at: int | None = index
        while at is not None:
            nodes.append(self.nodes[at])
            at = self.nodes[at].parent
        nodes.reverse()
        return nodes

    def path(self, index: int) -> Path:
        """Return the path to a node as arrays."""
        nodes = self.path_to(index)
        stops = np.cumsum([len(node.ids) // ID_TYPE.itemsize for node in nodes]).tolist()
        spans = list(zip([0, *stops[:-1]], stops, strict=True))
        logprobs = np.full(stops[-1], np.nan, LOGPROB_TYPE)
        sampled = np.zeros(stops[-1], np.bool_)
        for node, (start, stop) in zip(nodes, spans, strict=True):
            if node.turn is not None:
                sampled[start:stop] = node.turn.is_policy
                if node.logprobs is not None:
                    logprobs[start:stop] = node.logprobs
        ids = np.frombuffer(b"".join(node.ids for node in nodes), ID_TYPE)
        return Path(nodes, ids, logprobs, sampled, spans, self.messages_to(index))

    def leaves(self) -> list[int]:
        """Return the indexes of the nodes that nothing follows."""
        return [node.index for node in self.nodes if not self.children(node.index)]

    def paths(self) -> Iterator[Path]:
        """Yield the path to each leaf, in the order in which the leaves came."""
        for index in self.leaves():
            yield self.path(index)

    def call_ids(self, index: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        """Return the prompt ids and sampled ids of the call that sampled a node, exactly as the server gave them."""
        nodes = self.path_to(index)
        return np.frombuffer(b"".join(node.ids for node in nodes[:-1]), ID_TYPE), nodes[-1].token_ids

    def messages_to(self, index: int) -> list[Message]:
        """Return the messages along a path as the app sent them last, and the node's own."""
        nodes = self.path_to(index)
        rewritten: dict[int, Message] = {}
        for node in nodes:
            if node.turn is not None:
                rewritten.update(node.turn.rewrites)
        return [rewritten.get(node.index, node.message) for node in nodes]

    def _add_prompt(self, messages: Sequence[Message], ids: bytes) -> tuple[int | None, dict[int, Message]]:
        last, offset, count, changed = self._match(messages, ids)
        rewrites = self._rewrites(last, messages) if changed or self._rewritten else {}
        rest = list(messages[count:])
        if not rest and offset < len(ids):
            rest = [{}]  # A prompt without messages (a completions endpoint): its ids need a node all the same.
        for position, message in enumerate(rest, start=1):
            last = self._new(last, message, ids[offset:] if position == len(rest) else b"").index
        return last, rewrites

    def _add_inexact_prompt(self, messages: Sequence[Message]) -> tuple[int | None, dict[int, Message]]:
        last: int | None = None
        count = 0
        frontier: list[int | None] = [None]
        while count < len(messages):
            message = messages[count]
            frontier = [c for at in frontier for c in self.children(at) if _same(self.nodes[c], message, lenient=True)]
            if not frontier:
                break
            last, count = frontier[-1], count + 1
        rewrites = self._rewrites(last, messages)
        for message in messages[count:]:
            last = self._new(last, message, exact=False).index
        return last, rewrites

    def _match(self, messages: Sequence[Message], ids: bytes) -> tuple[int | None, int, int, int]:
        """Find the deepest path whose ids are the beginning of `ids`: its end, bytes, messages and rewritten ones.

        A node whose ids come next is followed even where the app has rewritten its message: the ids decide, and
        the other wording is kept with the turn. A node without ids is only followed for an equal message. At least
        one message stays over for ids that no path has.
        """
        best: tuple[int, int, int, int] = (0, 0, 0, -1)
        stack: list[tuple[int | None, int, int, int]] = [(None, 0, 0, 0)]
        nodes, children, number, end = self.nodes, self._children, len(messages), len(ids)
        while stack:
            at, offset, count, changed = stack.pop()
            if at is not None and (offset == end or count < number) and (offset, count, -changed, at) > best:
                best = (offset, count, -changed, at)
            if count == number:
                continue
            message = messages[count]
            for index in children.get(at, ()):
                node = nodes[index]
                if not node.exact or not ids.startswith(node.ids, offset):
                    continue
                if node.message == message or _same(node, message):
                    stack.append((index, offset + len(node.ids), count + 1, changed))
                elif node.ids and node.role == message.get("role", ""):
                    stack.append((index, offset + len(node.ids), count + 1, changed + 1))
        offset, count, unchanged, index = best
        return (None, 0, 0, 0) if index < 0 else (index, offset, count, -unchanged)

    def _rewrites(self, last: int | None, messages: Sequence[Message]) -> dict[int, Message]:
        if last is None:
            return {}
        known = self.messages_to(last)
        return {
            node.index: plain(message)
            for node, old, message in zip(self.path_to(last), known, messages, strict=False)
            if old != message and canonical(old) != canonical(message)
        }

    def _new(
        self,
        parent: int | None,
        message: Message,
        ids: bytes = b"",
        exact: bool = True,
        logprobs: bytes | None = None,
        turn: Turn | None = None,
    ) -> Node:
        kept = plain({key: value for key, value in message.items() if value is not None})
        return self.append(Node(len(self.nodes), parent, kept, ids, logprobs, exact, turn))


def _same(node: Node, message: Message, *, lenient: bool = False) -> bool:
    """Whether a node holds a message. Lenient: reasoning that the app did not send back makes no difference."""
    if node.message == message:
        return True
    key = canonical(message)
    if node.key == key:
        return True
    if not (lenient and node.turn is not None and "reasoning" in node.message and not message.get("reasoning")):
        return False
    return canonical({name: value for name, value in node.message.items() if name != "reasoning"}) == key


def _id_bytes(ids: Iterable[int] | npt.NDArray[np.integer[Any]]) -> bytes:
    array = np.asarray(ids)
    if array.dtype == ID_TYPE:
        return array.tobytes()
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"token ids must be integers, got {array.dtype}")
    if array.size and (array.min() < 0 or array.max() > np.iinfo(np.uint32).max):
        raise ValueError(f"token ids must fit 32 bits without a sign, got {array.min()} to {array.max()}")
    return array.astype(ID_TYPE).tobytes()
