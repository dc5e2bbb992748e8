"""`toolorch estimate`: what a new policy would have earned on captured runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from toolorch_integrations.cli.options import Shown, preferences, report_console
from toolorch_integrations.cli.traces import (
    DEFAULT_STORE,
    AppName,
    Limit,
    Model,
    Since,
    Status,
    Store,
    Thread,
    _reports_errors,
)
from toolorch_integrations.preferences import Preferences

if TYPE_CHECKING:
    from toolorch_rl.estimate import EstimateReport, Interval

_COLOURS = {"better": "green", "worse": "red", "cannot say": "yellow"}


Wanted = Annotated[
    Preferences | None,
    typer.Option(
        "--preferences", parser=preferences, metavar="TEXT", help="cost=0.6,latency=0.2; by default each run's own."
    ),
]
Policy = Annotated[str, typer.Option("--policy", help="Folder of the new policy, or of an adapter.")]
Base = Annotated[str | None, typer.Option(help="Model that the adapter is for; by default what the adapter says.")]


@_reports_errors
def estimate(
    policy: Policy,
    base: Base = None,
    store: Store = DEFAULT_STORE,
    status: Status = None,
    app_name: AppName = None,
    thread: Thread = None,
    model: Model = None,
    since: Since = None,
    limit: Limit = None,
    wanted: Wanted = None,
    preset: Annotated[str, typer.Option(help="How rewards are normalised: paper, released_script or ours.")] = "ours",
    group_by: Annotated[str | None, typer.Option(help="Key of the traces' metadata that names the task.")] = None,
    all_runs: Annotated[
        bool, typer.Option("--all-runs", help="Also those of tasks that the new policy was trained on.")
    ] = False,
    shown: Annotated[Shown, typer.Option("--format", help="A table for people, JSON for programs.")] = Shown.TABLE,
) -> None:
    """Say what a new policy would have earned on captured runs, before it makes a single one."""
    report = estimated(
        policy,
        base,
        keep_trained=all_runs,
        store=store,
        status=status,
        app=app_name,
        thread=thread,
        model=model,
        since=since,
        limit=limit,
        preferences=wanted,
        preset=preset,
        group_by=group_by,
    )
    if shown is Shown.JSON:
        typer.echo(json.dumps(report.to_dict()))
    else:
        show(report_console(), report)


def estimated(policy: str, base: str | None, *, keep_trained: bool = False, **settings: Any) -> EstimateReport:
    """Return the report on a policy in a folder, by runs of tasks that it was not trained on.

    Args:
        policy: Folder of a model or an adapter.
        base: Model that the adapter is for.
        keep_trained: By runs of all tasks.
        **settings: Store, filters and what counts as reward, as `TrainSettings` takes them.

    Raises:
        ToolorchError: The store has no usable runs, or the policy does not fit them.
    """
    from transformers.utils import logging

    from toolorch_rl.estimate.policy import ScoredPolicy
    from toolorch_rl.estimate.traces import estimate_traces
    from toolorch_rl.training.corpus import read_traces
    from toolorch_rl.training.plan import TrainedOn
    from toolorch_rl.training.settings import TrainSettings
    from toolorch_rl.training.vocabulary import check_tokenizer

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    chosen = TrainSettings.of({"policy": policy, "output": Path(policy), **settings})
    traces = read_traces(chosen)
    scored = ScoredPolicy(policy, base)
    check_tokenizer(traces, scored.tokenizer(), scored.vocabulary)
    known = TrainedOn.read(policy)
    return estimate_traces(traces, scored, chosen, scored.vocabulary, trained_on=known, keep_trained=keep_trained)


def show(console: Console, report: EstimateReport) -> None:
    """Print a report as tables."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("metric", no_wrap=True)
    for name in ("logged", "estimated", "95 % interval", "change", "verdict"):
        table.add_column(name, justify="left" if name == "verdict" else "right", no_wrap=name != "verdict")
    for name, entry in report.metrics.items():
        colour = _COLOURS.get(entry.verdict, "default")
        verdict = f"[{colour}]{entry.verdict}[/{colour}]" + (f": {escape(entry.reason)}" if entry.reason else "")
        logged = "-" if entry.logged is None else f"{entry.logged:.4g}"
        estimate = "-" if entry.estimate is None else f"{entry.estimate.value:.4g}"
        table.add_row(name, logged, estimate, _span(entry.estimate), _change(entry.difference), verdict)
    console.print(table)
    console.print(
        f"{report.runs} runs of {report.groups} tasks, worth {report.effective_runs:.0f} runs of "
        f"{report.effective_groups:.0f} tasks under the new policy; {report.truncated:.0%} of the weights truncated, "
        f"{report.missing:.0%} of what the new policy does is not in the log"
    )
    if report.scope == "these tasks":
        console.print(
            "[yellow]too few tasks to say anything of others: this holds for more runs of the same ones[/yellow]"
        )
    if report.trained_on:
        console.print(
            f"[yellow]{report.trained_on} of these runs are of tasks that the new policy was trained on: it looks "
            "better on them than it is, and no promotion rests on them[/yellow]"
        )
    for share in report.versions:
        newest, oldest = _age(share.newest), _age(share.oldest)
        span = f"{newest} old" if newest == oldest else f"{newest} to {oldest} old"
        console.print(f"  {escape(share.version)}: {share.runs} runs, {span}")
    if report.skipped:
        console.print("left out: " + _reasons(report.skipped))


def _span(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:.4g} to {interval.high:.4g}"


def _change(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.value:+.3g} ({interval.low:+.2g} to {interval.high:+.2g})"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def _reasons(skipped: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in skipped.items())
