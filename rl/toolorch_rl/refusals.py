"""Which captured runs a trainer may not learn from, and why.

A run is refused with one reason of a fixed list, so that refusals can be counted. Some reasons hold for every use of
the ids; the others only where the log-probabilities count (off-policy learning, estimates), and supervised training
takes such runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np

from toolorch_integrations.errors import ToolorchError
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.ledger import CallKind, CallStatus
from toolorch_integrations.node import Node, Turn
from toolorch_integrations.trace import Trace


class Reason(StrEnum):
    """Why a run gives no rows."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    CUT_OFF = "cut off"
    LOST_EVENTS = "lost events"
    INEXACT = "inexact"
    NOTHING_SAMPLED = "nothing sampled"
    VOCABULARY = "other vocabulary"
    NO_LOGPROBS = "no log-probabilities"
    OTHER_LOGPROBS = "log-probabilities of another distribution"
    GREEDY = "greedy"
    TRUNCATED = "truncated sampling"


FIXES: dict[Reason, str] = {
    Reason.RUNNING: "read it again when it has ended",
    Reason.INTERRUPTED: "resume it, or leave it out: it has no ending to reward",
    Reason.CUT_OFF: "run the task again: the policy's server failed, which is not the policy's doing",
    Reason.LOST_EVENTS: "give the recorder more room (max_events) or a faster store",
    Reason.INEXACT: "capture from a server that returns token ids, unredacted; sft, dpo and kto take such runs",
    Reason.NOTHING_SAMPLED: "there is nothing to learn from: leave it out",
    Reason.VOCABULARY: "use the model and tokenizer that sampled the run",
    Reason.NO_LOGPROBS: "ask the server for log-probabilities; sft takes such runs",
    Reason.OTHER_LOGPROBS: "start vLLM with --logprobs-mode processed_logprobs; sft takes such runs",
    Reason.GREEDY: "sample with a temperature above 0; sft takes such runs",
    Reason.TRUNCATED: "sample without top_p, top_k, min_p, penalties and constraints, or pass take_truncated=True",
}
"""What to do about each."""


class TraceRefusedError(ToolorchError, ValueError):
    """A captured run cannot be learnt from.

    Attributes:
        trace_id: The run.
        reason: Why.
    """

    def __init__(self, trace_id: str, reason: Reason, detail: str) -> None:
        super().__init__(f"trace {trace_id} is refused ({reason.value}): {detail}; {FIXES[reason]}")
        self.trace_id = trace_id
        self.reason = reason


def check_ended(trace: Trace) -> None:
    """Refuse a run that has not ended, was cut off, lost events or has ids that are not the server's."""
    if trace.status is TraceStatus.RUNNING:
        raise TraceRefusedError(trace.id, Reason.RUNNING, "it has not ended")
    if trace.status is TraceStatus.INTERRUPTED:
        raise TraceRefusedError(trace.id, Reason.INTERRUPTED, "it waits for a person, or its process died")
    if lost := trace.metadata.get("dropped"):
        counts = ", ".join(f"{number} by {reason}" for reason, number in dict(lost).items())
        raise TraceRefusedError(trace.id, Reason.LOST_EVENTS, f"events were lost ({counts})")
    if trace.status is TraceStatus.ERROR and _died_asking(trace):
        raise TraceRefusedError(trace.id, Reason.CUT_OFF, "its last policy call failed")
    if not trace.exact:
        raise TraceRefusedError(trace.id, Reason.INEXACT, "not all of its ids are the server's own")


def _died_asking(trace: Trace) -> bool:
    """Whether the last thing that was asked of the policy failed."""
    policy = (entry for entry in trace.calls if entry.call.kind is CallKind.POLICY)
    failed = [entry.started for entry in policy if entry.call.status in (CallStatus.ERROR, CallStatus.TIMEOUT)]
    turns = (node.turn for node in trace.graph.nodes)
    answered = max((turn.started for turn in turns if turn is not None and turn.is_policy), default=0.0)
    return bool(failed) and max(failed) >= answered


def check_vocabulary(trace: Trace, ids: np.typing.NDArray[np.uint32], vocabulary: int) -> None:
    """Refuse ids that the model does not have."""
    if len(ids) and int(ids.max()) >= vocabulary:
        detail = f"it holds token id {int(ids.max())}, and the model has {vocabulary} tokens"
        raise TraceRefusedError(trace.id, Reason.VOCABULARY, detail)


def check_logprobs(trace: Trace, node: Node, turn: Turn, *, take_truncated: bool) -> None:
    """Refuse a sampled node whose log-probabilities are not those of the distribution that it was sampled from."""
    where = f"node {node.index}"
    logprobs = node.logprobs
    if logprobs is None or not np.isfinite(logprobs).all():
        raise TraceRefusedError(trace.id, Reason.NO_LOGPROBS, f"{where} lacks them")
    temperature = temperature_of(turn)
    if temperature == 0.0:
        raise TraceRefusedError(trace.id, Reason.GREEDY, f"{where} was sampled at temperature 0, with certainty")
    mode = turn.logprobs_mode
    if mode not in ("processed_logprobs", "raw_logprobs", ""):
        raise TraceRefusedError(trace.id, Reason.OTHER_LOGPROBS, f"{where} has {mode}")
    if mode != "processed_logprobs" and temperature != 1.0:
        named = mode or "log-probabilities of an unknown kind"
        raise TraceRefusedError(trace.id, Reason.OTHER_LOGPROBS, f"{where} has {named} at temperature {temperature:g}")
    if not take_truncated and (names := truncation(turn.sampling)):
        raise TraceRefusedError(trace.id, Reason.TRUNCATED, f"{where} was sampled with {', '.join(names)}")


def temperature_of(turn: Turn) -> float:
    """Return the temperature that a turn was sampled at; 1 where the request named none."""
    value = turn.sampling.get("temperature")
    return 1.0 if value is None else float(value)


_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_p": (1,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "tool_choice": ("auto", "none"),
    "response_format": ({"type": "text"},),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "min_tokens": (0,),
    "structured_outputs": ({},),
    "thinking_token_budget": (),
}


def truncation(sampling: Mapping[str, Any]) -> list[str]:
    """Return the sampling parameters by which a server samples from another distribution than the model's own.

    A token's probability is then its share of what was left, which a trainer cannot compute anew, and tokens that were
    left out can never be weighed up. With top_p alone the ratio of new to old probability is off by at most 1 / top_p.
    Also so with penalties and biases, and with `tool_choice` "required" or a named function, a `response_format` or
    `structured_outputs`: a grammar is in the way.
    """
    return [f"{k}={sampling[k]}" for k, ok in _NEUTRAL.items() if sampling.get(k) is not None and sampling[k] not in ok]
