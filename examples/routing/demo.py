"""The second act of `make demo`: a policy learns from what its app has captured, and is swapped in while it serves.

Eight kinds of requests and six simulated specialists. The policy in `policy/` writes down what kind a request is and
hands it to anybody: it knows names and prices, and not who is good at what. Its runs are captured; `sft` trains an
adapter on the best of each request; runs that were held back say what that will earn; the gate decides; the running
server takes the new version; and fresh requests show whether the estimate was right. Nothing here is written down
beforehand.

The policy was made, in about three minutes of a processor core, by

    python -m examples.routing.base_policy --out examples/routing/policy --steps 300
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.markup import escape
from transformers import AutoConfig
from transformers.utils import logging

import toolorch_rl
from examples.routing.app import App, routing_app, verify
from examples.routing.demo_view import console, estimate_check, table, told, told_apart
from examples.routing.measure import POLICY_SECONDS, Worth, baselines, worth
from examples.routing.requests import RoutingTask, tasks
from toolorch_integrations.cli.estimate import estimated, show
from toolorch_integrations.langgraph import ChatPolicy
from toolorch_integrations.store import TraceStore
from toolorch_rl.estimate import EstimateReport
from toolorch_rl.evaluation.arms import Arm
from toolorch_rl.rewards import attach, features_of
from toolorch_rl.rollouts import Group, PolicyServer, RolloutSettings, report, rewards_of, rollouts
from toolorch_rl.rollouts.groups import with_policy_seconds
from toolorch_rl.weights import LoraPublisher, Probe, Published
from toolorch_serving.policy import policy_server
from toolorch_serving.process import ServerProcess
from toolorch_serving.promotion import Criteria, Decision, Gate, Verdict, of_estimate

POLICY = Path(__file__).parent / "policy"
NAME, VERSION = "router", "v1"
CRITERIA = Criteria(goal="dollars")
"""What this app's owner asks of a new version: to cost less, and to be no worse in what is protected."""
ENGINES: dict[str, dict[str, Any]] = {"vllm": {"max_model_len": 1024, "lora": True}, "embedded": {"max_batch": 64}}


@dataclass(frozen=True)
class Counts:
    """How much the demo does.

    Attributes:
        captured: Requests whose runs are trained on.
        held_back: Requests whose runs the estimate rests on.
        repetitions: Runs of each of them, so that there is something to compare.
        fresh: Requests for the new policy, one run each.
        epochs: Passes over the captured runs.
    """

    captured: int = 96
    held_back: int = 40
    repetitions: int = 8
    fresh: int = 240
    epochs: float = 5.0


@dataclass(frozen=True)
class Outcome:
    """What came of it; the last three are None where the gate said no."""

    before: Worth
    estimate: EstimateReport
    decision: Decision
    after: Worth | None = None
    published: Published | None = None
    answered_by: frozenset[str] = frozenset()


def main(
    model: Annotated[Path, typer.Option(help="Folder of the policy that routes at random.")] = POLICY,
    engine: Annotated[str, typer.Option(help="embedded or vllm.")] = "embedded",
    work: Annotated[Path, typer.Option(help="Where traces and the new policy go.")] = Path(".toolorch/routing-demo"),
) -> None:
    """Run the second act."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    torch.set_num_threads(1)  # so small a model gains nothing from a second thread
    run(model, engine, work)


def run(model: Path, engine: str, work: Path, counts: Counts | None = None, criteria: Criteria = CRITERIA) -> Outcome:
    """Serve, capture, train, estimate, decide, swap, serve again.

    Args:
        model: The policy that routes at random.
        engine: Who serves it.
        work: Gets `traces.db`, `held-back.db` and the adapter; those of an earlier demo are replaced.
        counts: How much.
        criteria: When the new version is better.
    """
    counts = counts or Counts()
    clear(work)
    console.rule("[bold]Act two: the policy learns from what its app has captured")
    with policy_server(model, engine=engine, name=NAME, dtype="float32", **ENGINES.get(engine, {})) as server:
        console.print(f"Policy: [bold]{server.name}[/bold] served by {server.engine}. It hands requests to anybody.")
        before, captured = first_runs(server, work, counts)
        adapter = trained(model, work, counts)
        console.rule("What will it earn? Asked of runs that were held back from training")
        estimate = estimated(str(adapter), str(model), store=f"sqlite:///{work / 'held-back.db'}")
        show(console, told_apart(estimate))
        decision = Gate(criteria).judge(of_estimate(estimate))
        if decision.verdict is not Verdict.PASS:
            console.print(f"[red]The gate: {server.name} stays.[/red] {escape(decision.reason)}")
            return Outcome(before, estimate, decision)
        console.print(f"[green]The gate: {decision.verdict}.[/green] {escape(decision.reason)}")
        published = swapped(server, model, adapter, captured)
        return last_runs(server, published, Outcome(before, estimate, decision), counts)


def clear(work: Path) -> None:
    """Remove what an earlier demo has left."""
    work.mkdir(parents=True, exist_ok=True)
    for file in (*work.glob("traces.db*"), *work.glob("held-back.db*")):
        file.unlink()
    shutil.rmtree(work / VERSION, ignore_errors=True)


def app_of(server: ServerProcess) -> App:
    """Return the app, asking the policy at a server."""
    return routing_app(ChatPolicy(model=server.name, base_url=server.url, max_tokens=60, max_retries=3, timeout=120))


def answered(
    server: ServerProcess,
    asked: Sequence[RoutingTask],
    repetitions: int = 1,
    version: str | None = None,
    store: Path | None = None,
) -> list[Group]:
    """Run the app on requests, many at once and at temperature 1; keep traces and what the verifier says of them.

    Args:
        server: Of the policy.
        asked: The requests.
        repetitions: Runs of each.
        version: Which policy is asked; None: the bare one.
        store: Where the traces go.
    """
    settings = RolloutSettings(repetitions=repetitions, at_once=32, seconds=120)
    kept = TraceStore.open(f"sqlite:///{store}") if store is not None else None
    began = time.monotonic()
    with console.status(f"{len(asked) * repetitions} runs ..."):
        groups = rollouts(
            app_of(server), asked, verify, settings, server=PolicyServer(server), store=kept, version=version
        )
    if kept is not None:
        attach(kept, rewards_of(groups, policy_seconds=POLICY_SECONDS), "exact")
        kept.close()
    console.print(f"{report(groups)} in {time.monotonic() - began:.0f} s" + (f" -> {store}" if store else ""))
    return groups


def valued(name: str, groups: Sequence[Group]) -> tuple[Worth, list[Worth]]:
    """Return what runs were worth, and beside them the baselines on the same requests."""
    runs = [(group.task, run) for group in groups for run in group.runs]
    features = [with_policy_seconds(features_of(run.trace, run.verdict), POLICY_SECONDS) for _, run in runs]
    asked = [task for task, _ in runs]
    arms = baselines(asked)
    own = worth(Arm(name, tuple(features)), arms[0], asked)
    return own, [worth(arm, arms[0], asked) for arm in arms if arm.name != "cascade"]


def first_runs(server: ServerProcess, work: Path, counts: Counts) -> tuple[Worth, list[Group]]:
    """Capture the runs of the policy as it is, and show what they were worth."""
    shown = tasks(counts.captured, "demo captured")
    groups = answered(server, shown, counts.repetitions, store=work / "traces.db")
    answered(server, tasks(counts.held_back, "demo held back"), counts.repetitions, store=work / "held-back.db")
    before, rules = valued(server.name, groups)
    console.print(table(f"Before: {len(shown)} requests, {counts.repetitions} runs each", [before], rules))
    return before, groups


def trained(model: Path, work: Path, counts: Counts) -> Path:
    """Train an adapter on the captured runs, and on nothing else."""
    console.rule("Training an adapter on the best runs of each request")
    result = toolorch_rl.train(
        policy=str(model),
        output=work / VERSION,
        store=f"sqlite:///{work / 'traces.db'}",
        method="sft",
        best=0.25,
        epochs=counts.epochs,
        batch=16,
        micro_batch=16,
        lora_rank=32,
        learning_rate=3e-3,
        schedule="linear",
        log_every=10,
        save_every=10_000,
    )
    left_out = f"; left out: {told(result.refused)}" if result.refused else ""
    console.print(f"{told(result.counts)} in {result.metrics['seconds']:.0f} s -> {result.folder}{left_out}")
    return result.folder


def swapped(server: ServerProcess, model: Path, adapter: Path, groups: Sequence[Group]) -> Published:
    """Bring the adapter into the running server, which goes on answering meanwhile."""
    console.rule("The swap")
    vocabulary = int(AutoConfig.from_pretrained(model).vocab_size)
    with (
        LoraPublisher(server.url, server.name, probe=Probe.random(vocabulary), folder=model) as publisher,
        ThreadPoolExecutor(1) as pool,
    ):
        meanwhile = pool.submit(answered, server, [group.task for group in groups][:16])
        published = publisher.publish(VERSION, adapter)
        console.print(
            f"[bold]{published.name}[/bold] serves after {published.seconds:.2f} s. The probe: the server's "
            f"log-probabilities are within {published.probe.error:.1g} of the trainer's, which have moved by "
            f"{published.probe.moved:.2g}."
        )
        ended = meanwhile.result()
    by = versions_of(ended)
    console.print(f"Under way meanwhile: {report(ended)}, answered by {', '.join(sorted(by))}.")
    return published


def versions_of(groups: Sequence[Group]) -> frozenset[str]:
    """Return the policies that runs say have answered them."""
    return frozenset(name for group in groups for run in group.runs for name in run.trace.policy_versions)


def last_runs(server: ServerProcess, published: Published, outcome: Outcome, counts: Counts) -> Outcome:
    """Ask the new policy fresh requests, and hold the estimate against what it earns."""
    console.rule(f"Fresh requests, answered by {published.name}")
    groups = answered(server, tasks(counts.fresh, "demo fresh"), version=published.model)
    after, rules = valued(published.name, groups)
    title = f"After: {counts.fresh} fresh requests"
    console.print(table(title, [after], rules, before=outcome.before, estimate=outcome.estimate))
    for line in estimate_check(after, outcome.estimate):
        console.print(line)
    return Outcome(outcome.before, outcome.estimate, outcome.decision, after, published, versions_of(groups))


if __name__ == "__main__":
    typer.run(main)
