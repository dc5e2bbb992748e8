"""`toolorch synthesize --by-model`: tasks by language model; the options, and what is shown on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from toolorch_integrations.entry import Endpoint, Specialist
from toolorch_integrations.errors import ToolorchError

if TYPE_CHECKING:
    from toolorch_rl.synthesis.by_model import Made
    from toolorch_rl.synthesis.by_model import Progress as StageProgress
    from toolorch_rl.tasks import Task

_PANEL = "By model"
_MAX_TOKENS = 4096
_SHOWN = 20
"""Drops that are printed; all of them stand in the work folder."""


def _option(help_: str, *names: str, **limits: Any) -> Any:
    return typer.Option(*names, help=help_, rich_help_panel=_PANEL, **limits)


ByModel = Annotated[str | None, _option("Endpoint of the model that makes the tasks, /v1 included.")]
Model = Annotated[str | None, _option("Its name there.")]
ModelPrice = Annotated[str | None, _option("Its dollars per million input and output tokens, such as 0.5,1.5.")]
KeyVariable = Annotated[str | None, _option("Environment variable that holds the API key.")]
SolverUrl = Annotated[str | None, _option("Endpoint of the model that tries the tasks; by default the same.")]
SolverModel = Annotated[str | None, _option("Its name there; by default the same model.")]
SolverPrice = Annotated[str | None, _option("Its price; by default the same.")]
Work = Annotated[
    Path | None,
    _option("Folder for what is paid for, by default OUT.work: a run that was stopped goes on from there."),
]
Dollars = Annotated[float | None, _option("Most that all calls in the work folder may cost.", min=0.0)]
Tries = Annotated[int | None, _option("Tries at each task, 8 by default; 0 for none.", min=0)]
SolvedMost = Annotated[int | None, _option("Keep tasks that so many tries solve at most.", min=0)]
Harder = Annotated[int | None, _option("Times that a task is made harder, 1 by default.", min=0)]
Databases = Annotated[int | None, _option("Initial states of a domain, 2 by default.", min=1)]
Repairs = Annotated[int | None, _option("Times that an answer is sent back, 2 by default.", min=0)]
MaxTokens = Annotated[int | None, _option("Most tokens of an answer, 4096 by default.", min=1)]
Temperature = Annotated[float | None, _option("Sampling temperature; by default the endpoint's.")]
Workers = Annotated[int | None, _option("Calls under way at a time, 16 by default.", min=1)]
Ray = Annotated[int | None, _option("Spread the calls over so many Ray workers.", "--ray", min=1)]


_OPTIONS = (
    "model", "price", "key_variable", "solver_url", "solver_model", "solver_price", "max_tokens", "temperature",
    "dollars", "work", "databases", "harder", "tries", "solved_most", "repairs", "workers", "ray",
)  # fmt: skip
_SETTINGS = ("count", "seed", "dollars", "databases", "harder", "tries", "solved_most", "repairs", "workers")


def refuse(options: Mapping[str, Any]) -> None:
    """Refuse options that mean something by model only.

    Raises:
        ToolorchError: One is given; the message names it.
    """
    for name in _OPTIONS:
        if options[name] is not None:
            raise ToolorchError(f"{_flag(name)} goes with --by-model URL: the template way has no use for it.")


def made_by_model(options: Mapping[str, Any], console: Console) -> list[Task]:
    """Make tasks, show how it goes and what it cost, and return them.

    Args:
        options: Those of the command, by name; those that are None keep their defaults.
        console: Where to show it.

    Raises:
        ToolorchError: An option is not usable, the endpoint is gone, or no task was made.
    """
    from toolorch_rl.synthesis.by_model import OrchestratorSolver, Settings, synthesize_by_model

    author, solver = _models(options)
    given = {name: options[name] for name in _SETTINGS if options[name] is not None}
    if options["ray"] is not None:
        given |= {"backend": "ray", "ray_workers": options["ray"]}
    topics = tuple(text.strip() for text in (options["domains"] or "").split(",")) if options["domains"] else ()
    try:
        settings = Settings(author=author, domains=topics, **given)
    except ValidationError as error:
        first = error.errors()[0]
        named = _flag(str(first["loc"][0])) + ": " if first["loc"] else ""
        raise ToolorchError(f"{named}{first['msg'].removeprefix('Value error, ')}") from error
    work = options["work"] or options["out"].with_name(f"{options['out'].name}.work")
    with _bars(console) as tell:
        made = synthesize_by_model(settings, work, solver=OrchestratorSolver(solver), progress=tell)
    _report(made, work, console)
    if not made.tasks:
        raise ToolorchError("No task was made; the reasons stand above.")
    if not made.complete:
        console.print(f"{len(made.tasks)} of {settings.count} tasks: see what was dropped", soft_wrap=True)
    return made.tasks


def _models(options: Mapping[str, Any]) -> tuple[Specialist, Specialist]:
    """Return the author and the solver that the options name."""
    from toolorch_integrations.cli.evaluate_inputs import read_price

    if not options["model"]:
        raise ToolorchError("--by-model needs --model: the model's name at the endpoint.")
    if options["dollars"] is not None and not options["price"]:
        raise ToolorchError("--dollars needs --price: what is spent is not known without it.")
    price = read_price(options["price"] or "0,0")
    fields = {name: options[name] for name in ("key_variable", "temperature")}
    fields["max_tokens"] = options["max_tokens"] or _MAX_TOKENS
    author = Endpoint(url=options["by_model"], model=options["model"], **fields)
    changes = {"url": options["solver_url"], "model": options["solver_model"]}
    solver = author.model_copy(update={name: value for name, value in changes.items() if value})
    solver_price = read_price(options["solver_price"]) if options["solver_price"] else price
    return (
        Specialist(name="author", endpoint=author, price=price),
        Specialist(name="solver", endpoint=solver, price=solver_price),
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@contextmanager
def _bars(console: Console) -> Iterator[Any]:
    """Show a bar a stage."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[cost]}"))
    with Progress(*columns, console=console, transient=True) as bars:
        rows: dict[str, Any] = {}

        def tell(progress: StageProgress) -> None:
            if progress.stage not in rows:
                rows[progress.stage] = bars.add_task(progress.stage, cost="")
            cost = f"${progress.dollars:.4f} in all, {progress.dropped} dropped"
            bars.update(rows[progress.stage], completed=progress.done, total=progress.total, cost=cost)

        yield tell


def _report(made: Made, work: Path, console: Console) -> None:
    with (work / "dropped.jsonl").open("w", encoding="utf-8") as file:
        for item in made.dropped:
            line = {"stage": item.stage, "item": item.item, "reason": item.reason}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    for item in made.dropped[:_SHOWN]:
        console.print(f"dropped: {escape(item.text())}", soft_wrap=True)
    if len(made.dropped) > _SHOWN:
        rest = len(made.dropped) - _SHOWN
        console.print(f"dropped: {rest} more, in {escape(str(work / 'dropped.jsonl'))}", soft_wrap=True)
    table = Table("stage", *(f"[right]{name}" for name in ("calls", "paid before", "tokens in", "out", "dollars")))
    for name, cost in made.stages.items():
        figures = (cost.calls, cost.reused, cost.input_tokens, cost.output_tokens, f"{cost.dollars:.4f}")
        table.add_row(name, *map(str, figures))
    table.add_row("all", "", "", "", "", f"{made.dollars:.4f}")
    console.print(table)
    if made.tried:
        console.print(f"tries that solve their task: {made.pass_at_1().text()}", highlight=False)
        console.print(f"tasks that some try solves: {made.pass_at_k().text()}", highlight=False)
