"""`toolorch synthesize`: make tasks and conversations to train and test policies on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
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
    count: Annotated[int | None, typer.Option(help="Tasks in all; by default 500 a domain.", min=1)] = None,
    domains: Annotated[str | None, typer.Option(help="Names, joined by commas; by default all.")] = None,
    format_: Annotated[OutputFormat, typer.Option("--format", help="What to write.")] = OutputFormat.TASKS,
) -> None:
    """Make verified tasks from templates, in many domains and all patterns."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    from toolorch_integrations.errors import ToolorchError
    from toolorch_rl.synthesis import Mix, domain
    from toolorch_rl.synthesis import domains as all_domains
    from toolorch_rl.synthesis import synthesize as make
    from toolorch_rl.synthesis.mix import COUNT

    console = Console(stderr=True, highlight=False)
    part = out.with_name(f"{out.name}.part")
    discarded: list[str] = []
    try:
        wanted = domains.split(",") if domains is not None else list(all_domains())
        names = list(dict.fromkeys(domain(name.strip()).name for name in wanted))
        total = COUNT * len(names) if count is None else count
        lacks = Mix().shortfalls(Mix().quotas(total // len(names)))
        if lacks:
            missing = ", ".join(f"{lack} {kind}" for kind, lack in lacks.items())
            console.print(f"too few for the minimum counts; each domain lacks {missing} examples", soft_wrap=True)
        tasks = track(
            make(seed, total, names, discarded=discarded.append), "Tasks", total, console=console, transient=True
        )
        with part.open("w", encoding="utf-8") as file:
            for line in _lines(tasks, format_):
                file.write(line + "\n")
        part.replace(out)
    except (ToolorchError, OSError) as error:
        part.unlink(missing_ok=True)
        console.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from error
    for reason in discarded:
        console.print(f"discarded: {escape(reason)}", soft_wrap=True)
    console.print(f"{total} verified {format_.value} of {len(names)} domains in {escape(str(out))}", soft_wrap=True)


def _lines(tasks: Iterable[Task], format_: OutputFormat) -> Iterator[str]:
    from toolorch_rl.environments import Environment
    from toolorch_rl.synthesis import conversation

    environments: dict[str, Environment] = {}
    for task in tasks:
        if format_ is OutputFormat.TASKS:
            yield task.to_json()
            continue
        if task.domain not in environments:
            environments[task.domain] = Environment(task.schema_of_environment)
        yield json.dumps(conversation(task, environments[task.domain]), ensure_ascii=False)
