"""How `toolorch eval` shows a report in a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from toolorch_rl.evaluation.arms import HEADROOM, front, headroom, share_of
from toolorch_rl.evaluation.compare import Comparison
from toolorch_rl.evaluation.report import Report
from toolorch_rl.metrics import TARGETS, Estimate

_GROUP_COLUMNS = {
    "solved": "solved",
    "chain_completion": "chains",
    "synthesis_quality": "synthesis",
    "dollars": "dollars",
    "seconds": "seconds",
    "preference_score": "preference",
}
"""Metrics that are shown of each group, with the head of their column."""
_MOST_REASONS = 5
_MOST_NAMES = 12


def report_view(report: Report) -> RenderableType:
    """Return a report as tables: all runs, groups, routing, baselines, the comparison, and what went wrong."""
    return Group(*_parts(report))


def _parts(report: Report) -> Iterator[RenderableType]:
    settings = report.settings
    yield Text(f"{settings.get('model', 'policy')} on {len(report.results)} tasks", style="bold")
    yield _metrics(report)
    if len(report.metrics) > 2:
        yield _groups(report)
    yield _routing(report)
    if report.baselines:
        yield from _baselines(report)
    if report.comparison is not None:
        yield _differences(report.comparison)
    yield from _troubles(report)


def _metrics(report: Report) -> Table:
    table = _table("", "all runs", "95 % interval", "target", "runs")
    for name, found in report.metrics["all"].items():
        target = TARGETS.get(name)
        value = "-" if found.value is None else f"{found.value:.4g}"
        if found.value is not None and target is not None:
            value = f"[{'green' if target.reached(found.value) else 'red'}]{value}[/]"
        wanted = "" if target is None else str(target)
        table.add_row(name, value, _interval(found) or escape(found.note), wanted, str(found.count))
    return table


def _groups(report: Report) -> Table:
    shown = [name for name in _GROUP_COLUMNS if name in report.metrics["all"]]
    table = _table("group", "runs", *(_GROUP_COLUMNS[name] for name in shown), "entropy")
    for group, row in report.metrics.items():
        if group == "all":
            continue
        routing = report.routing[group]
        entropy = "-" if routing.entropy.value is None else f"{routing.entropy.value:.2f}"
        entropy += " [red]collapsed[/]" if routing.collapsed else ""
        table.add_row(group, str(row["solved"].count), *(_short(row[name]) for name in shown), entropy)
    return table


def _routing(report: Report) -> RenderableType:
    routing = report.routing["all"]
    if routing.entropy.value is None:
        return Text(f"routing: {routing.entropy.note}", style="dim")
    table = _table("calls go to", "share", "95 % interval")
    for name, share in list(routing.shares.items())[:_MOST_NAMES]:
        table.add_row(escape(name), _short(share), _interval(share))
    hidden = len(routing.shares) - _MOST_NAMES
    more = f"and {hidden} more; " if hidden > 0 else ""
    flag = "[red]collapsed[/]" if routing.collapsed else "not collapsed"
    table.caption = f"{more}entropy {escape(routing.entropy.text())} of {routing.most:.3g} bits, {flag}"
    return table


def _baselines(report: Report) -> Iterator[RenderableType]:
    arms = report.arms
    best = {arm.name for arm in front(arms)}
    strongest = next((arm for arm in arms if arm.name == "always-strongest"), None)
    table = _table("", "solved", "95 %", "dollars", "95 %", "seconds", "of strongest", "front")
    for arm in arms:
        share = share_of(arm, strongest) if strongest is not None else None
        table.add_row(
            escape(arm.name),
            _short(arm.solved),
            _interval(arm.solved),
            _short(arm.dollars),
            _interval(arm.dollars),
            _short(arm.seconds),
            "-" if share is None else f"{share:.0%}",
            "yes" if arm.name in best else "",
        )
    table.caption = "of strongest: dollars as a share of always-strongest's; front: no other arm dominates it"
    yield table
    if {"oracle", "always-strongest"} <= {arm.name for arm in arms}:
        room = headroom(arms)
        if room is not None and room > HEADROOM:
            yield Text(
                f"The oracle spends {room:.0%} of always-strongest's dollars: little is to be gained by routing here.",
                style="yellow",
            )


def _differences(comparison: Comparison) -> Table:
    table = _table("against", "before", "after", "difference", "95 % interval", "")
    for name, item in comparison.groups["all"].items():
        verdict = "[green]better[/]" if item.better else "[red]worse[/]" if item.worse else "cannot tell"
        if item.change.value is None:
            verdict = escape(item.change.note)
        label = "preference score" if name == "reward" else name
        table.add_row(
            label, _short(item.before), _short(item.after), _short(item.change), _interval(item.change), verdict
        )
    missing = len(comparison.only_before) + len(comparison.only_after)
    table.caption = f"{comparison.paired} tasks in both" + (f", {missing} in one only" if missing else "")
    return table


def _troubles(report: Report) -> Iterator[RenderableType]:
    if report.failed:
        yield Text(f"{len(report.failed)} runs failed:", style="red")
        yield from _listed(result.reason for result in report.failed)
    wrong = [result for result in report.results if not result.solved and not result.failed]
    if wrong:
        yield Text(f"{len(wrong)} runs did not solve their task, such as:")
        yield from (Text(f"  {item.task_id}: {item.reason}") for item in wrong[:_MOST_REASONS])
    if report.skipped:
        yield Text(f"{len(report.skipped)} tasks were skipped:", style="yellow")
        yield from _listed(report.skipped)
    yield from (Text(note, style="yellow") for note in report.notes)


def _listed(reasons: Iterable[str]) -> Iterator[Text]:
    counted = Counter(reasons).most_common()
    yield from (
        Text(f"  {count} x {reason}" if count > 1 else f"  {reason}") for reason, count in counted[:_MOST_REASONS]
    )
    if len(counted) > _MOST_REASONS:
        yield Text(f"  and {len(counted) - _MOST_REASONS} other reasons")


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False, caption_justify="left")
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _short(found: Estimate) -> str:
    return "-" if found.value is None else f"{found.value:.3g}"


def _interval(found: Estimate) -> str:
    return "" if found.low is None or found.high is None else f"{found.low:.2g} to {found.high:.2g}"
