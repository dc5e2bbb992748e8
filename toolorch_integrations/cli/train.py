"""`toolorch train`: train a policy on captured runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolorch_integrations.cli.options import preferences
from toolorch_integrations.cli.options import settings as settings_of
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
    from toolorch_rl.training import TrainResult, TrainSettings


@_reports_errors
def train(
    context: typer.Context,
    policy: Annotated[str | None, typer.Option(help="Folder or hub name of a policy, or an adapter's.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the result. A killed run goes on from there.")] = None,
    method: Annotated[str, typer.Option(help="sft, dpo, kto or replay.")] = "replay",
    store: Store = DEFAULT_STORE,
    status: Status = None,
    app_name: AppName = None,
    thread: Thread = None,
    model: Model = None,
    since: Since = None,
    limit: Limit = None,
    wishes: Annotated[
        Preferences | None,
        typer.Option(
            "--preferences",
            parser=preferences,
            metavar="WEIGHTS",
            help="Whose reward counts, such as cost=0.6,latency=0.2; by default each run's own caller's.",
        ),
    ] = None,
    held_back: Annotated[
        float, typer.Option(help="Share of the tasks that is left out, for an estimate to rest on.", min=0, max=0.999)
    ] = 0.0,
    lora_rank: Annotated[int, typer.Option(min=0, help="Rank of the adapter; 0 trains all weights.")] = 16,
    epochs: Annotated[float, typer.Option(help="Passes over the runs.")] = 3.0,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, in place of passes.")] = None,
    batch: Annotated[int, typer.Option(help="Runs, rows or pairs a step.")] = 32,
    learning_rate: Annotated[float | None, typer.Option(help="By default the method's own.")] = None,
    max_staleness: Annotated[
        int | None, typer.Option(help="Only runs of the newest policy and so many versions before it.")
    ] = None,
    kl: Annotated[
        float | None, typer.Option(help="How strongly the policy is held to the one it began with.", min=0)
    ] = None,
    entropy: Annotated[float, typer.Option(help="How strongly it is kept from always choosing the same.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Order of the runs, and weights of a new adapter.")] = 0,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 50,
    report_to: Annotated[
        list[str] | None,
        typer.Option(help="tensorboard, wandb ...; may be given again. metrics.jsonl is always written."),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew, and replace what the folder holds.")] = False,
    settings: Annotated[Path | None, typer.Option(help="TOML or JSON file of settings; options go first.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other setting of TrainSettings.")
    ] = None,
) -> None:
    """Train a policy on captured runs; killed at any moment, it goes on when called again."""
    from rich.console import Console
    from rich.markup import escape

    values: dict[str, Any] = {
        "policy": policy,
        "output": output,
        "method": method,
        "store": store,
        "status": status,
        "app": app_name,
        "thread": thread,
        "model": model,
        "since": since,
        "limit": limit,
        "preferences": wishes,
        "held_back": held_back,
        "lora_rank": lora_rank,
        "epochs": epochs,
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "max_staleness": max_staleness,
        "kl": kl,
        "entropy": entropy,
        "seed": seed,
        "save_every": save_every,
        "report_to": report_to or [],
        "restart": restart,
    }
    # What was not given is left to the file, and where that has none to the settings' defaults.
    options = {"app": "app_name", "preferences": "wishes"}
    given = {name: value for name, value in values.items() if _was_given(context, options.get(name, name))}
    result = _run(_settings(settings, given, set_ or []))
    console = Console(stderr=True, highlight=False)
    for name, number in result.counts.items():
        console.print(f"{name}: {number}")
    for reason, number in result.refused.items():
        console.print(f"left out: {number} {escape(reason)}", soft_wrap=True)
    done = f"trained {result.metrics['steps']:.0f} steps"
    console.print(f"{done}; the policy is in {escape(str(result.folder))}", soft_wrap=True)


def _settings(file: Path | None, given: dict[str, Any], more: list[str]) -> TrainSettings:
    from toolorch_rl.training import TrainSettings

    given |= settings_of(more)
    for name in ("policy", "output"):
        if file is None and given.get(name) is None:
            raise typer.BadParameter("is needed, here or in --settings", param_hint=f"--{name}")
    return TrainSettings.of(given) if file is None else TrainSettings.read(file, **given)


def _run(settings: TrainSettings) -> TrainResult:
    from transformers.utils import logging

    from toolorch_rl.training import train as run

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return run(settings)


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")
