"""`toolorch serve retrieval`: an index over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from toolorch_integrations.cli.embedding_options import (
    DocumentPrefix,
    Endpoint,
    KeyVariable,
    Model,
    QueryPrefix,
    embedder_settings,
)

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def retrieval(
    folder: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder that `toolorch index build` made.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8090,
    create: Annotated[bool, typer.Option("--create", help="Begin with an empty index if there is none.")] = False,
    api_key_variable: Annotated[
        str | None, typer.Option(help="Environment variable with the key that callers must send.")
    ] = None,
    open_to_all: Annotated[
        bool, typer.Option("--open", help="Listen beyond this machine without a key: everybody may read and delete.")
    ] = False,
    model: Model = None,
    endpoint: Endpoint = None,
    key_variable: KeyVariable = None,
    query_prefix: QueryPrefix = "",
    document_prefix: DocumentPrefix = "",
    request_seconds: Annotated[float, typer.Option(min=1, help="How long a request may take.")] = 60.0,
    request_bytes: Annotated[int, typer.Option(min=1024, help="How large a body may be.")] = 16 * 2**20,
) -> None:
    """Serve an index: search, and live adds and deletes, until Ctrl-C."""
    from toolorch_integrations.cli.index import reported_errors

    key = os.environ.get(api_key_variable) if api_key_variable else None
    if api_key_variable and not key:
        raise typer.BadParameter(
            f"the environment variable {api_key_variable} is not set", param_hint="--api-key-variable"
        )
    if host not in _LOOPBACK and key is None and not open_to_all:
        raise typer.BadParameter(
            f"{host} can be reached from elsewhere: give --api-key-variable, or --open", param_hint="--host"
        )
    with reported_errors():
        import uvicorn
        from rich.console import Console

        from toolorch_serving.retrieval import RetrievalIndex, create_app
        from toolorch_serving.retrieval.limits import ServiceLimits

        settings = embedder_settings(model, endpoint, key_variable, query_prefix, document_prefix)
        limits = ServiceLimits(request_bytes=request_bytes, seconds=request_seconds)
        with RetrievalIndex(folder, settings=settings, create=create) as index:
            app = create_app(index, key=key, limits=limits)
            config = uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=30)
            listening = config.bind_socket()
            index.load()
            shown = f"[{host}]" if ":" in host else host
            Console(stderr=True, highlight=False, markup=False).print(
                f"{len(index):,} documents ({index.embedder.name}) on http://{shown}:{listening.getsockname()[1]}",
                soft_wrap=True,
            )
            uvicorn.Server(config).run(sockets=[listening])
