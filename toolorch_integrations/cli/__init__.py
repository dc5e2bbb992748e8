"""The command line, `toolorch`. It imports all parts; nothing imports it."""

import typer

from toolorch_integrations import __version__
from toolorch_integrations.cli.estimate import estimate
from toolorch_integrations.cli.evaluate import evaluate
from toolorch_integrations.cli.index import index
from toolorch_integrations.cli.loop import loop
from toolorch_integrations.cli.promote import promote
from toolorch_integrations.cli.serve import serve
from toolorch_integrations.cli.synthesize import synthesize
from toolorch_integrations.cli.traces import traces
from toolorch_integrations.cli.train import train

app = typer.Typer(help="Orchestrate tools and specialist models, capture every run.", no_args_is_help=True)
app.add_typer(serve, name="serve")
app.add_typer(index, name="index")
app.add_typer(traces, name="traces")
app.command()(synthesize)
app.command()(train)
app.command()(estimate)
app.command()(loop)
app.command()(promote)
app.command("eval")(evaluate)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)
