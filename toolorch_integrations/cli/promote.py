"""`toolorch promote`: a candidate serves if, and only if, it is shown to be better."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from toolorch_integrations.cli.estimate import Wanted
from toolorch_integrations.cli.options import Shown, report_console
from toolorch_integrations.cli.traces import DEFAULT_STORE, AppName, Since, Store, _reports_errors, seconds
from toolorch_integrations.preferences import Preferences

if TYPE_CHECKING:
    from toolorch_integrations.cli.promote_job import PromoteJob

Server = Annotated[str | None, typer.Option(help="URL of the policy server (.../v1).")]
Name = Annotated[str | None, typer.Option("--name", help="The bare policy's name there; by default the first served.")]
Base = Annotated[str | None, typer.Option(help="Folder or hub name of the bare policy.")]
TaskFiles = Annotated[
    list[Path] | None, typer.Option("--tasks", help="Held-out tasks, JSON lines; may be given again.")
]
Made = Annotated[int | None, typer.Option("--synthesize", min=1, help="Make so many held-out tasks from templates.")]
Share = Annotated[float, typer.Option("--canary", min=0.001, max=0.999, help="Share of the live conversations.")]
Least = Annotated[int, typer.Option(min=2, help="Conversations of each version before anything is decided.")]
Planned = Annotated[int, typer.Option(min=1, help="Conversations that the canary will about take.")]
Most = Annotated[int, typer.Option(min=4, help="Conversations after which it ends.")]
Patience = Annotated[
    float | None, typer.Option(parser=seconds, metavar="TIME", help="Time after which it ends; by default 1d.")
]
Goal = Annotated[str, typer.Option(help="Metric that must get better.")]
Margins = Annotated[
    list[str] | None,
    typer.Option("--margin", metavar="NAME=NUMBER[%]", help="How much worse a metric may get; may be given again."),
]
Specialists = Annotated[str, typer.Option(help="Who answers in held-out tasks: simulated, a URL, or a JSON file.")]
Face = Annotated[str, typer.Option(help="Which framework runs the held-out tasks: langgraph or llamaindex.")]
LookEvery = Annotated[float, typer.Option(min=0.1, help="Seconds between looks at the canary.")]


@_reports_errors
def promote(
    server: Server = None,
    candidate: Annotated[Path | None, typer.Option(help="Folder of the candidate's adapter.")] = None,
    version: Annotated[str | None, typer.Option("--as", help="Its version; by default the folder's name.")] = None,
    name: Name = None,
    base: Base = None,
    store: Store = DEFAULT_STORE,
    app_name: AppName = None,
    since: Since = None,
    tasks: TaskFiles = None,
    synthesize: Made = None,
    face: Face = "langgraph",
    specialists: Specialists = "simulated",
    wanted: Wanted = None,
    canary: Share = 0.1,
    least: Least = 30,
    planned: Planned = 1_000,
    most: Most = 10_000,
    patience: Patience = None,
    look_every: LookEvery = 30.0,
    goal: Goal = "reward",
    margin: Margins = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a promotion that was killed.")] = False,
    history: Annotated[
        bool, typer.Option("--history", help="Show what was promoted, and what was not and why.")
    ] = False,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="Take back the candidate on its way, or the newest promoted version.")
    ] = False,
    shown: Annotated[Shown, typer.Option("--format", help="A table for people, JSON for programs.")] = Shown.TABLE,
) -> None:
    """Estimate, evaluate, try on a share of the live runs, and only then let a candidate serve.

    It stays or is rolled back by itself wherever it is not shown to be better, and the record says why.
    """
    console = report_console()
    if history:
        _history(store, shown, console)
        return
    if server is None:
        raise typer.BadParameter("is needed", param_hint="--server")
    served = served_name(server, name)
    if roll_back:
        _roll_back(store, server, served, console)
        return
    if base is None:
        raise typer.BadParameter("is needed: the folder of the bare policy", param_hint="--base")
    job = job_of(
        server, served, base, store, app_name, since, tasks, synthesize, face, specialists, wanted,
        canary, least, planned, most, patience, look_every, goal, margin,
    )  # fmt: skip
    if not promote_one(job, candidate, version, resume, console, shown):
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


def job_of(
    server: str,
    name: str,
    base: str,
    store: str,
    app_name: str | None,
    since: float | None,
    tasks: list[Path] | None,
    synthesize: int | None,
    face: str,
    specialists: str,
    preferences: Preferences | None,
    share: float,
    least: int,
    planned: int,
    most: int,
    patience: float | None,
    look_every: float,
    goal: str,
    margins: list[str] | None,
) -> PromoteJob:
    """Return the job that the options of `promote` and `loop` describe."""
    from toolorch_integrations.cli.evaluate_inputs import load_tasks
    from toolorch_integrations.cli.promote_job import PromoteJob, criteria_of
    from toolorch_serving.promotion import CanaryPlan

    return PromoteJob(
        server=server,
        name=name,
        base=base,
        store=store,
        tasks=load_tasks(tasks or [], synthesize, 0, None, preferences),
        folder=Path("promotions"),
        plan=CanaryPlan(share, least, planned, most, patience or 86_400.0),
        criteria=criteria_of(goal, margins or []),
        face=face,
        specialists=specialists,
        preferences=preferences,
        filters={"app": app_name, "since": since},
        look_every=look_every,
    )


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


def _roll_back(store: str, server: str, name: str, console: Console) -> None:
    from toolorch_integrations.cli.promote_view import show_step
    from toolorch_integrations.store import TraceStore
    from toolorch_serving.promotion import PromotionRecords, ServedAdapters, roll_back

    with TraceStore.open(store, create=False) as opened, ServedAdapters(server, name) as adapters:
        record = roll_back(PromotionRecords(opened), adapters, "taken back by hand")
    show_step(console, record)
