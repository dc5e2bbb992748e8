"""Cost-aware routing with a fixed catalogue: a policy learns by experience what each specialist is good for.

    python -m benchmarks.routing_fixed [--engine vllm|embedded] [--minutes 20] [--seeds 0] [--capture 384]

The world is `examples/routing`: eight kinds of requests and six specialists, of which the policy knows names and
prices. It begins with valid calls and random choices. Then, within the given minutes and all through the real path (a
policy server, the app as a LangGraph orchestrator, capture, rows, TRL, published weights):

1. runs of the randomly routing policy are captured,
2. `replay` learns from them by advantage-weighted regression, without further runs,
3. `online` goes on with rollouts of the app while it trains.

`--gradient` trains by the policy gradient on the same captured runs as well, outside of the minutes.

Then held-out requests, never drawn in training, are routed greedily in five preference settings. The table stands
beside always-strongest, always-cheapest, random, cascade and oracle. Bars: solved at least as often as always-strongest
at 30 % of its dollars, 95 % of the best possible reward; `replay` alone recovers half of the gap between random routing
and that; no baseline dominates a setting's point in solved, dollars and seconds. The result is also written as JSON,
with the learning curve as a picture.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from examples.routing.app import App, routing_app, verify
from examples.routing.base_policy import make
from examples.routing.measure import POLICY_SECONDS, Worth, baselines, policy_arm, worth
from examples.routing.requests import SETTINGS, RoutingTask, tasks
from toolorch_integrations.langgraph import ChatPolicy
from toolorch_integrations.store import TraceStore
from toolorch_rl.online import OnlineSettings, train_online
from toolorch_rl.rewards import Rewards, attach
from toolorch_rl.rollouts import Group, PolicyServer, RolloutSettings, report, rewards_of, rollouts
from toolorch_rl.training import train
from toolorch_serving.policy import policy_server

MIX = ("careful", "frugal", "careful", "even", "careful", "brisk", "careful", "rush")
"""Settings of the training tasks: half of them `careful`, whose figures the bars are about."""

CLAIM = "careful"


@dataclass
class Curve:
    """What was measured while it trained: one entry a step."""

    began: float
    points: list[dict[str, float]] = field(default_factory=list)

    def add(self, groups: Sequence[Group], rewards: Rewards) -> None:
        """Add a step's runs."""
        runs = rewards.runs
        self.points.append(
            {
                "seconds": time.monotonic() - self.began,
                "solved": sum(run.solved for run in runs) / len(runs),
                "dollars": sum(run.dollars or 0.0 for run in runs) / len(runs),
                "reward": float(rewards.scalars.mean()),
                "runs": float(len(runs)),
            }
        )


def app_of(server: Any) -> App:
    """Return the app, asking the policy at a server."""
    policy = ChatPolicy(model=server.name, base_url=server.url, max_tokens=40, max_retries=3, timeout=120)
    return routing_app(policy)


def served(folder: Path, engine: str) -> Any:
    """Return a server that takes new weights as a whole."""
    if engine == "vllm":
        return policy_server(folder, engine=engine, dtype="float32", max_model_len=1024, training=True, progress=False)
    return policy_server(folder, engine=engine, dtype="float32", max_batch=64, progress=False)


def learn(base: Path, work: Path, given: argparse.Namespace, seed: int, say: Any) -> dict[str, Any]:
    """Let the policy learn for the given minutes, and return where it and its stages are."""
    began = time.monotonic()
    deadline = began + 60 * given.minutes
    curve = Curve(began)
    store_file = work / "random.db"
    with served(base, given.engine) as server:
        settings = RolloutSettings(repetitions=8, at_once=given.at_once, seconds=120, seed=seed)
        store = TraceStore.open(store_file)
        shown = tasks(given.capture, f"capture {seed}", MIX)
        groups = rollouts(app_of(server), shown, verify, settings, server=PolicyServer(server), store=store)
        attach(store, rewards_of(groups, policy_seconds=POLICY_SECONDS), "exact")
        store.close()
    say(f"{time.monotonic() - began:.0f} s: captured {report(groups)} of random routing")
    replayed = replay(base, store_file, work / "replay", given, seed, regression=0.3, truncate=20.0)
    say(f"{time.monotonic() - began:.0f} s: replay has ended")
    left = deadline - time.monotonic() - 10
    learnt = replayed
    if left > 30:
        learnt = work / "online"
        with served(replayed, given.engine) as server:
            train_online(
                app_of(server),
                tasks(40_000, f"online {seed}", MIX),
                verify,
                server=server,
                online=OnlineSettings(
                    groups=given.groups,
                    rollouts=RolloutSettings(repetitions=8, at_once=given.at_once, seconds=120, seed=seed),
                    policy_seconds=POLICY_SECONDS,
                    seconds=deadline - time.monotonic() - 10,
                ),
                ended=curve.add,
                policy=str(replayed),
                output=str(learnt),
                steps=100_000,
                lora_rank=None,
                learning_rate=given.online_rate,
                save_every=100_000,
                log_every=5,
                seed=seed,
            )
    say(f"{time.monotonic() - began:.0f} s: learnt")
    return {
        "replay": replayed,
        "learnt": learnt,
        "store": store_file,
        "seconds": time.monotonic() - began,
        "curve": curve.points,
    }


def replay(
    base: Path, store_file: Path, folder: Path, given: argparse.Namespace, seed: int, **objective: float
) -> Path:
    """Train on the captured runs alone."""
    train(
        policy=str(base),
        output=str(folder),
        store=f"sqlite:///{store_file}",
        method="replay",
        lora_rank=None,
        epochs=given.epochs,
        batch=64,
        learning_rate=given.replay_rate,
        schedule="linear",
        save_every=10_000,
        log_every=20,
        seed=seed,
        group_by="task",
        **objective,
    )
    return folder


def measure(
    folder: Path, name: str, engine: str, count: int, at_once: int, settings: Sequence[str]
) -> dict[str, Worth]:
    """Return what a policy is worth on held-out tasks, by setting."""
    found = {}
    with served(folder, engine) as server:
        app = app_of(server)
        for setting in settings:
            held = tasks(count, "held out", (setting,))
            arm = policy_arm(name, app, held, PolicyServer(server), at_once)
            found[setting] = worth(arm, baselines(held)[0], held)
    return found


def rules(count: int) -> dict[str, dict[str, Worth]]:
    """Return what the baselines are worth on the same tasks, by setting and name."""
    found = {}
    for setting in SETTINGS:
        held: list[RoutingTask] = tasks(count, "held out", (setting,))
        arms = baselines(held)
        found[setting] = {arm.name: worth(arm, arms[0], held) for arm in arms}
    return found


def dominated(point: Worth, others: Sequence[Worth]) -> list[str]:
    """Return who is at least as good as a point in solved, dollars and seconds, and better in one."""

    def figures(item: Worth) -> tuple[float, float, float]:
        return -(item.solved.value or 0.0), item.dollars, item.seconds

    mine = figures(point)
    return [
        item.name
        for item in others
        if figures(item) != mine and all(a <= b for a, b in zip(figures(item), mine, strict=True))
    ]


def table(title: str, rows: Sequence[Worth]) -> Table:
    """Return figures as a table."""
    made = Table(title=title)
    for column in ("policy", "solved", "dollars / strongest", "seconds", "reward", "reward / best"):
        made.add_column(column, justify="left" if column == "policy" else "right")
    for row in rows:
        made.add_row(*row.row())
    return made


def verdicts(known: dict[str, dict[str, Worth]], found: dict[str, dict[str, Worth]]) -> dict[str, Any]:
    """Return each bar with what was reached."""
    mine, strongest = found["learnt"][CLAIM], known[CLAIM]["always-strongest"]
    best = mine.reward / (mine.reward_share.value or 1.0)
    chance = known[CLAIM]["random"].reward
    gaps = {name: (part[CLAIM].reward - chance) / (best - chance) for name, part in found.items() if name != "base"}
    points = [found["learnt"][setting] for setting in SETTINGS]
    beaten = {
        setting: dominated(
            found["learnt"][setting], [item for item in known[setting].values() if item.name != "oracle"]
        )
        for setting in SETTINGS
    }
    own = {
        setting: dominated(point, [other for other in points if other is not point])
        for setting, point in zip(SETTINGS, points, strict=True)
    }
    return {
        "oracle's share of dollars (at most 25 %)": known[CLAIM]["oracle"].dollar_share.value,
        "solved, less always-strongest (at least 0)": (mine.solved.value or 0) - (strongest.solved.value or 0),
        "share of always-strongest's dollars (at most 30 %)": mine.dollar_share.value,
        "share of the best possible reward (at least 95 %)": mine.reward_share.value,
        "gap between random routing and the best that is recovered (replay alone: at least 50 %)": gaps,
        "settings that a baseline dominates (none)": {key: value for key, value in beaten.items() if value},
        "settings that another setting's point dominates (none)": [key for key, value in own.items() if value],
    }


def draw(curve: Sequence[dict[str, float]], strongest: float, file: Path) -> None:
    """Write the learning curve as a picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    minutes = [point["seconds"] / 60 for point in curve]
    axes.plot(minutes, [point["solved"] for point in curve], label="solved")
    axes.plot(minutes, [point["dollars"] / strongest for point in curve], label="dollars / always-strongest")
    axes.set(
        xlabel="minutes, capture and replay included", ylim=(0, 1.05), title="Online rounds (sampled, all settings)"
    )
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main() -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=("vllm", "embedded"), default="vllm")
    parser.add_argument("--minutes", type=float, default=20.0, help="for capture, replay and online together")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--capture", type=int, default=384, help="tasks whose random routing is captured, 8 runs each")
    parser.add_argument("--groups", type=int, default=16, help="groups of 8 runs in an online step")
    parser.add_argument("--held-out", type=int, default=400, help="tasks of each setting")
    parser.add_argument("--at-once", type=int, default=48)
    parser.add_argument("--epochs", type=float, default=4.0, help="of replay")
    parser.add_argument("--replay-rate", type=float, default=1e-3)
    parser.add_argument("--online-rate", type=float, default=1e-4)
    parser.add_argument("--gradient", action="store_true", help="also replay by the policy gradient")
    parser.add_argument("--base", type=Path, help="a policy that is there already")
    parser.add_argument("--work", type=Path, default=Path(".toolorch/routing"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(soft_wrap=True, highlight=False)
    known = rules(given.held_out)
    for seed in given.seeds:
        work = given.work / f"seed-{seed}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        base = given.base or make(work / "base", seed=seed, say=console.print)
        stages = learn(base, work, given, seed, console.print)
        arms = {"base": base, "replay": stages["replay"]}
        if given.gradient:
            arms["gradient"] = replay(base, stages["store"], work / "gradient", given, seed)
        arms["learnt"] = stages["learnt"]
        found = {
            name: measure(
                folder,
                name,
                given.engine,
                given.held_out,
                given.at_once,
                list(SETTINGS) if name == "learnt" else [CLAIM],
            )
            for name, folder in arms.items()
        }
        for setting in SETTINGS:
            rows = [*(part[setting] for part in found.values() if setting in part), *known[setting].values()]
            title = f"{setting}, {given.held_out} held-out requests, seed {seed}, {stages['seconds'] / 60:.1f} minutes"
            console.print(table(title, rows))
        bars = verdicts(known, found)
        for name, value in bars.items():
            console.print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value or '-'}")
        data = {
            "seed": seed,
            "engine": given.engine,
            "seconds": stages["seconds"],
            "bars": bars,
            "arms": {name: {key: item.to_dict() for key, item in part.items()} for name, part in found.items()},
            "baselines": {key: {name: item.to_dict() for name, item in part.items()} for key, part in known.items()},
            "curve": stages["curve"],
        }
        (work / "result.json").write_text(json.dumps(data, indent=1))
        if stages["curve"]:
            draw(stages["curve"], known[CLAIM]["always-strongest"].dollars, work / "curve.png")
        console.print(f"written to {work}")


if __name__ == "__main__":
    main()
