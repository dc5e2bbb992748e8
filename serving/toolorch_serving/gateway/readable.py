"""Progress events as single readable lines, for clients that show reasoning and know nothing of orchestrators."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

LINE = 300
"""Characters of a line."""


def line(event: Mapping[str, Any]) -> str:
    """Return a progress event in one line."""
    match event["type"]:
        case "turn":
            wants = f"calls {', '.join(event['calls'])}" if event["calls"] else "answers"
            text = f"Turn {event['turn']}: {wants} ({_cost(event)})"
            said = f" {event['text']}" if event["calls"] and event["text"] else ""
            return _one_line(text + said)
        case "call_started":
            return _one_line(f"{event['name']} {json.dumps(event['arguments'], ensure_ascii=False)}")
        case "call_ended":
            how = "" if event["status"] == "ok" else f" {event['status']}"
            return _one_line(f"{event['name']}{how} ({_cost(event)}): {event['result']}")
        case "budget_ended":
            return f"The budget's limit of {event['limit']} ended the run."
        case _:
            return _one_line(f"{event['reason']} {event['name']} answers in the policy's place.")


def _cost(event: Mapping[str, Any]) -> str:
    return f"${event['dollars']:.6g}, {event['seconds']:.2f} s"


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LINE else f"{text[: LINE - 3]}..."
