"""What must be the same when a run goes through one face and through the other: requests, calls and traces."""

from __future__ import annotations

from typing import Any

from toolorch_integrations.trace import Trace


def plain_calls(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return calls without run ids and times; calls that ran side by side in a fixed order."""
    kept = [{key: value for key, value in call.items() if key not in ("run_id", "seconds")} for call in calls]
    for call in kept:
        call["error"] = call["error"].partition(": ")[2]  # OpenAI's client and LangChain's name the class differently
    return sorted(kept, key=lambda call: (call["turn"], call["kind"] != "policy", call["call_id"]))


def plain_trace(trace: Trace | None) -> dict[str, Any] | None:
    """Return what a trace says but ids, times, and the names of framework and graph."""
    if trace is None:
        return None
    return {
        "status": trace.status,
        "request": trace.request,
        "answer": trace.answer,
        "error": trace.error,
        "preferences": trace.preferences,
        "budget": trace.budget,
        "catalog": trace.catalog,
        "exact": trace.exact,
        "policies": trace.policy_versions,
        "totals": [trace.totals.turns, trace.totals.calls, trace.totals.input_tokens, trace.totals.output_tokens],
        "dollars": round(trace.totals.dollars, 12),
        "metadata": sorted(trace.metadata),
        "nodes": [
            {
                "parent": node.parent,
                "message": node.message,
                "ids": node.ids,
                "logprobs": node.logprob_bytes,
                "exact": node.exact,
                "turn": node.turn
                and {
                    "model": node.turn.model,
                    "sampling": node.turn.sampling,
                    "logprobs_mode": node.turn.logprobs_mode,
                    "finish_reason": node.turn.finish_reason,
                    "usage": node.turn.usage,
                    "dollars": node.turn.dollars,
                    "agent": node.turn.agent,
                    "is_policy": node.turn.is_policy,
                    "tools": trace.tools(node),
                    "rewrites": node.turn.rewrites,
                    "invalid": [(call["name"], call["args"]) for call in node.turn.invalid_tool_calls],
                },
            }
            for node in trace.graph.nodes
        ],
        "calls": sorted(
            (
                [entry.node, entry.call.call_id, str(entry.arguments), entry.result, entry.agent]
                + [str(value) for value in plain_calls([entry.call.to_dict()])[0].values()]
                for entry in trace.calls
            ),
            key=str,
        ),
    }


def without_ids(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return requests with their tool call ids numbered: the server gives each call of its life another."""
    numbers: dict[str, int] = {}

    def number(call_id: str) -> int:
        return numbers.setdefault(call_id, len(numbers))

    def plain(message: dict[str, Any]) -> dict[str, Any]:
        kept = dict(message)
        if "tool_calls" in kept:
            kept["tool_calls"] = [{**call, "id": number(call["id"])} for call in kept["tool_calls"]]
        if "tool_call_id" in kept:
            kept["tool_call_id"] = number(kept["tool_call_id"])
        return kept

    return [{**request, "messages": [plain(message) for message in request["messages"]]} for request in requests]


def prompt_ids(trace: Trace | None) -> list[tuple[list[int], list[int]]]:
    """Return prompt and sampled ids of each policy call."""
    if trace is None:
        return []
    sampled = [node for node in trace.graph.nodes if node.sampled]
    return [(prompt.tolist(), ids.tolist()) for prompt, ids in (trace.graph.call_ids(node.index) for node in sampled)]
