"""`toolorch eval`: how good a policy is, on tasks, beside baselines, and against another evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from toolorch_integrations.cli.options import Shown, preferences, report_console
from toolorch_integrations.preferences import Preferences

if TYPE_CHECKING:
    from toolorch_rl.evaluation import Report


class FaceOption(StrEnum):
    """Which framework's orchestrator runs the tasks."""

    LANGGRAPH = "langgraph"
    LLAMAINDEX = "llamaindex"


Policy = Annotated[str, typer.Argument(help="URL of a served policy (.../v1), or its folder or hub name.")]
Wanted = Annotated[
    Preferences | None,
    typer.Option(
        "--preferences", parser=preferences, metavar="TEXT", help="cost=0.6,latency=0.2; by default each task's own."
    ),
]
HeldOut = Annotated[
    Literal["task", "tool", "specialist", "price_table"] | None,
    typer.Option(help="Only the test part of a split by this."),
]


def evaluate(
    policy: Policy,
    tasks: Annotated[list[Path] | None, typer.Option(help="File of tasks, JSON lines; may be given again.")] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(help="bfcl:CATEGORY or tau2:DOMAIN, then @FOLDER for a checkout; may be given again."),
    ] = None,
    synthesize: Annotated[int | None, typer.Option(help="Make so many tasks from templates.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of --synthesize and of random choices.")] = 0,
    held_out: HeldOut = None,
    split_seed: Annotated[int, typer.Option(help="Decides what is held out.")] = 0,
    split_share: Annotated[float, typer.Option(help="Share of what is held out.", min=0.001, max=0.999)] = 0.1,
    model: Annotated[str | None, typer.Option(help="Served model name; by default the first that is served.")] = None,
    engine: Annotated[str, typer.Option(help="For a folder: vllm, embedded or auto.")] = "auto",
    dtype: Annotated[str, typer.Option(help="For a folder: auto, float32, bfloat16 or float16.")] = "auto",
    face: Annotated[FaceOption, typer.Option(help="Which framework runs the tasks.")] = FaceOption.LANGGRAPH,
    rendering: Annotated[Literal["chat", "select"], typer.Option(help="select: with langgraph only.")] = "chat",
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0)] = 0.0,
    max_tokens: Annotated[int, typer.Option(help="Longest reply of the policy.", min=1)] = 1024,
    price: Annotated[str, typer.Option(help="The policy's, in dollars per million input and output tokens.")] = "0,0",
    key_variable: Annotated[str | None, typer.Option(help="Variable that holds the endpoint's API key.")] = None,
    exact: Annotated[bool, typer.Option(help="Ask for token ids; not all endpoints give them.")] = True,
    wanted: Wanted = None,
    specialists: Annotated[str, typer.Option(help="Who answers: simulated, a URL, or a JSON file.")] = "simulated",
    baselines: Annotated[str | None, typer.Option(help="Names joined by commas, all or none.")] = None,
    strongest: Annotated[str | None, typer.Option(help="The strongest specialist; by default the dearest.")] = None,
    concurrency: Annotated[int, typer.Option(help="Runs at a time.", min=1)] = 8,
    timeout: Annotated[float, typer.Option(help="Seconds until a run is given up.", min=0.1)] = 300.0,
    store: Annotated[str | None, typer.Option(help="Keep the captured traces in this store.")] = None,
    against: Annotated[Path | None, typer.Option(help="Report or results of another evaluation.")] = None,
    output: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for plots.")] = None,
    format_: Annotated[Shown, typer.Option("--format", help="What is printed.")] = Shown.TABLE,
    fresh: Annotated[bool, typer.Option(help="Begin anew, whatever an interrupted evaluation left.")] = False,
) -> None:
    """Evaluate a policy on tasks.

    With --json or --store an evaluation that was interrupted goes on when the same command is given again.
    """
    from rich.console import Console
    from rich.markup import escape

    from toolorch_integrations.cli.evaluate_inputs import Sampling, load_tasks, read_price
    from toolorch_integrations.cli.evaluate_job import Job
    from toolorch_integrations.errors import ToolorchError
    from toolorch_rl.evaluation import read_results
    from toolorch_rl.synthesis import Split

    if not tasks and not benchmark and not synthesize:
        raise typer.BadParameter("give a file of tasks, --benchmark or --synthesize", param_hint="--tasks")
    console = Console(stderr=True, highlight=False)
    try:
        split = Split(by=held_out, seed=split_seed, share=split_share) if held_out is not None else None
        job = Job(
            policy=policy,
            model=model,
            engine=engine,
            dtype=dtype,
            sampling=Sampling(temperature, max_tokens, timeout, key_variable, read_price(price), exact),
            face=face.value,
            rendering=rendering,
            tasks=load_tasks(tasks or [], synthesize, seed, split, wanted, benchmark or []),
            preferences=wanted,
            specialists=specialists,
            baselines=baselines,
            strongest=strongest,
            seed=seed,
            concurrency=concurrency,
            store=store,
            results=output.with_suffix(".results.jsonl") if output is not None else None,
            fresh=fresh,
        )
        report = job.run(read_results(against) if against is not None else None, console)
        if output is not None:
            _write_whole(output, json.dumps(report.to_dict()))
        for note in _plotted(report, plots) if plots is not None else ():
            console.print(f"[yellow]no plot:[/yellow] {escape(note)}", soft_wrap=True)
        _print(report, format_)
    except KeyboardInterrupt:
        kept = "; the same command goes on from here" if output is not None or store is not None else ""
        console.print(f"interrupted{kept}")
        raise typer.Exit(130) from None
    except (ToolorchError, OSError) as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from error


def _print(report: Report, shown: Shown) -> None:
    from toolorch_integrations.cli.evaluate_view import report_view

    if shown is Shown.JSON:
        typer.echo(json.dumps(report.to_dict()))
    else:
        report_console().print(report_view(report))


def _plotted(report: Report, folder: Path) -> Iterator[str]:
    """Write the plots; say of each that cannot be drawn why."""
    from toolorch_rl.evaluation import EvaluationError, plot_front, plot_routing

    folder.mkdir(parents=True, exist_ok=True)
    try:
        plot_front(folder / "front.png", report.arms)
    except EvaluationError as error:
        yield str(error)
    try:
        plot_routing(folder / "routing.png", report.routing["all"])
    except EvaluationError as error:
        yield str(error)


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
