"""Options of the commands that need an embedding model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from toolorch_serving.retrieval import EmbedderSettings

Model = Annotated[
    str | None,
    typer.Option(
        help="Embedding model: a hub name, a folder, or the endpoint's name. By default what the "
        "index remembers, and for a new one MiniLM, which needs no download."
    ),
]
Endpoint = Annotated[
    str | None, typer.Option(help="OpenAI-compatible endpoint that runs the model, such as http://127.0.0.1:8000/v1.")
]
KeyVariable = Annotated[str | None, typer.Option(help="Environment variable with that endpoint's key.")]
QueryPrefix = Annotated[str, typer.Option(help="Put before queries, where the endpoint's model asks for it.")]
DocumentPrefix = Annotated[str, typer.Option(help="Put before documents, likewise.")]


def embedder_settings(
    model: str | None, endpoint: str | None, key_variable: str | None, query_prefix: str, document_prefix: str
) -> EmbedderSettings | None:
    """Return what the options say; None: what the index remembers."""
    from toolorch_serving.retrieval import EmbedderSettings

    if endpoint is None and (key_variable or query_prefix or document_prefix):
        raise typer.BadParameter(
            "belongs to an endpoint: give --endpoint as well", param_hint="--key-variable, --*-prefix"
        )
    if endpoint is not None and model is None:
        raise typer.BadParameter("give the endpoint's name for its model", param_hint="--model")
    if model is None:
        return None
    return EmbedderSettings(model, endpoint, key_variable, query_prefix, document_prefix)
