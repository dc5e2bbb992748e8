"""From captured runs to rows: what `rows` describes, read out of message graphs.

No token is looked at by itself: a row is a handful of slices of the run's ids, so reading costs little more than
copying.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from toolorch_integrations.node import ID_TYPE, LOGPROB_TYPE, Node
from toolorch_integrations.trace import Trace
from toolorch_rl.refusals import (
    Reason,
    TraceRefusedError,
    check_ended,
    check_logprobs,
    check_vocabulary,
    temperature_of,
)
from toolorch_rl.rows import Rollout, Row

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class ReadTraces:
    """What was read of some traces, and what was refused."""

    rollouts: tuple[Rollout, ...]
    refused: tuple[TraceRefusedError, ...]

    @property
    def counts(self) -> Counter[Reason]:
        """How many traces were refused, by reason."""
        return Counter(refusal.reason for refusal in self.refused)

    def report(self) -> str:
        """Say in one line what was read, and how many were refused for which reason, with an example of each."""
        first = {refusal.reason: refusal.trace_id for refusal in reversed(self.refused)}
        parts = [f"{n} {reason.value} (such as {first[reason]})" for reason, n in self.counts.most_common()]
        rows = sum(len(rollout.rows) for rollout in self.rollouts)
        tokens = sum(rollout.trained_tokens for rollout in self.rollouts)
        read = f"{len(self.rollouts)} traces read: {rows} rows, {tokens} trained tokens"
        return f"{read}; {len(self.refused)} refused: {', '.join(parts)}" if parts else read


def rollouts_of(
    traces: Iterable[Trace],
    *,
    vocabulary: int | None = None,
    off_policy: bool = True,
    take_truncated: bool = False,
) -> ReadTraces:
    """Read traces, and keep account of those that are refused; the arguments are those of `rollout_of`."""
    read: list[Rollout] = []
    refused: list[TraceRefusedError] = []
    for trace in traces:
        try:
            rollout = rollout_of(trace, vocabulary=vocabulary, off_policy=off_policy, take_truncated=take_truncated)
        except TraceRefusedError as error:
            refused.append(error)
        else:
            read.append(rollout)
    return ReadTraces(tuple(read), tuple(refused))


def rollout_of(
    trace: Trace,
    *,
    vocabulary: int | None = None,
    off_policy: bool = True,
    take_truncated: bool = False,
) -> Rollout:
    """Return a run's rows: one a path that trains something.

    Args:
        trace: The run.
        vocabulary: How many tokens the model has; None does not look.
        off_policy: Whether the log-probabilities count. False (supervised training) takes runs without them, greedy
            ones and those of truncated sampling; where a run was greedy the temperature is then 1, which is what
            vLLM's log-probabilities of greedy calls are of.
        take_truncated: Whether to take runs of truncated or constrained sampling (top_p, a required tool call ...)
            all the same. Ratios of probabilities are then biased; see `refusals.truncation`.

    Raises:
        TraceRefusedError: The run cannot be learnt from.
    """
    check_ended(trace)
    nodes = trace.graph.nodes
    sampled = [node for node in nodes if node.ids and node.turn is not None and node.turn.is_policy]
    if not sampled:
        raise TraceRefusedError(trace.id, Reason.NOTHING_SAMPLED, "the policy sampled no token of it")
    for node in sampled:
        if node.turn is not None and off_policy:
            check_logprobs(trace, node, node.turn, take_truncated=take_truncated)
    tokens = _Tokens.of(nodes, sampled)
    if vocabulary is not None:
        check_vocabulary(trace, tokens.ids, vocabulary)
    rows = tuple(_rows(trace, tokens, {node.index for node in sampled}))
    if not rows:
        raise TraceRefusedError(trace.id, Reason.NOTHING_SAMPLED, "every sampled token stands without a prompt")
    versions = dict.fromkeys(node.turn.model for node in sampled if node.turn is not None)
    return Rollout(trace.id, rows, tuple(versions))


@dataclass(slots=True)
class _Tokens:
    """All tokens of a run, node by node in the order of the nodes."""

    starts: list[int]
    """Where each node's tokens start; one more entry for the end."""
    ids: npt.NDArray[np.uint32]
    sampled: npt.NDArray[np.bool_]
    logprobs: npt.NDArray[np.float32]
    temperatures: npt.NDArray[np.float32]
    nodes: npt.NDArray[np.int32]

    @classmethod
    def of(cls, nodes: list[Node], sampled: list[Node]) -> _Tokens:
        lengths = [len(node.ids) // ID_TYPE.itemsize for node in nodes]
        starts = list(accumulate(lengths, initial=0))
        mask = np.zeros(starts[-1], np.bool_)
        logprobs, temperatures = np.empty(starts[-1], LOGPROB_TYPE), np.empty(starts[-1], np.float32)
        logprobs.fill(np.nan)
        temperatures.fill(1.0)
        for node in sampled:
            span = slice(starts[node.index], starts[node.index + 1])
            mask[span] = True
            if node.logprobs is not None:
                logprobs[span] = node.logprobs
            if node.turn is not None:
                temperatures[span] = temperature_of(node.turn) or 1.0
        ids = np.frombuffer(b"".join([node.ids for node in nodes]), ID_TYPE)
        return cls(starts, ids, mask, logprobs, temperatures, np.arange(len(nodes), dtype=np.int32).repeat(lengths))


def _rows(trace: Trace, tokens: _Tokens, sampled: set[int]) -> Iterable[Row]:
    """Yield the row of each path that has a sampled node that no earlier path has."""
    nodes = trace.graph.nodes
    taken: set[int] = set()
    for leaf in trace.graph.leaves():
        path: list[int] = []
        at: int | None = leaf
        while at is not None:
            path.append(at)
            at = nodes[at].parent
        path.reverse()
        shared = len(taken.intersection(path)) if taken else 0  # what earlier rows have is where the path begins
        if sampled.isdisjoint(path[shared:]):
            continue
        for index in path:
            if not nodes[index].exact:
                raise TraceRefusedError(trace.id, Reason.INEXACT, f"node {index} lacks the server's ids")
        row = _row(trace.id, tokens, path, shared)
        taken.update(path)
        if path[0] not in sampled or row.trained.any():
            yield row


def _row(trace_id: str, tokens: _Tokens, path: list[int], shared: int) -> Row:
    """Return a path as a row, of which another row trains the first `shared` nodes."""
    starts = tokens.starts
    breaks = [0, *(at + 1 for at, (a, b) in enumerate(pairwise(path)) if b != a + 1), len(path)]
    spans = [slice(starts[path[a]], starts[path[b - 1] + 1]) for a, b in pairwise(breaks)]
    trained = _take(tokens.sampled, spans).copy()
    # Nothing precedes the first token of a path, so nothing predicts it.
    trained[: max(sum(starts[i + 1] - starts[i] for i in path[:shared]), 1)] = False
    return Row(
        trace_id=trace_id,
        leaf=path[-1],
        ids=_take(tokens.ids, spans),
        trained=trained,
        logprobs=_take(tokens.logprobs, spans),
        temperatures=_take(tokens.temperatures, spans),
        nodes=_take(tokens.nodes, spans),
    )


def _take(values: np.ndarray[Any, np.dtype[_Scalar]], spans: list[slice]) -> np.ndarray[Any, np.dtype[_Scalar]]:
    return values[spans[0]] if len(spans) == 1 else np.concatenate([values[span] for span in spans])
