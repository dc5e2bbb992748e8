"""`toolorch promote`: a candidate serves if, and only if, it is shown to be better."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from toolorch_integrations.cli.options import Shown, report_console, with_options
from toolorch_integrations.cli.promote_options import PromoteOptions
from toolorch_integrations.cli.traces import Since, _reports_errors

if TYPE_CHECKING:
    from toolorch_integrations.cli.promote_job import PromoteJob


@_reports_errors
@with_options(PromoteOptions)
def promote(
    options: PromoteOptions,
    candidate: Annotated[Path | None, typer.Option(help="Folder of the candidate's adapter.")] = None,
    version: Annotated[str | None, typer.Option("--as", help="Its version; by default the folder's name.")] = None,
    since: Since = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a promotion that was killed.")] = False,
    history: Annotated[
        bool, typer.Option("--history", help="Show what was promoted, and what was not and why.")
    ] = False,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="Take back the candidate on its way, or the newest promoted version.")
    ] = False,
    restore: Annotated[
        bool, typer.Option("--restore", help="Give a server that was started again the versions that runs go to.")
    ] = False,
    shown: Annotated[Shown, typer.Option("--format", help="A table for people, JSON for programs.")] = Shown.TABLE,
) -> None:
    """Estimate, evaluate, try on a share of the live runs, and only then let a candidate serve.

    It stays or is rolled back by itself wherever it is not shown to be better, and the record says why.
    """
    console = report_console()
    if history:
        _history(options.store, shown, console)
        return
    served = served_name(options.needed("server"), options.name)
    if roll_back:
        _roll_back(options, served, console)
    elif restore:
        _restore(options, served, console)
    elif not promote_one(options.job(served, since), candidate, version, resume, console, shown):
        raise typer.Exit(3)


def promote_one(
    job: PromoteJob, candidate: Path | None, version: str | None, resume: bool, console: Console, shown: Shown
) -> bool:
    """Bring a candidate, or the one that was killed, to its end; return whether it serves now."""
    from toolorch_integrations.cli.promote_view import show_step, to_json
    from toolorch_serving.promotion import PromotionRecord, Step

    def tell(record: PromotionRecord) -> None:
        if shown is Shown.JSON:
            typer.echo(to_json(record))
        else:
            show_step(console, record)

    if resume:
        return job.resume(console, tell).step is Step.PROMOTED
    if candidate is None:
        raise typer.BadParameter("is needed: the folder of the candidate's adapter", param_hint="--candidate")
    short = version or candidate.absolute().name
    served = short if short.startswith(f"{job.name}-") else f"{job.name}-{short}"
    return job.bring(served, candidate.absolute(), console, tell).step is Step.PROMOTED


def served_name(server: str, name: str | None) -> str:
    """Return the bare policy's name in a server."""
    from toolorch_rl.weights import ServerControl

    if name:
        return name
    with closing(ServerControl(server, timeout=30)) as control:
        return next(iter(control.models()))


def _history(store: str, shown: Shown, console: Console) -> None:
    from toolorch_integrations.cli.promote_view import show_history, to_json
    from toolorch_integrations.store import TraceStore
    from toolorch_serving.promotion import PromotionRecords

    with TraceStore.open(store, create=False) as opened:
        found = PromotionRecords(opened).history()
    if shown is Shown.JSON:
        for record in found:
            typer.echo(to_json(record))
    else:
        show_history(console, found)


def _roll_back(options: PromoteOptions, name: str, console: Console) -> None:
    from toolorch_integrations.cli.promote_view import show_step
    from toolorch_integrations.store import TraceStore
    from toolorch_serving.promotion import PromotionRecords, ServedReplicas, roll_back

    with (
        TraceStore.open(options.store, create=False) as opened,
        ServedReplicas(options.replicas, name, options.base) as adapters,
    ):
        record = roll_back(PromotionRecords(opened), adapters, "taken back by hand")
    show_step(console, record)


def _restore(options: PromoteOptions, name: str, console: Console) -> None:
    from toolorch_integrations.store import TraceStore
    from toolorch_serving.promotion import PromotionRecords, ServedReplicas, restore

    with (
        TraceStore.open(options.store, create=False) as opened,
        ServedReplicas(options.replicas, name, options.needed("base")) as adapters,
    ):
        found = restore(PromotionRecords(opened), adapters)
    console.print(f"published again: {', '.join(found)}" if found else "the server has lost nothing")
