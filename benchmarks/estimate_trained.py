"""How often the estimate's 95 % interval holds what a really trained policy then earns.

    python -m benchmarks.routing_fixed --base FOLDER --seeds 0 1 2
    python -m benchmarks.estimate_trained [--world fixed|redrawn] [--parts 4] [--fresh 1600]

It goes by what the first command (or `routing_redrawn`) has left: of each seed the randomly routed runs, and the
policies that `replay` and the online rounds made of them. Each policy is estimated from parts of the other seeds' runs,
which it was not trained on and which the same policy has made (`--base`). What it earns is seen on fresh requests,
sampled as the captured ones were, never greedily. A trial is one policy, one part and one metric: whether its interval
holds what was seen, and whether the verdict on the change from the captured runs was wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from benchmarks import routing_fixed, routing_redrawn
from benchmarks.estimate_coverage import Count
from benchmarks.routing_report import console
from benchmarks.routing_rounds import World, served
from examples.routing.app import verify
from examples.routing.requests import SETTINGS
from toolorch_integrations.trace import Trace
from toolorch_rl.estimate.policy import ScoredPolicy
from toolorch_rl.estimate.traces import estimate_traces
from toolorch_rl.rewards import features_of
from toolorch_rl.rollouts import PolicyServer, RolloutSettings, rollouts
from toolorch_rl.training.corpus import read_traces
from toolorch_rl.training.settings import TrainSettings

WORLDS = {"fixed": routing_fixed.WORLD, "redrawn": routing_redrawn.WORLD}
METRICS = ("solved", "dollars")
"""What is seen of a run whatever runs it is compared with, and whatever else the machine does."""
GROUP = "task"
BAR = 0.9


def parts_of(traces: Sequence[Trace], parts: int) -> list[list[Trace]]:
    """Return runs in parts; all runs of a task are in the same one."""
    tasks = {task: place for place, task in enumerate(sorted({str(trace.metadata[GROUP]) for trace in traces}))}
    found: list[list[Trace]] = [[] for _ in range(parts)]
    for trace in traces:
        found[tasks[str(trace.metadata[GROUP])] % parts].append(trace)
    return found


def seen(world: World, folder: Path, count: int, at_once: int) -> dict[str, float]:
    """Return what a policy earns on fresh requests, sampled as captured runs are."""
    settings = RolloutSettings(repetitions=1, at_once=at_once, seconds=120)
    tasks = world.training(count, "estimate", list(SETTINGS))
    with served(folder, "embedded") as server:
        groups = rollouts(world.app(server), tasks, verify, settings, server=PolicyServer(server))
    runs = [features_of(run.trace, run.verdict) for group in groups for run in group.runs]
    return {
        "solved": float(np.mean([run.solved for run in runs])),
        "dollars": float(np.mean([run.dollars or 0.0 for run in runs])),
    }


def main() -> None:
    """Estimate, look, count, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--world", choices=list(WORLDS), default="fixed")
    parser.add_argument("--work", type=Path, help="where the runs are; else .toolorch/WORLD")
    parser.add_argument("--parts", type=int, default=4, help="of each seed's captured runs")
    parser.add_argument("--fresh", type=int, default=1_600, help="fresh requests that show what a policy earns")
    parser.add_argument("--at-once", type=int, default=48)
    given = parser.parse_args()
    torch.set_num_threads(1)
    terminal = console()
    work = given.work or Path(".toolorch") / given.world
    seeds = sorted(work.glob("seed-*"))
    if len(seeds) < 2:
        command = f"python -m benchmarks.routing_{given.world} --base FOLDER --work {work} --seeds 0 1 2"
        raise SystemExit(f"{work} has the runs of {len(seeds)} seeds, and two are needed: {command}")
    settings = {
        seed.name: TrainSettings.of(
            {
                "policy": str(seed / "replay"),
                "output": seed / "replay",
                "store": f"sqlite:///{seed / 'random.db'}",
                "group_by": GROUP,
            }
        )
        for seed in seeds
    }
    logs = {name: parts_of(read_traces(chosen), given.parts) for name, chosen in settings.items()}
    trials = 0
    counts = {name: Count() for name in METRICS}
    table = Table("policy", "metric", "seen", "estimated from each part", title="estimates of trained policies")
    for seed in seeds:
        for folder in (seed / "replay", seed / "online"):
            if not folder.exists():
                continue
            truth = seen(WORLDS[given.world], folder, given.fresh, given.at_once)
            scored = ScoredPolicy(folder)
            said: dict[str, list[str]] = {name: [] for name in METRICS}
            for part, chosen in (
                (part, settings[name]) for name, parts in logs.items() if name != seed.name for part in parts
            ):
                report = estimate_traces(part, scored, chosen, scored.vocabulary)
                trials += 1
                for metric in METRICS:
                    found = report.metrics[metric]
                    if found.logged is not None:
                        counts[metric].add(found, truth[metric], found.logged)
                    interval = found.estimate
                    said[metric].append("-" if interval is None else f"{interval.low:.3g}..{interval.high:.3g}")
            for metric in METRICS:
                table.add_row(f"{seed.name} {folder.name}", metric, f"{truth[metric]:.3g}", "  ".join(said[metric]))
    terminal.print(table)
    for metric, count in counts.items():
        share = count.held / max(count.said, 1)
        terminal.print(
            f"{metric}: {count.held} of {count.said} intervals hold what was seen, {share:.3f} "
            f"(to reach: {BAR}); {trials - count.said} could not tell; {count.wrong} verdicts were wrong"
        )


if __name__ == "__main__":
    main()
