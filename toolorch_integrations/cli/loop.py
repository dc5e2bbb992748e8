"""`toolorch loop`: capture, train, promote, again and again."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from toolorch_integrations.cli.estimate import Wanted
from toolorch_integrations.cli.options import report_console
from toolorch_integrations.cli.promote import (
    Base,
    Face,
    Goal,
    Least,
    LookEvery,
    Made,
    Margins,
    Most,
    Name,
    Patience,
    Planned,
    Server,
    Share,
    Specialists,
    TaskFiles,
    job_of,
    served_name,
)
from toolorch_integrations.cli.traces import DEFAULT_STORE, AppName, Store, _reports_errors, seconds

if TYPE_CHECKING:
    from toolorch_integrations.cli.promote_job import PromoteJob
    from toolorch_integrations.store import TraceStore
    from toolorch_serving.promotion import PromotionRecord

Work = Annotated[Path, typer.Option(help="Folder for the loop's state, its log, and what is trained.")]
Interval = Annotated[
    float | None,
    typer.Option(parser=seconds, metavar="TIME", help="Begin with fewer new runs after so long; by default 1h."),
]


@_reports_errors
def loop(
    server: Server = None,
    name: Name = None,
    base: Base = None,
    store: Store = DEFAULT_STORE,
    app_name: AppName = None,
    work: Work = Path("rounds"),
    new_traces: Annotated[int, typer.Option(min=1, help="New runs that a round waits for.")] = 200,
    interval: Interval = None,
    verifier: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FUNCTION", help="Attaches rewards: takes the store and an epoch second."),
    ] = None,
    method: Annotated[str, typer.Option(help="Of training: sft, dpo, kto or replay.")] = "replay",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of training (TrainSettings).")
    ] = None,
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
    once: Annotated[bool, typer.Option("--once", help="One round, and then end.")] = False,
) -> None:
    """Wait for new runs, train on them, promote what is better, and begin again.

    Killed at any moment, it goes on where it was when the same command is given again.
    """
    from toolorch_integrations.store import TraceStore
    from toolorch_serving.promotion.rounds import Rounds

    for option, value in (("--server", server), ("--base", base)):
        if value is None:
            raise typer.BadParameter("is needed", param_hint=option)
    assert server is not None
    assert base is not None
    console = report_console()
    served = served_name(server, name)
    job = job_of(
        server, served, base, store, app_name, None, tasks, synthesize, face, specialists, wanted,
        canary, least, planned, most, patience, look_every, goal, margin,
    )  # fmt: skip
    settings = {"method": method, "app": app_name, "preferences": wanted and wanted.model_dump(mode="json")}
    with TraceStore.open(store) as opened:
        rounds = Rounds(
            opened,
            work,
            served,
            base,
            train=_train,
            promote=_promoter(job, console),
            attach=_attacher(verifier),
            settings={**settings, **_settings(set_ or [])},
            new_traces=new_traces,
            interval=interval or 3_600.0,
            tell=lambda text: console.print(escape(text), soft_wrap=True),
        )
        for result in rounds.run():
            if once:
                raise typer.Exit(1 if result.outcome == "failed" else 0)


def _train(**values: Any) -> Any:
    from toolorch_rl.training import train

    return train(**values)


def _promoter(job: PromoteJob, console: Console) -> Callable[[str, Path], PromotionRecord]:
    from toolorch_integrations.cli.promote_view import show_step

    def promote(version: str, folder: Path) -> PromotionRecord:
        def tell(record: PromotionRecord) -> None:
            show_step(console, record)

        return job.bring(version, folder, console, tell)

    return promote


def _attacher(given: str | None) -> Callable[[TraceStore, float], int] | None:
    """Return the function that `MODULE:FUNCTION` names."""
    if given is None:
        return None
    module, _, name = given.partition(":")
    try:
        found: Callable[[TraceStore, float], int] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise typer.BadParameter(
            f"{given!r} names no function: give MODULE:FUNCTION ({error})", param_hint="--verifier"
        ) from error
    return found


def _settings(words: list[str]) -> dict[str, Any]:
    from toolorch_rl.training.settings import value_of

    for word in words:
        if "=" not in word:
            raise typer.BadParameter(f"{word!r}: give NAME=VALUE", param_hint="--set")
    return dict(value_of(word) for word in words)
