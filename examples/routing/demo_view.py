"""What the second act of the demo shows: one table twice, and whether the estimate was right."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from examples.routing.measure import Worth
from toolorch_rl.estimate import EstimateReport, Interval

console = Console(highlight=False, width=110 if not sys.stdout.isatty() else None)

CHECKED = ("reward", "solved", "dollars")
COLUMNS = ("", "solved", "dollars / 1,000 requests", "dollars / strongest", "reward / best possible")


def table(
    title: str,
    own: Sequence[Worth],
    rules: Sequence[Worth],
    before: Worth | None = None,
    estimate: EstimateReport | None = None,
) -> Table:
    """Return what policies and baselines were worth, side by side.

    Args:
        title: Above it.
        own: The policies.
        rules: The baselines, on the same requests.
        before: What the policy was worth earlier, on other requests.
        estimate: What was said of it then.
    """
    shown = Table(title=title)
    for column in COLUMNS:
        shown.add_column(column, justify="right" if column else "left")
    if before is not None:
        shown.add_row(*_row(before, f"{before.name}, before"), style="dim")
    if estimate is not None:
        cells = [_span(estimate, "solved", _percent), _span(estimate, "dollars", _dollars)]
        shown.add_row("what the estimate said", *cells, "", "", style="yellow")
    for entry in own:
        shown.add_row(*_row(entry, entry.name), style="bold green", end_section=True)
    for entry in rules:
        shown.add_row(*_row(entry, entry.name))
    return shown


def estimate_check(after: Worth, estimate: EstimateReport) -> Iterator[str]:
    """Say of solved and dollars whether what came lies in the interval that was given before.

    The reward is not asked: it is measured among the runs of a request, and those are others now.
    """
    for metric, value, text in (("solved", after.solved.value, _percent), ("dollars", after.dollars, _dollars)):
        interval = _interval(estimate, metric)
        if interval is None or value is None:
            yield f"{metric}: {estimate.metrics[metric].reason or 'nothing was estimated'}"
            continue
        inside = interval.low <= value <= interval.high
        verdict = "[green]inside[/green]" if inside else "[red]outside[/red]"
        span = f"{text(interval.low)} to {text(interval.high)}"
        yield f"{metric}: {text(value)} came, {text(interval.value)} was foretold: {verdict} the 95 % interval, {span}"


def told_apart(estimate: EstimateReport) -> EstimateReport:
    """Return a report without the metrics that were the same in all runs, such as errors that nobody made."""
    wanted = {name: entry for name, entry in estimate.metrics.items() if entry.estimate or name in CHECKED}
    return replace(estimate, metrics=wanted)


def told(counts: Mapping[str, int]) -> str:
    """Return counts as words."""
    return ", ".join(f"{number} {name}" for name, number in counts.items() if number)


def _row(entry: Worth, name: str) -> list[str]:
    solved, dollars, reward = entry.solved.value, entry.dollar_share.value, entry.reward_share.value
    return [name, _percent(solved), _dollars(entry.dollars), _percent(dollars), _percent(reward)]


def _interval(estimate: EstimateReport, metric: str) -> Interval | None:
    return estimate.metrics[metric].estimate


def _span(estimate: EstimateReport, metric: str, text: Callable[[float], str]) -> str:
    interval = _interval(estimate, metric)
    if interval is None:
        return "cannot say"
    return f"{text(interval.value)} ({text(interval.low)} to {text(interval.high)})"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _dollars(value: float) -> str:
    return f"{1000 * value:.3f}"
