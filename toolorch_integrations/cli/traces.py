"""`toolorch traces`: look at captured runs, move them, rate them, let them go."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from toolorch_integrations.cli.trace_view import trace_panel
from toolorch_integrations.errors import ToolorchError
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.exchange import import_jsonl, write_jsonl
from toolorch_integrations.parquet import write_parquet
from toolorch_integrations.store import TraceFilters, TraceStore
from toolorch_integrations.trace import Feedback, Trace, TraceHeader

traces = typer.Typer(help="Look at captured runs, move them, rate them, let them go.", no_args_is_help=True)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds(text: str) -> float:
    """Read a length of time such as 90s, 15m, 12h, 30d or 2w."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no length of time: give a number and s, m, h, d or w, such as 30d")
    return float(found[1]) * _UNITS[found[2]]


Store = Annotated[
    str, typer.Option("--store", envvar="TOOLORCH_STORE", help="File or database URL of the trace store.")
]
Status = Annotated[TraceStatus | None, typer.Option(help="Only traces that ended so.")]
AppName = Annotated[str | None, typer.Option("--app", help="Only traces of this app.")]
Thread = Annotated[str | None, typer.Option(help="Only traces of this conversation.")]
Model = Annotated[str | None, typer.Option(help="Only traces that this policy version answered.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the newest so many traces.")]
Since = Annotated[
    float | None, typer.Option(parser=seconds, metavar="TIME", help="Only traces of the last 12h, 30d ...")
]
DEFAULT_STORE = "sqlite:///traces.db"

P = ParamSpec("P")


class Format(StrEnum):
    """File formats of an export."""

    JSONL = "jsonl"
    PARQUET = "parquet"


def _reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Say what went wrong in one line, without a traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (ToolorchError, OSError) as error:
            Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
            raise typer.Exit(1) from error

    return run


@traces.command("list")
@_reports_errors
def list_traces(
    store: Store = DEFAULT_STORE,
    status: Status = None,
    app_name: AppName = None,
    thread: Thread = None,
    model: Model = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="Show the newest so many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, for programs.")] = False,
) -> None:
    """List traces, newest first."""
    filters = _filters(status, app_name, thread, model, since)
    filters["limit"] = limit
    with TraceStore.open(store, create=False) as opened:
        headers = list(opened.traces(**filters))
    if as_json:
        for header in headers:
            typer.echo(json.dumps(_summary(header)))
        return
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for name, width in {"id": 8, "started": 11, "status": 8, "app": 6}.items():
        table.add_column(name, no_wrap=True, min_width=width)
    for name, width in {"turns": 5, "calls": 5, "tokens": 6, "dollars": 7, "seconds": 7}.items():
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    table.add_column("request", no_wrap=True, overflow="ellipsis", min_width=8, ratio=1)
    for header in headers:
        totals = header.totals
        table.add_row(
            header.id[:8],
            datetime.fromtimestamp(header.started).strftime("%m-%d %H:%M"),
            header.status.value,
            escape(header.app),
            str(totals.turns),
            str(totals.calls),
            str(totals.input_tokens + totals.output_tokens),
            f"{totals.dollars:.4f}",
            f"{totals.seconds:.1f}",
            escape(" ".join(header.request.split())[:200]),
        )
    Console().print(table if headers else "no traces")


@traces.command()
@_reports_errors
def show(
    trace_id: Annotated[str, typer.Argument(help="Id of the trace; its first digits are enough.")],
    store: Store = DEFAULT_STORE,
    full: Annotated[bool, typer.Option(help="Show messages and results whole.")] = False,
    ids: Annotated[bool, typer.Option("--ids", help="Show token ids.")] = False,
) -> None:
    """Show one trace: messages, tokens, calls and what they cost."""
    with TraceStore.open(store, create=False) as opened:
        trace = opened.trace(trace_id)
    Console().print(trace_panel(trace, full=full, ids=ids))


@traces.command()
@_reports_errors
def export(
    path: Annotated[Path, typer.Argument(help="File to write; an existing one is replaced.")],
    store: Store = DEFAULT_STORE,
    file_format: Annotated[
        Format | None, typer.Option("--format", help="Default: by the file's name, .parquet or else JSON lines.")
    ] = None,
    trace_id: Annotated[list[str] | None, typer.Option("--id", help="Only this trace; may be given again.")] = None,
    status: Status = None,
    app_name: AppName = None,
    thread: Thread = None,
    model: Model = None,
    since: Since = None,
    readable: Annotated[bool, typer.Option(help="JSON lines: ids as numbers in place of base64.")] = False,
) -> None:
    """Write traces to a file: JSON lines (.jsonl, .jsonl.gz) or Parquet (.parquet)."""
    chosen = file_format or (Format.PARQUET if path.suffix == ".parquet" else Format.JSONL)
    with TraceStore.open(store, create=False) as opened:
        if trace_id:
            chosen_traces = iter([opened.trace(one) for one in trace_id])
        else:
            chosen_traces = opened.full_traces(**_filters(status, app_name, thread, model, since))
        if chosen is Format.PARQUET:
            number = write_parquet(chosen_traces, path)
        else:
            number = write_jsonl(chosen_traces, path, readable=readable)
    typer.echo(f"wrote {_count(number)} to {path}")


@traces.command("import")
@_reports_errors
def import_traces(
    path: Annotated[Path, typer.Argument(help="File of JSON lines that `export` wrote.")], store: Store = DEFAULT_STORE
) -> None:
    """Add the traces of a file to a store; those that are there already stay as they are."""
    with TraceStore.open(store) as opened:
        added, known = import_jsonl(opened, path)
    typer.echo(f"added {_count(added)}" + (f", {known} were there" if known else ""))


@traces.command()
@_reports_errors
def feedback(
    trace_id: Annotated[str, typer.Argument(help="Id of the trace; its first digits are enough.")],
    store: Store = DEFAULT_STORE,
    score: Annotated[float | None, typer.Option(help="How good it was, such as 1 or 0.")] = None,
    comment: Annotated[str, typer.Option(help="In words.")] = "",
    name: Annotated[str, typer.Option(help="What is rated.")] = "user",
    source: Annotated[str, typer.Option(help="Who rates.")] = "command line",
) -> None:
    """Attach feedback to a trace."""
    if score is None and not comment:
        raise typer.BadParameter("give --score, --comment or both")
    with TraceStore.open(store, create=False) as opened:
        trace: Trace = opened.trace(trace_id)
        opened.add_feedback(Feedback(trace.id, name, score, comment, source))
    typer.echo(f"feedback on {trace.id}")


@traces.command()
@_reports_errors
def purge(
    store: Store = DEFAULT_STORE,
    older_than: Annotated[
        float | None, typer.Option(parser=seconds, metavar="TIME", help="Only traces older than 12h, 30d ...")
    ] = None,
    status: Status = None,
    keep: Annotated[int | None, typer.Option(min=0, help="Spare the newest so many of them.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and delete nothing.")] = False,
) -> None:
    """Delete traces; those that still run stay, unless --status names them."""
    if older_than is None and status is None and keep is None:
        raise typer.BadParameter("give --older-than, --status or --keep: purge does not delete a whole store")
    with TraceStore.open(store, create=False) as opened:
        purged = opened.purge(older_than=older_than, status=status, keep=keep, dry_run=dry_run)
    span = ""
    if purged.oldest is not None and purged.newest is not None:
        days = [datetime.fromtimestamp(at).strftime("%Y-%m-%d") for at in (purged.oldest, purged.newest)]
        span = f" of {days[0]}" if days[0] == days[1] else f" of {days[0]} to {days[1]}"
    typer.echo(f"{'would delete' if dry_run else 'deleted'} {_count(purged.traces)}{span}, {purged.turns} turns")


@traces.command()
@_reports_errors
def migrate(
    store: Store = DEFAULT_STORE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Bring a store to this release's schema, as any command does that opens it."""
    with TraceStore(store) as unopened:
        found, steps = unopened.migrations()
        for step in steps:
            typer.echo(f"{step.revision}  {step.summary}")
        if steps and not dry_run:
            unopened.prepare()
    before = f"schema {found}" if found else "no tables"
    if not steps:
        typer.echo(f"{before}: nothing to do")
    else:
        typer.echo(f"{before}, {'would be' if dry_run else 'now'} schema {int(steps[-1].revision)}")


@traces.command()
@_reports_errors
def stats(store: Store = DEFAULT_STORE) -> None:
    """Say what a store holds."""
    with TraceStore.open(store, create=False) as opened:
        found = opened.stats()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("traces", str(found.traces))
    for status, number in sorted(found.by_status.items()):
        table.add_row(f"  {status}", str(number))
    table.add_row("exact", str(found.exact))
    table.add_row("turns", str(found.turns))
    table.add_row("calls", str(found.calls))
    table.add_row("input tokens", str(found.input_tokens))
    table.add_row("output tokens", str(found.output_tokens))
    table.add_row("dollars", f"{found.dollars:.4f}")
    table.add_row("feedback", str(found.feedback))
    table.add_row("rewards", str(found.rewards))
    table.add_row("megabytes", f"{found.bytes / 2**20:.1f}")
    Console().print(table)


def _filters(
    status: TraceStatus | None, app_name: str | None, thread: str | None, model: str | None, since: float | None
) -> TraceFilters:
    start = None if since is None else time.time() - since
    return TraceFilters(status=status, app=app_name, thread_id=thread, model=model, since=start)


def _summary(header: TraceHeader) -> dict[str, Any]:
    totals = header.totals
    return {
        "id": header.id,
        "started": header.started,
        "ended": header.ended,
        "status": header.status.value,
        "app": header.app,
        "framework": header.framework,
        "thread_id": header.thread_id,
        "policy_versions": header.policy_versions,
        "exact": header.exact,
        "turns": totals.turns,
        "calls": totals.calls,
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "dollars": totals.dollars,
        "seconds": totals.seconds,
        "request": header.request,
        "answer": header.answer,
    }


def _count(number: int) -> str:
    return f"{number} trace" if number == 1 else f"{number} traces"
