"""Options that several commands have, and how their texts are read."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import typer

from toolorch_integrations.preferences import Preferences

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 120
"""Columns of a report that goes to a file or a pipe."""


class Shown(StrEnum):
    """How a report is written."""

    TABLE = "table"
    JSON = "json"


def report_console() -> Console:
    """Return where reports are printed: as wide as the terminal, or wide enough where there is none."""
    from rich.console import Console

    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=_WIDTH)


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
