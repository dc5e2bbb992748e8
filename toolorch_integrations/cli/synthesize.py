"""`toolorch synthesize`: make tasks and conversations to train and test policies on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolorch_integrations.cli import synthesize_by_model as by_model_options
from toolorch_integrations.cli.synthesize_split import Parts, SplitBy, SplitSeed, SplitShare

if TYPE_CHECKING:
    from rich.console import Console

    from toolorch_rl.tasks import Task


class OutputFormat(StrEnum):
    """What is written, one JSON object a line."""

    TASKS = "tasks"
    """Tasks for rollouts."""
    MESSAGES = "messages"
    """Whole conversations in OpenAI's messages format, as TRL takes them."""


def synthesize(
    out: Annotated[Path, typer.Option(help="File to write, JSON lines.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    count: Annotated[
        int | None, typer.Option(help="Tasks in all; by default 500 a domain, or 100 in all by model.", min=1)
    ] = None,
    domains: Annotated[
        str | None, typer.Option(help="Names, joined by commas; by default all. By model: what they are about.")
    ] = None,
    format_: Annotated[OutputFormat, typer.Option("--format", help="What to write.")] = OutputFormat.TASKS,
    split: SplitBy = None,
    split_seed: SplitSeed = 0,
    split_share: SplitShare = 0.1,
    by_model: by_model_options.ByModel = None,
    model: by_model_options.Model = None,
    price: by_model_options.ModelPrice = None,
    key_variable: by_model_options.KeyVariable = None,
    solver_url: by_model_options.SolverUrl = None,
    solver_model: by_model_options.SolverModel = None,
    solver_price: by_model_options.SolverPrice = None,
    max_tokens: by_model_options.MaxTokens = None,
    temperature: by_model_options.Temperature = None,
    dollars: by_model_options.Dollars = None,
    work: by_model_options.Work = None,
    databases: by_model_options.Databases = None,
    harder: by_model_options.Harder = None,
    tries: by_model_options.Tries = None,
    solved_most: by_model_options.SolvedMost = None,
    repairs: by_model_options.Repairs = None,
    workers: by_model_options.Workers = None,
    ray: by_model_options.Ray = None,
) -> None:
    """Make verified tasks from templates, in many domains and all patterns; or by language model (--by-model)."""
    options = dict(locals())
    from rich.console import Console
    from rich.markup import escape

    from toolorch_integrations.errors import ToolorchError
    from toolorch_rl.synthesis import Split

    console = Console(stderr=True, highlight=False)
    discarded: list[str] = []
    try:
        if by_model is None:
            by_model_options.refuse(options)
            names, total, tasks = _from_templates(seed, count, domains, discarded, console)
        else:
            made = by_model_options.made_by_model(options, console)
            names, total, tasks = sorted({task.domain for task in made}), len(made), made
        division = Split(by=split, seed=split_seed, share=split_share) if split is not None else None
        line = _line(format_)
        with Parts(out, division) as parts:
            for task in tasks:
                parts.write(task, line)
    except (ToolorchError, OSError) as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from error
    for reason in discarded:
        console.print(f"discarded: {escape(reason)}", soft_wrap=True)
    written = ", ".join(f"{number} in {escape(str(out.with_name(name)))}" for name, number in parts.counts.items())
    console.print(f"{total} verified {format_.value} of {len(names)} domains: {written}", soft_wrap=True)


def _from_templates(
    seed: int, count: int | None, domains: str | None, discarded: list[str], console: Console
) -> tuple[list[str], int, Iterable[Task]]:
    """Return the domains' names, the number of tasks, and the tasks as they are made."""
    from rich.progress import track

    from toolorch_rl.synthesis import Mix, domain
    from toolorch_rl.synthesis import domains as all_domains
    from toolorch_rl.synthesis import synthesize as make
    from toolorch_rl.synthesis.mix import COUNT

    wanted = domains.split(",") if domains is not None else list(all_domains())
    names = list(dict.fromkeys(domain(name.strip()).name for name in wanted))
    total = COUNT * len(names) if count is None else count
    lacks = Mix().shortfalls(Mix().quotas(total // len(names)))
    if lacks:
        missing = ", ".join(f"{lack} {kind}" for kind, lack in lacks.items())
        console.print(f"too few for the minimum counts; each domain lacks {missing} examples", soft_wrap=True)
    tasks = make(seed, total, names, discarded=discarded.append)
    return names, total, track(tasks, "Tasks", total, console=console, transient=True)


def _line(format_: OutputFormat) -> Callable[[Task], str]:
    """Return what writes a task as a line."""
    from toolorch_rl.environments import Environment
    from toolorch_rl.synthesis import conversation

    environments: dict[str, Environment] = {}

    def row(task: Task) -> str:
        if task.domain not in environments:
            environments[task.domain] = Environment(task.schema_of_environment)
        return json.dumps(conversation(task, environments[task.domain]), ensure_ascii=False)

    return row if format_ is OutputFormat.MESSAGES else lambda task: task.to_json()
