"""`toolorch serve gateway`: orchestrators and a policy server behind OpenAI's protocol."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from toolorch_serving.gateway.state import GatewayState


def gateway(
    config: Annotated[Path | None, typer.Argument(help="TOML file; without one, the environment alone counts.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on, in place of the file's.")] = None,
    port: Annotated[int | None, typer.Option(help="Port, in place of the file's; 0 takes a free one.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="See that it can start: files, tools, apps, variables. Asks no server.")
    ] = False,
) -> None:
    """Serve a gateway until SIGTERM or Ctrl-C, and drain it then."""
    from rich.console import Console
    from rich.markup import escape

    from toolorch_integrations.errors import ToolorchError

    console = Console(stderr=True, highlight=False)
    try:
        _serve(console.print, config, host, port, check)
    except ToolorchError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from error


def _serve(say: Callable[..., None], file: Path | None, host: str | None, port: int | None, check: bool) -> None:
    from rich.markup import escape

    from toolorch_serving.gateway.app import Gateway
    from toolorch_serving.gateway.config_file import load_config
    from toolorch_serving.gateway.opening import open_state, rehearse
    from toolorch_serving.gateway.serving import GatewayServer

    given = {"host": host, "port": port}
    config = load_config(file, {name: value for name, value in given.items() if value is not None})
    # Apps of one's own are found where the configuration lies, and where the command is given.
    sys.path[:0] = [str(folder) for folder in dict.fromkeys([Path.cwd(), (file or Path()).absolute().parent])]
    if check:
        rehearse(config)
        say("the configuration is right")
        return
    with open_state(config) as state:
        server = GatewayServer(Gateway(state), lambda: say(escape(_about(server.url, state)), soft_wrap=True))
        server.run()


def _about(url: str, state: GatewayState) -> str:
    orchestrators = ", ".join(state.runners) or "none"
    policy = state.config.policy.url if state.config.policy else "none"
    keys = f"{len(state.config.keys)} keys" if state.config.keys else "no keys"
    return f"gateway on {url} (orchestrators: {orchestrators}; policy server: {policy}; {keys}; store: {state.store})"
