"""Events of small runs, for tests of capture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolorch_integrations.events import (
    CallEnded,
    Event,
    Message,
    PolicyCalled,
    TraceAnnotated,
    TraceEnded,
    TraceStarted,
)
from toolorch_integrations.ledger import Call, CallKind

CATALOG = {"entries": [{"name": "add", "price_per_call": 0.01}]}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def asks(turn: int) -> Message:
    function = {"name": "add", "arguments": f'{{"turn": {turn}}}'}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": f"c{turn}", "type": "function", "function": function}],
    }


def conversation(trace_id: str, turns: int = 2, width: int = 5, **more: Any) -> Iterator[PolicyCalled | CallEnded]:
    """Yield the calls of a run that uses a tool in each turn but the last."""
    messages: list[Message] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add."}]
    prompt = list(range(width))
    for turn in range(turns):
        last = turn == turns - 1
        reply = {"role": "assistant", "content": "4"} if last else asks(turn)
        ids = [1000 + turn] * 3
        yield PolicyCalled(
            trace_id,
            list(messages),
            reply,
            list(prompt),
            ids,
            [-0.25, -0.5, -float(turn)],
            model="policy-1",
            response_id=f"r{turn}",
            sampling={"temperature": 0.7},
            logprobs_mode="processed_logprobs",
            tools=TOOLS,
            finish_reason="stop" if last else "tool_calls",
            usage={"prompt_tokens": len(prompt), "completion_tokens": 3},
            seconds=0.5,
            dollars=0.001,
            **more,
        )
        if not last:
            call = Call(CallKind.TOOL, "add", dollars=0.01, seconds=0.1, call_id=f"c{turn}", turn=turn + 1)
            yield CallEnded(trace_id, call, {"turn": turn}, "4")
            messages += [reply, {"role": "tool", "tool_call_id": f"c{turn}", "content": "4"}]
            prompt += [*ids, 7, 7]


def run(trace_id: str, turns: int = 2, *, ended: bool = True, **started: Any) -> Iterator[Event]:
    """Yield all events of a run."""
    yield TraceStarted(trace_id, **{"framework": "langgraph", "app": "adder", "request": "Add.", **started})
    yield TraceAnnotated(trace_id, {"cost": 0.5}, {"dollars": 1.0}, CATALOG, {"tags": ["nightly"]})
    yield from conversation(trace_id, turns)
    if ended:
        yield TraceEnded(trace_id, answer="4")
