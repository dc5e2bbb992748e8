"""`make demo`: watch the shop assistant answer 30 requests with an orchestrator in place of its agent.

The policy is the small model in `policy/`, made and trained by this project; the tools are real; the specialists are
simulated, with real questions, real errors, real tokens and set prices. At the end, the same requests with the
strongest specialist always and with a random choice, and one trace as it was captured.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from examples.shop import scripted
from examples.shop.app import after
from examples.shop.catalog import catalog
from examples.shop.enquiries import Enquiry, demo_requests, solved
from toolorch_integrations import Price
from toolorch_integrations.capture import capture
from toolorch_integrations.cli.trace_view import trace_panel
from toolorch_integrations.langgraph import ChatPolicy, ledger_of
from toolorch_integrations.store import TraceStore
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_serving.policy import policy_server
from toolorch_serving.simulated.service import SimulatedSpecialists

POLICY = Path(__file__).parent / "policy"
POLICY_PRICE = Price(input=0.05, output=0.1)
"""Dollars per million tokens: about what it costs to serve so small a model."""

IN_PICTURE = 6
"""Requests that a saved picture shows."""

_SVG = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""Rich's picture of a terminal, without the font that it would fetch from a server."""

console = Console(highlight=False, width=110 if not sys.stdout.isatty() else None)


@dataclass
class Result:
    """What an arm of the comparison has brought so far."""

    name: str
    requests: int = 0
    solved: int = 0
    dollars: float = 0.0
    seconds: float = 0.0


def main(
    model: Annotated[Path, typer.Option(help="Folder of the policy.")] = POLICY,
    engine: Annotated[str, typer.Option(help="embedded, vllm or auto.")] = "embedded",
    requests: Annotated[int, typer.Option(help="How many requests.")] = 30,
    store: Annotated[str, typer.Option(help="Where the traces go.")] = "sqlite:///.toolorch/demo.db",
    picture: Annotated[Path | None, typer.Option(help="Save some steps and the table as an SVG file.")] = None,
) -> None:
    """Run the demo."""
    Path(".toolorch").mkdir(exist_ok=True)
    console.record = picture is not None
    enquiries = demo_requests(requests)
    with SimulatedSpecialists() as specialists, policy_server(model, engine=engine, dtype="float32") as server:
        console.print(f"Policy: [bold]{server.name}[/bold] served by {server.engine}.")
        policy = ChatPolicy(model=server.name, base_url=server.url, price=POLICY_PRICE, temperature=0, max_tokens=256)
        with capture(store, app="shop") as session:
            own = run_arm("orchestrator", policy, specialists.url, enquiries, watch=True)
        with TraceStore.open(store) as traces:
            shown = max((traces.trace(trace_id) for trace_id in session.trace_ids), key=lambda t: t.totals.turns)
        baselines = [
            run_scripted("strongest always", scripted.strongest, specialists.url, enquiries),
            run_scripted("random choice", scripted.RandomChoice(), specialists.url, enquiries),
        ]
    console.record = picture is not None
    console.print()
    console.print(table([own, *baselines]))
    if picture is not None:
        console.save_svg(str(picture), title="make demo", code_format=_SVG)
    console.rule("One of the captured traces")
    console.print(trace_panel(shown))
    console.rule("Its ledger, the policy's own tokens included")
    console.print(shown.ledger().to_text())
    console.print(f"\nAll of them: [bold]toolorch traces list --store {store}[/bold]")


def run_arm(name: str, policy: ChatPolicy, url: str, enquiries: list[Enquiry], *, watch: bool) -> Result:
    """Answer all requests with one policy; print each step of the way if wanted."""
    agent = after(policy, catalog(url))
    result = Result(name)
    for enquiry in enquiries:
        started = time.monotonic()
        if watch:
            console.print(f"\n[bold cyan]{result.requests + 1:>2}. {escape(enquiry.text)}[/bold cyan]")
        state: Mapping[str, Any] = {}
        for mode, data in agent.stream({"messages": [("user", enquiry.text)]}, stream_mode=["custom", "values"]):
            if mode == "values":
                state = data
            elif watch:
                print_step(data)
        answer = state["messages"][-1].text
        good = solved(enquiry, answer)
        ledger = ledger_of(state)
        result.requests += 1
        result.solved += good
        result.dollars += ledger.dollars
        result.seconds += time.monotonic() - started
        if watch:
            console.record = console.record and result.requests < IN_PICTURE
            mark = "[green]solved[/green]" if good else f"[red]not solved[/red] (expected {escape(enquiry.expected)})"
            console.print(f"    [bold]{escape(answer.strip())}[/bold]")
            seconds = time.monotonic() - started
            console.print(f"    {mark}  turns: {ledger.turns}  ${ledger.dollars:.6f}  {seconds:.2f} s")
    return result


def run_scripted(name: str, script: Any, url: str, enquiries: list[Enquiry]) -> Result:
    """Answer all requests with a fixed rule in place of the policy: the same app, the same tools and specialists."""

    def reply(request: Mapping[str, Any]) -> Reply:
        message = script(request["messages"], request["tools"])
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        return Reply(message.get("content") or "", [(call["name"], json.loads(call["arguments"])) for call in calls])

    with ScriptedPolicy(reply) as rule, console.status(f"{name} ..."):
        return run_arm(name, ChatPolicy(model="rule", base_url=rule.url), url, enquiries, watch=False)


def print_step(event: Mapping[str, Any]) -> None:
    """Print a progress event as a person wants to read it."""
    if event["type"] == "turn" and event["calls"]:
        console.print(f"    [dim]policy:[/dim] {escape(event['text'] or ', '.join(event['calls']))}")
    elif event["type"] == "call_ended":
        first = event["result"].splitlines()[0] if event["result"] else ""
        cost = f"[dim]${event['dollars']:.6f} {event['seconds']:.2f} s[/dim]"
        line = f"    [dim]->[/dim] {event['kind']} [magenta]{event['name']}[/magenta] {cost} {escape(first)}"
        console.print(line, no_wrap=True, overflow="ellipsis")
    elif event["type"] in ("budget_ended", "fallback"):
        console.print(f"    [yellow]{event['type']}[/yellow]")


def table(results: list[Result]) -> Table:
    """Return solved, dollars and seconds of each arm side by side."""
    shown = Table(title=f"{results[0].requests} held-out requests")
    for column in ("", "solved", "dollars", "seconds", "dollars / strongest"):
        shown.add_column(column, justify="left" if not column else "right")
    strongest = results[1].dollars
    for result in results:
        shown.add_row(
            result.name,
            f"{result.solved}/{result.requests}",
            f"{result.dollars:.4f}",
            f"{result.seconds:.1f}",
            f"{result.dollars / strongest:.0%}",
        )
    return shown


if __name__ == "__main__":
    typer.run(main)
