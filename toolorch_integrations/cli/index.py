"""`toolorch index`: put documents into an index, and look at it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from toolorch_integrations.cli.embedding_options import (
    DocumentPrefix,
    Endpoint,
    KeyVariable,
    Model,
    QueryPrefix,
    embedder_settings,
)

index = typer.Typer(help="Put documents into an index that `serve retrieval` makes searchable.", no_args_is_help=True)


class IndexKind(StrEnum):
    """Kinds of vector indexes."""

    AUTO = "auto"
    FLAT = "flat"
    IVF = "ivf"
    IVF_SQ8 = "ivf_sq8"
    HNSW = "hnsw"


@contextmanager
def reported_errors() -> Iterator[None]:
    """Say what went wrong in one line, without a traceback."""
    from rich.console import Console
    from rich.markup import escape

    from toolorch_integrations.errors import ToolorchError

    try:
        yield
    except (ToolorchError, OSError, ImportError) as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from error


@index.command()
def build(
    folder: Annotated[Path, typer.Argument(help="Folder of the index; made if it is not there.")],
    sources: Annotated[list[Path], typer.Argument(help="Folders, text files, JSON lines or Parquet files.")],
    model: Model = None,
    endpoint: Endpoint = None,
    key_variable: KeyVariable = None,
    query_prefix: QueryPrefix = "",
    document_prefix: DocumentPrefix = "",
    kind: Annotated[
        IndexKind | None, typer.Option(help="Vector index: exact (flat) while small, else an inverted file (ivf).")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="Field of a row with its text; may be given again.")] = None,
    id_field: Annotated[str | None, typer.Option("--id", help="Field of a row with its id.")] = None,
    vector: Annotated[str | None, typer.Option(help="Field of a row with its vector, made by the same model.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(help="Field of a row to filter by; by default all others.")
    ] = None,
    chunk: Annotated[int, typer.Option(min=0, help="Characters of a piece; 0 leaves texts whole.")] = 1000,
    overlap: Annotated[int, typer.Option(min=0, help="Characters that a piece repeats of the one before.")] = 150,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Take a text again under another name.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON, for programs.")] = False,
) -> None:
    """Put documents into an index. Run again, it goes on where it was killed, and embeds only what is new."""
    with reported_errors():
        from dataclasses import asdict

        from rich.console import Console
        from rich.markup import escape

        from toolorch_integrations.cli.index_view import progress_bar, report_lines
        from toolorch_serving.retrieval import Chunking, Fields, RetrievalIndex, Skipped, Sources, build_index

        defaults = Fields()
        fields = Fields(
            tuple(text) if text else defaults.text,
            (id_field,) if id_field else defaults.id,
            vector,
            tuple(metadata) if metadata else None,
        )
        wanted = Sources(sources, fields, Chunking(chunk, overlap))
        wanted.files()  # A path that is missing is said before a model is loaded.
        settings = embedder_settings(model, endpoint, key_variable, query_prefix, document_prefix)
        errors = Console(stderr=True, highlight=False)

        def skipped(one: Skipped) -> None:
            errors.print(f"[yellow]skipped[/yellow] {escape(one.place)}: {escape(one.reason)}", soft_wrap=True)

        with (
            RetrievalIndex(folder, settings=settings, kind=kind.value if kind else None) as opened,
            progress_bar(errors) as progress,
        ):
            report = build_index(
                opened, wanted, skip_duplicates=not keep_duplicates, progress=progress, skipped=skipped
            )
            held = len(opened)
        if as_json:
            typer.echo(json.dumps({**asdict(report), "held": held}))
        else:
            typer.echo("\n".join(report_lines(report, held, folder)))


@index.command()
def stats(
    folder: Annotated[Path, typer.Argument(help="Folder of the index.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Say what an index holds; also while a service has it open."""
    with reported_errors():
        from toolorch_serving.retrieval.look import look_at

        found: dict[str, Any] = look_at(folder)
        if as_json:
            typer.echo(json.dumps(found))
            return
        for name, value in found.items():
            typer.echo(f"{name.replace('_', ' '):<12}{value:,}" if isinstance(value, int) else f"{name:<12}{value}")
