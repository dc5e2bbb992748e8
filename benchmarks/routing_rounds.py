"""Learning to route by experience: capture, `replay`, online rounds and the measure, for a world of requests.

Used by `routing_fixed.py` and `routing_redrawn.py`, which say what their world is:

1. runs of the randomly routing policy are captured,
2. `replay` learns from them by advantage-weighted regression, without further runs,
3. `online` goes on with rollouts of the app while it trains.

All of it goes the real way: a policy server, the app as a LangGraph orchestrator, capture, rows, TRL, published
weights. Then held-out requests, never drawn in training, are routed greedily in five preference settings, beside
always-strongest, always-cheapest, random, cascade and oracle. Result and learning curve are written to files, and
once more over all seeds that are there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.routing_report import CLAIM, console, summed_up, table, verdicts
from examples.routing.app import App, routing_app, verify
from examples.routing.measure import POLICY_SECONDS, Worth, baselines, policy_arm, worth
from examples.routing.requests import SETTINGS, RoutingTask
from toolorch_integrations.langgraph import ChatPolicy
from toolorch_integrations.store import TraceStore
from toolorch_rl.online import OnlineSettings, train_online
from toolorch_rl.rewards import Rewards, attach
from toolorch_rl.rollouts import Group, PolicyServer, RolloutSettings, report, rewards_of, rollouts
from toolorch_rl.training import train
from toolorch_serving.policy import policy_server


@dataclass(frozen=True, slots=True)
class World:
    """What is learnt.

    Attributes:
        base: Makes the policy to begin with, in a folder, from a seed.
        training: Draws tasks: how many, from which seed, in which settings.
        held_out: Draws tasks that training never shows: how many, in which setting.
        reply_tokens: Most tokens that the policy writes at a step.
    """

    base: Callable[[Path, int], Path]
    training: Callable[[int, str, Sequence[str]], list[RoutingTask]]
    held_out: Callable[[int, str], list[RoutingTask]]
    reply_tokens: int

    def app(self, server: Any) -> App:
        """Return the app, asking the policy at a server."""
        options = {"max_tokens": self.reply_tokens, "max_retries": 3, "timeout": 120}
        return routing_app(ChatPolicy(model=server.name, base_url=server.url, **options))


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


def served(folder: Path, engine: str) -> Any:
    """Return a server that takes new weights as a whole."""
    if engine == "vllm":
        return policy_server(folder, engine=engine, dtype="float32", max_model_len=1024, training=True, progress=False)
    return policy_server(folder, engine=engine, dtype="float32", max_batch=64, progress=False)


def learn(world: World, base: Path, work: Path, given: argparse.Namespace, seed: int, say: Any) -> dict[str, Any]:
    """Let the policy learn for the given minutes, and return where it and its stages are."""
    began = time.monotonic()
    deadline = began + 60 * given.minutes
    curve = Curve(began)
    store_file = work / "random.db"
    with served(base, given.engine) as server:
        settings = RolloutSettings(repetitions=8, at_once=given.at_once, seconds=120, seed=seed)
        store = TraceStore.open(store_file)
        shown = world.training(given.capture, f"capture {seed}", list(SETTINGS))
        groups = rollouts(world.app(server), shown, verify, settings, server=PolicyServer(server), store=store)
        attach(store, rewards_of(groups, policy_seconds=POLICY_SECONDS), "exact")
        store.close()
    say(f"{time.monotonic() - began:.0f} s: captured {report(groups)} of random routing")
    replayed = replay(base, store_file, work / "replay", given, seed, given.replay_rate, regression=0.3, truncate=20.0)
    say(f"{time.monotonic() - began:.0f} s: replay has ended")
    left = deadline - time.monotonic() - 10
    learnt = replayed
    if left > 30:
        learnt = work / "online"
        with served(replayed, given.engine) as server:
            train_online(
                world.app(server),
                world.training(given.online_tasks, f"online {seed}", list(SETTINGS)),
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
    base: Path, store_file: Path, folder: Path, given: argparse.Namespace, seed: int, rate: float, **objective: float
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
        learning_rate=rate,
        schedule="linear",
        save_every=10_000,
        log_every=20,
        seed=seed,
        group_by="task",
        **objective,
    )
    return folder


def measure(
    world: World, folder: Path, name: str, given: argparse.Namespace, settings: Sequence[str]
) -> dict[str, Worth]:
    """Return what a policy is worth on held-out tasks, by setting."""
    found = {}
    with served(folder, given.engine) as server:
        app = world.app(server)
        for setting in settings:
            held = world.held_out(given.held_out, setting)
            arm = policy_arm(name, app, held, PolicyServer(server), given.at_once)
            found[setting] = worth(arm, baselines(held)[0], held)
    return found


def rules(world: World, count: int) -> dict[str, dict[str, Worth]]:
    """Return what the baselines are worth on the same tasks, by setting and name."""
    found = {}
    for setting in SETTINGS:
        held = world.held_out(count, setting)
        arms = baselines(held)
        found[setting] = {arm.name: worth(arm, arms[0], held) for arm in arms}
    return found


def arguments(doc: str | None, work: str, minutes: float, capture: int) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--engine", choices=("vllm", "embedded"), default="vllm")
    parser.add_argument("--minutes", type=float, default=minutes, help="for capture, replay and online together")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="none: only sum up what is there")
    parser.add_argument("--capture", type=int, default=capture, help="tasks captured first, 8 runs each")
    parser.add_argument("--groups", type=int, default=16, help="groups of 8 runs in an online step")
    parser.add_argument("--online-tasks", type=int, default=40_000, help="tasks that online rounds draw from")
    parser.add_argument("--held-out", type=int, default=400, help="tasks of each setting")
    parser.add_argument("--at-once", type=int, default=48)
    parser.add_argument("--epochs", type=float, default=8.0, help="of replay")
    parser.add_argument("--replay-rate", type=float, default=1e-3)
    parser.add_argument("--online-rate", type=float, default=1e-4)
    parser.add_argument("--gradient", action="store_true", help="also replay by the policy gradient")
    parser.add_argument("--gradient-rate", type=float, default=5e-4)
    parser.add_argument("--base", type=Path, help="a policy that is there already")
    parser.add_argument("--work", type=Path, default=Path(work))
    return parser.parse_args()


def run(world: World, given: argparse.Namespace) -> None:
    """Learn and measure with each seed; print and save."""
    torch.set_num_threads(1)
    terminal = console()
    known = rules(world, given.held_out)
    for seed in given.seeds:
        work = given.work / f"seed-{seed}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        base = given.base or world.base(work / "base", seed)
        stages = learn(world, base, work, given, seed, terminal.print)
        arms = {"base": base, "replay": stages["replay"]}
        if given.gradient:
            arms["gradient"] = replay(base, stages["store"], work / "gradient", given, seed, given.gradient_rate)
        arms["learnt"] = stages["learnt"]
        found = {
            name: measure(world, folder, name, given, list(SETTINGS) if name == "learnt" else [CLAIM])
            for name, folder in arms.items()
        }
        for setting in SETTINGS:
            rows = [*(part[setting] for part in found.values() if setting in part), *known[setting].values()]
            title = f"{setting}, {given.held_out} held-out requests, seed {seed}, {stages['seconds'] / 60:.1f} minutes"
            terminal.print(table(title, rows))
        bars = verdicts(known, found)
        for name, value in bars.items():
            terminal.print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value or '-'}")
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
    terminal.print(*summed_up(given.work, known[CLAIM]["always-strongest"].dollars), sep="\n")
