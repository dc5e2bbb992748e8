"""`toolorch serve`: start the servers that an app talks to."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from toolorch_integrations.cli.serve_gateway import gateway
from toolorch_integrations.cli.serve_retrieval import retrieval

serve = typer.Typer(help="Start servers.", no_args_is_help=True)
serve.command()(gateway)
serve.command()(retrieval)


@serve.command()
def policy(
    model: Annotated[str, typer.Argument(help="Folder or hub name of the policy.")],
    engine: Annotated[str, typer.Option(help="vllm, embedded, or auto: vLLM where it is installed.")] = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="Name to serve it under; by default the folder's.")] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Longest prompt plus answer, in tokens.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    lora: Annotated[bool, typer.Option(help="Allow adapters to be swapped in while it serves.")] = True,
    tool_call_parser: Annotated[str, typer.Option(help="How the policy writes tool calls.")] = "hermes",
    reasoning_parser: Annotated[str | None, typer.Option(help="qwen3 if every answer begins with reasoning.")] = None,
    log: Annotated[str | None, typer.Option(help="File for the server's log.")] = None,
) -> None:
    """Serve a policy with vLLM or the embedded engine, until Ctrl-C."""
    from rich.console import Console
    from rich.markup import escape

    from toolorch_integrations.errors import ToolorchError
    from toolorch_serving.policy import chosen_engine, policy_server

    console = Console(stderr=True, highlight=False)
    options: dict[str, Any] = {
        "name": name,
        "host": host,
        "port": port,
        "max_model_len": max_model_len,
        "dtype": dtype,
        "reasoning_parser": reasoning_parser,
        "log_path": log,
    }
    try:
        chosen = chosen_engine(engine)
        if chosen == "vllm":
            options |= {"lora": lora, "tool_call_parser": tool_call_parser}
        elif tool_call_parser != "hermes":
            raise typer.BadParameter("the embedded engine knows only hermes", param_hint="--tool-call-parser")
        server = policy_server(model, engine=chosen, **options)
        with server.until_signalled():
            console.print(
                f"{server.engine} serves [bold]{escape(server.name)}[/bold] on {server.url} (log: {server.log_path})",
                soft_wrap=True,
            )
            server.wait()
    except ToolorchError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from error
