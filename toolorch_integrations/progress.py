"""Progress of a run for people who watch it: the same small events from both faces.

Every event is a dictionary with `type` and, where it applies, the call and the run's totals so far.
"""

from __future__ import annotations

from typing import Any, Literal

from toolorch_integrations.ledger import Call, Ledger

ProgressType = Literal["turn", "call_started", "call_ended", "budget_ended", "fallback"]


def turn(call: Call, ledger: Ledger, calls: list[str], text: str) -> dict[str, Any]:
    """Describe a policy call: what it said and which entries it wants called."""
    return {"type": "turn", "turn": call.turn, "text": text, "calls": calls, **_cost(call), "total": _total(ledger)}


def call_started(name: str, kind: str, call_id: str, arguments: Any) -> dict[str, Any]:
    """Describe a tool or specialist call that begins."""
    return {"type": "call_started", "name": name, "kind": kind, "call_id": call_id, "arguments": arguments}


def call_ended(call: Call, ledger: Ledger, result: str) -> dict[str, Any]:
    """Describe a tool or specialist call that ended, with its cost and the first part of its result."""
    return {
        "type": "call_ended",
        "name": call.name,
        "kind": str(call.kind),
        "call_id": call.call_id,
        "status": str(call.status),
        "result": result[:500],
        **_cost(call),
        "total": _total(ledger),
    }


def budget_ended(limit: str, ledger: Ledger) -> dict[str, Any]:
    """Say that a limit ended the run."""
    return {"type": "budget_ended", "limit": limit, "total": _total(ledger)}


def fallback(name: str, reason: str) -> dict[str, Any]:
    """Say that a specialist answers in the policy's place."""
    return {"type": "fallback", "name": name, "reason": reason}


def _cost(call: Call) -> dict[str, float]:
    return {"dollars": call.dollars, "seconds": round(call.seconds, 4)}


def _total(ledger: Ledger) -> dict[str, float]:
    return {"turns": ledger.turns, "dollars": ledger.dollars}
