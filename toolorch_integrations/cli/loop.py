"""`toolorch loop`: capture, train, promote, again and again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from toolorch_integrations.cli.options import imported, report_console, with_options
from toolorch_integrations.cli.options import settings as settings_of
from toolorch_integrations.cli.promote import served_name
from toolorch_integrations.cli.promote_options import OWN, PromoteOptions
from toolorch_integrations.cli.traces import _reports_errors, seconds

if TYPE_CHECKING:
    from toolorch_integrations.cli.promote_job import PromoteJob
    from toolorch_serving.promotion import PromotionRecord

Work = Annotated[Path, typer.Option(help="Folder for the loop's state, its log, and what is trained.")]
Interval = Annotated[
    float | None,
    typer.Option(parser=seconds, metavar="TIME", help="Begin with fewer new runs after so long; by default 1h."),
]


@_reports_errors
@with_options(PromoteOptions)
def loop(
    options: PromoteOptions,
    work: Work = Path("rounds"),
    new_traces: Annotated[int, typer.Option(min=1, help="New runs that a round waits for.")] = 200,
    interval: Interval = None,
    rewards: Annotated[
        str | None, typer.Option(metavar=OWN, help="Attaches rewards: takes the store and an epoch second.")
    ] = None,
    method: Annotated[str, typer.Option(help="Of training: sft, dpo, kto or replay.")] = "replay",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of training (TrainSettings).")
    ] = None,
    held_back: Annotated[
        float,
        typer.Option(help="Share of the tasks that no round trains on: estimates rest on them.", min=0.001, max=0.999),
    ] = 0.25,
    once: Annotated[bool, typer.Option("--once", help="One round, and then end.")] = False,
) -> None:
    """Wait for new runs, train on them, promote what is better, and begin again.

    Killed at any moment, it goes on where it was when the same command is given again.
    """
    from toolorch_integrations.store import TraceStore
    from toolorch_serving.promotion.rounds import Rounds

    console = report_console()
    base = options.needed("base")
    served = served_name(options.needed("server"), options.name)
    wanted = options.wanted and options.wanted.model_dump(mode="json")
    settings = {"method": method, "app": options.app_name, "preferences": wanted, **settings_of(set_)}
    job = options.job(served)
    with TraceStore.open(options.store) as opened:
        rounds = Rounds(
            opened,
            work,
            served,
            base,
            train=_train,
            promote=_promoter(job, console),
            attach=imported(rewards, "--rewards") if rewards is not None else None,
            settings=settings,
            held_back=held_back,
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
