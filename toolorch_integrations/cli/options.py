"""Options that several commands have, and how their texts are read."""

from __future__ import annotations

from enum import StrEnum

import typer

from toolorch_integrations.preferences import Preferences


class Shown(StrEnum):
    """How a report is written."""

    TABLE = "table"
    JSON = "json"


def preferences(text: str) -> Preferences:
    """Read preferences such as cost=0.6,latency=0.2,tools.coder=1 or a JSON object."""
    try:
        if text.lstrip().startswith("{"):
            return Preferences.model_validate_json(text)
        weights = {name.strip(): float(value) for name, _, value in map(_pair, filter(str.strip, text.split(",")))}
        tools = {name: weights.pop(name) for name in list(weights) if name.startswith("tools.")}
        wishes = {name.removeprefix("tools."): weight for name, weight in tools.items()}
        return Preferences.model_validate({**weights, "tools": wishes})
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} are no preferences: give cost=0.6,latency=0.2 or JSON ({error})") from error


def _pair(part: str) -> tuple[str, str, str]:
    return part.partition("=")
