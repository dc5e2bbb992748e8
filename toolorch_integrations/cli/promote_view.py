"""Promotions as people read them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from toolorch_serving.promotion import PromotionRecord, Step

_COLOURS = {Step.PROMOTED: "green", Step.STAYED: "yellow", Step.ROLLED_BACK: "red"}


def show_step(console: Console, record: PromotionRecord) -> None:
    """Print a step, and what it rests on."""
    colour = _COLOURS.get(record.step, "bold")
    at = datetime.fromtimestamp(record.time).strftime("%H:%M:%S")
    console.print(f"{at} [{colour}]{record.step.value}[/{colour}]: {escape(record.reason)}", soft_wrap=True)
    changes: Mapping[str, Any] = record.evidence.get("changes", {})
    if changes:
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("  metric", no_wrap=True)
        for name in ("incumbent", "change", "95 % interval"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("")
        for name, entry in changes.items():
            span = "-" if entry["low"] is None else f"{entry['low']:+.3g} to {entry['high']:+.3g}"
            table.add_row(
                f"  {name}", _figure(entry["before"]), _figure(entry["value"], "+"), span, escape(entry["note"])
            )
        console.print(table)


def show_history(console: Console, records: Iterable[PromotionRecord]) -> None:
    """Print steps as a table, oldest first."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("time", "candidate", "incumbent", "step", "reason"):
        table.add_column(name, no_wrap=name != "reason")
    for record in records:
        colour = _COLOURS.get(record.step, "default")
        table.add_row(
            datetime.fromtimestamp(record.time).strftime("%m-%d %H:%M"),
            escape(record.candidate),
            escape(record.incumbent),
            f"[{colour}]{record.step.value}[/{colour}]",
            escape(record.reason),
        )
    console.print(table if table.row_count else "nothing was promoted yet")


def to_json(record: PromotionRecord) -> str:
    """Return a step as a line of JSON."""
    fields = {name: getattr(record, name) for name in PromotionRecord.__slots__}
    return json.dumps({**fields, "step": record.step.value, "evidence": dict(record.evidence)})


def _figure(value: float | None, sign: str = "") -> str:
    return "-" if value is None else format(value, f"{sign}.4g")
