"""What the page's test double answers: a catalogue, traces with branches and tokens, routing, versions."""

from __future__ import annotations

import math
from typing import Any

TRACE_ID = "5f0c9a0e7d3b4c6fa1e2d3c4b5a69788"
NOW = 1_790_000_000.0
ANSWER = "About 14.2 million people live in Tokyo Prefecture (2025), and 37 million in the greater area."
_FOUND = (
    "Tokyo Metropolis, population by month: the prefecture's residents, 14.2 million in 2025",
    "Census of Japan, prefectures: counts of 2020 with the definitions of prefecture and special wards",
    "Largest urban areas of the world: Greater Tokyo with 37 million, counted across four prefectures",
    "Special wards of Tokyo: the 23 wards have 9.8 million residents together",
    "How cities are counted, and why the figures for Tokyo differ by a factor of four",
)
LONG_RESULT = "\n".join(
    f"{number}. {text}. https://example.org/tokyo/{number}" for number, text in enumerate(_FOUND, 1)
)

CATALOG: list[dict[str, Any]] = [
    {
        "name": "search",
        "kind": "tool",
        "description": "Searches the web.",
        "price": {"input": 0, "output": 0, "call": 0.001},
        "latency": 0.8,
        "destructive": False,
        "capabilities": ["search"],
    },
    {
        "name": "delete_project",
        "kind": "tool",
        "description": "Deletes a project and its tasks.",
        "price": {"input": 0, "output": 0, "call": 0},
        "latency": None,
        "destructive": True,
        "capabilities": [],
    },
    {
        "name": "analyst",
        "kind": "specialist",
        "description": "Reads sources and compares figures.",
        "price": {"input": 0.2, "output": 0.6, "call": 0},
        "latency": 1.5,
        "destructive": False,
        "capabilities": ["reading"],
    },
    {
        "name": "expert",
        "kind": "specialist",
        "description": "Strongest at everything, dear.",
        "price": {"input": 5, "output": 25, "call": 0},
        "latency": 6,
        "destructive": False,
        "capabilities": ["reading", "math", "code"],
    },
]

_REQUESTS = (
    "What is the population of Tokyo?",
    "Sum of the first ten Fibonacci numbers",
    "Delete the project Old website and tell the team",
    "How long does the train take for 300 km?",
)
_STATUSES = ("answered", "answered", "interrupted", "answered", "budget", "error")


def headers(number: int) -> list[dict[str, Any]]:
    """Return headers of so many traces, newest first; the first is the one that has a graph."""
    return [_header(index) for index in range(number)]


def _header(index: int) -> dict[str, Any]:
    totals = {"turns": 3, "calls": 2, "input_tokens": 1840, "output_tokens": 212}
    return {
        "id": TRACE_ID if index == 0 else f"{index:032x}",
        "status": _STATUSES[index % len(_STATUSES)],
        "started": NOW - 97 * index,
        "ended": NOW - 97 * index + 2,
        "app": "orchestrator" if index % 3 else "shop",
        "framework": "langgraph",
        "thread_id": f"thread-{index // 4}",
        "request": _REQUESTS[index % len(_REQUESTS)],
        "answer": ANSWER if index == 0 else "",
        "error": "",
        "preferences": {"quality": 1.0, "cost": 0.6, "latency": 0.0},
        "budget": {"turns": 12, "dollars": 0.05, "seconds": None},
        "policy_versions": ["policy-v2"],
        "exact": True,
        "totals": totals | {"dollars": 0.002236 + 0.0004 * (index % 5), "seconds": 2.31 + index % 3},
    }


def trace_body() -> dict[str, Any]:
    """Return graph, calls and opinions of a run whose history was edited once, so that its graph has two branches."""
    sampled = {"model": "policy-v2", "seconds": 0.21, "dollars": 0.000012, "sampling": {"temperature": 0.7}}
    first = "The population changes, so I look for a recent figure before I answer."
    return {
        "nodes": [
            _node(0, None, "system", "You are an orchestrator. Call tools, hand steps to specialists, or answer."),
            _node(1, 0, "user", "What is the population of Tokyo?"),
            _node(2, 1, "assistant", first, turn=sampled, calls=[("c1", "search", '{"query": "population of Tokyo"}')]),
            _node(3, 2, "tool", LONG_RESULT, call_id="c1"),
            _node(
                4, 3, "assistant", "The sources differ.", turn=sampled, calls=[("c2", "analyst", '{"task": "Which?"}')]
            ),
            _node(5, 4, "tool", "The prefecture: 14.2 million in 2025.", call_id="c2"),
            _node(6, 5, "assistant", ANSWER, turn=sampled),
            _node(7, 1, "assistant", "Summary of the conversation so far: figures were looked up."),
            _node(8, 7, "user", "And of Osaka?"),
            _node(9, 8, "assistant", "About 8.8 million in Osaka Prefecture.", turn=sampled),
        ],
        "calls": [
            _call("search", "tool", "c1", 2, {"query": "population of Tokyo"}, LONG_RESULT, 0.0011, 0.84),
            _call("analyst", "specialist", "c2", 4, {"task": "Which?"}, "The prefecture: 14.2 million.", 0.0011, 0.9),
        ],
        "feedback": [{"id": "f1", "name": "user", "score": 1.0, "comment": "Right and short.", "created": NOW}],
        "rewards": [{"id": "r1", "verifier": "shop", "values": {"outcome": 1.0, "cost": -0.002}, "created": NOW}],
    }


def _node(
    index: int,
    parent: int | None,
    role: str,
    content: str,
    *,
    turn: dict[str, Any] | None = None,
    calls: list[tuple[str, str, str]] | None = None,
    call_id: str | None = None,
) -> dict[str, Any]:
    asked = [
        {"id": key, "type": "function", "function": {"name": name, "arguments": text}}
        for key, name, text in calls or []
    ]
    words = [word if not place else f" {word}" for place, word in enumerate(content.split(" "))]
    tokens = [
        {"id": 100 + place, "logprob": _logprob(place) if turn else None, "text": word}
        for place, word in enumerate(words)
    ]
    node = {"index": index, "parent": parent, "role": role, "content": content, "tool_calls": asked}
    return node | {"tool_call_id": call_id, "tokens": tokens, "turn": turn}


def _logprob(place: int) -> float:
    return math.log((0.97, 0.93, 0.66, 0.99, 0.31, 0.95, 0.045, 0.91, 0.98, 0.006)[place % 10])


def _call(
    name: str, kind: str, call_id: str, node: int, arguments: Any, result: str, dollars: float, seconds: float
) -> dict[str, Any]:
    cost = {"dollars": dollars, "seconds": seconds, "started": NOW + node}
    text = {"arguments": arguments, "result": result, "error": ""}
    return {
        "name": name,
        "kind": kind,
        "status": "ok",
        "node": node,
        "call_id": call_id,
        "confirmed": False,
        **cost,
        **text,
    }


def routing(since: float = NOW, bucket: int = 3600) -> dict[str, Any]:
    """Return a day in which a new version takes over and the expert is called less and less; an hour has no runs."""
    buckets = []
    for place in range(24):
        if place == 9:
            continue
        runs = 40 + (place * 7) % 23
        expert = max(4, 30 - place)
        calls = {"search": 20 + place % 6, "analyst": 6 + place, "expert": expert, "code_interpreter": 5 + place % 4}
        versions = {"policy-v1": runs - place, "policy-v2": place} if place < 20 else {"policy-v2": runs}
        start = since + place * bucket
        buckets.append(
            {
                "start": start,
                "seconds": 3.1 * runs,
                "runs": runs,
                "dollars": 0.004 * expert,
                "calls": calls,
                "versions": versions,
            }
        )
    return {"buckets": buckets}


def promotion(candidate: str, incumbent: str, step: str, reason: str, when: float) -> dict[str, Any]:
    """Return a step of a promotion's history."""
    evidence = {"solved": {"candidate": 0.74, "incumbent": 0.655}, "runs": 240} if step == "promoted" else {}
    share = {"promoted": 1.0, "canary": 0.1}.get(step, 0.0)
    record = {"candidate": candidate, "incumbent": incumbent, "step": step, "reason": reason}
    return record | {"time": when, "share": share, "evidence": evidence}


def versions() -> dict[str, Any]:
    """Return a server that serves its second version and tries its third on a tenth of the runs."""
    history = [
        promotion("policy-v2", "policy-v1", "begun", "", NOW - 7200),
        promotion(
            "policy-v2", "policy-v1", "promoted", "Better on the goal, no worse on what is protected.", NOW - 3600
        ),
        promotion("policy-v3", "policy-v2", "canary", "A tenth of the live runs.", NOW - 600),
    ]
    served = ["policy-v1", "policy-v2", "policy-v3"]
    return {"current": "policy-v2", "candidate": "policy-v3", "share": 0.1, "served": served, "history": history}
