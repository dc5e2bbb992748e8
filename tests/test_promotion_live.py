"""Promotion the whole way against a real server, with live traffic; and its record on PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests import live_world as live
from tests.tiny_policy import build_adapter
from toolorch_integrations.store import TraceStore
from toolorch_integrations.versions import Routes
from toolorch_rl.weights import ServerControl
from toolorch_serving.embedded import EmbeddedServer
from toolorch_serving.promotion.records import PromotionRecord, PromotionRecords, Step, SupersededError

ROOT = Path(__file__).parents[1]
SFT: dict[str, Any] = {
    "best": 0.34,
    "min_reward": 1.1,  # right and cheap; right and dear earns 1
    "epochs": 12,
    "batch": 8,
    "micro_batch": 8,
    "lora_rank": 8,
    "learning_rate": 5e-3,
}
GOOD, NOISE = f"{live.NAME}-good", f"{live.NAME}-noise"


@dataclass(frozen=True)
class World:
    """A served policy, what its app has captured, and two candidates."""

    server: EmbeddedServer
    policy: Path
    captured: Path
    good: Path
    noise: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Serve the policy, capture its runs, and train a candidate on half of them; estimates rest on the others."""
    folder = tmp_path_factory.mktemp("live")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    policy = live.build(folder / "policy")
    with EmbeddedServer(policy, name=live.NAME, dtype="float32", progress=False) as server:
        # The estimate asks whether the log has what the candidate does: one log of 144 runs in twenty lacks it by luck.
        for part, each in (("trained", 6), ("held-back", 18)):
            with TraceStore.open(folder / f"{part}.db") as store:
                traffic = live.Traffic(live.App(server.url, str(folder / f"{part}.db")), store)
                traffic.serve(live.words(24, part) * each, at_once=16)
                assert not traffic.failed
        yield World(server, policy, folder / "held-back.db", trained(policy, folder), noisy(policy, folder))
    torch.set_num_threads(threads)


def trained(policy: Path, folder: Path) -> Path:
    """Train an adapter on the best captured runs."""
    import toolorch_rl

    store = f"sqlite:///{folder / 'trained.db'}"
    return Path(toolorch_rl.train(policy=str(policy), output=folder / "good", store=store, method="sft", **SFT).folder)


def noisy(policy: Path, folder: Path) -> Path:
    """Write an adapter of noise."""
    return build_adapter(folder / "noise", policy)


class Site:
    """The app with its own store, its users, and the commands of those who run it."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.url = str(shutil.copy(world.captured, folder / "traces.db"))
        self.store = TraceStore.open(self.url)
        self.traffic = live.Traffic(live.App(world.server.url, self.url), self.store)
        self.records = PromotionRecords(self.store)
        self.variables = {live.URL: world.server.url, live.STORE: self.url}

    def arguments(self, command: str, *more: str) -> list[str]:
        """Return a command line."""
        return [
            *(command, "--server", self.world.server.url, "--name", live.NAME, "--base", str(self.world.policy)),
            *("--store", self.url, "--run", "tests.live_world:run", "--verifier", "tests.live_world:verify"),
            *("--tasks", "tests.live_world:held_out", "--canary", "0.5", "--least", "30", "--planned", "100"),
            *("--look-every", "1", "--patience", "10m", "--margin", "seconds=50%"),
            # So few runs cannot show that something none of them did is rare.
            *("--margin", "format_errors=0.5", "--margin", "destructive_calls=0.5", *more),
        ]

    def toolorch(self, *arguments: str, code: int = 0) -> str:
        """Run a command in this process."""
        from toolorch_integrations.cli import app

        result = CliRunner(env={**self.variables, "COLUMNS": "200"}).invoke(app, list(arguments))
        assert result.exit_code == code, (result.output, result.exception, self.story())
        return result.output

    def process(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Run a command in a process of its own."""
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, **self.variables, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        main = "from toolorch_integrations.cli import app; app()"
        return subprocess.Popen([sys.executable, "-c", main, *arguments], cwd=self.folder, env=environment)

    def story(self) -> list[tuple[str, str]]:
        """Return all steps with their reasons."""
        return [(record.step.value, record.reason) for record in self.records.history()]

    def answered_by(self, since: float) -> set[str]:
        """Return the versions that answered live runs."""
        return {name for trace in self.store.full_traces(since=since) for name in trace.policy_versions}

    def new_conversations(self) -> set[str]:
        """Let users come, and return the versions that answered them."""
        began = time.time()
        self.traffic.app = live.App(self.world.server.url, self.url)
        self.traffic.serve(live.words(8, f"new {began}"))
        return self.answered_by(began)


@pytest.fixture
def site(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.chdir(tmp_path)  # held-out results go below the working folder
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = Site(world, tmp_path)
    yield found
    found.store.close()
    with control_of(world) as control:
        for version in {GOOD, NOISE} & set(control.models()):
            control.unload_adapter(version)


@contextmanager
def control_of(world: World) -> Iterator[ServerControl]:
    control = ServerControl(world.server.url)
    try:
        yield control
    finally:
        control.close()


def waited(until: Callable[[], Any], going_on: Callable[[], bool] = lambda: True) -> None:
    """Wait for something, as long as whoever brings it about goes on."""
    while not until():
        assert going_on()
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_good_candidate_is_promoted_though_the_command_was_killed_in_mid_canary(world: World, site: Site) -> None:
    began = time.time()
    candidate = site.arguments("promote", "--candidate", str(world.good))
    with site.traffic.in_background("canary"):
        process = site.process(*candidate)
        waited(lambda: site.records.routes(live.NAME).candidate, lambda: process.poll() is None)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert site.records.routes(live.NAME) == Routes(live.NAME, GOOD, 0.5)  # nobody watches, and users go on
        site.toolorch(*site.arguments("promote", "--resume"))
    steps = [step for step, _ in site.story()]
    assert steps == ["begun", "estimated", "published", "evaluated", "canary", "promoted"]
    assert site.answered_by(began) == {live.NAME, GOOD}
    assert not site.traffic.failed
    assert site.new_conversations() == {GOOD}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_noise_is_stopped_before_any_user_meets_it(world: World, site: Site) -> None:
    site.toolorch(*site.arguments("promote", "--candidate", str(world.noise)), code=3)
    step, reason = site.story()[-1]
    assert step == "stayed"
    assert reason.startswith("estimate: reward")
    with control_of(world) as control:
        assert NOISE not in control.models()
    assert site.new_conversations() == {live.NAME}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_noise_that_got_through_to_users_is_rolled_back(world: World, site: Site) -> None:
    """The stages before the canary are shown the good candidate; the live runs are what they are."""
    from rich.console import Console

    from toolorch_integrations.cli.estimate import estimated
    from toolorch_integrations.cli.held_out import AppHeldOut
    from toolorch_integrations.cli.promote_job import PromoteJob, criteria_of
    from toolorch_serving.promotion import CanaryPlan, ServedAdapters

    os.environ.update(site.variables)
    tasks = AppHeldOut(live.run, live.verify, live.held_out(), world.server.url)
    margins = ["format_errors=0.5", "destructive_calls=0.5", "seconds=50%"]
    job = PromoteJob(
        world.server.url, [world.server.url], live.NAME, str(world.policy), site.url, tasks, site.folder,
        CanaryPlan(0.5, 30, 100, 600, 600.0), criteria_of("reward", margins),
    )  # fmt: skip
    with ServedAdapters(world.server.url, live.NAME, world.policy) as adapters, site.traffic.in_background("noise"):
        adapters.publish(GOOD, world.good)
        promotion = job.promotion(
            site.store, adapters, NOISE, live.NAME, world.noise, Console(quiet=True), lambda record: None
        )
        evaluate = promotion.sources.evaluate
        promotion.sources = replace(
            promotion.sources,
            estimate=lambda: estimated(
                str(world.good), str(world.policy), store=f"sqlite:///{site.url}", model=live.NAME
            ),
            evaluate=lambda version: evaluate(GOOD if version == NOISE else version),
        )
        promotion.look_every = 1.0
        last = promotion.begin(NOISE, world.noise, live.NAME)
        assert (last.step, last.reason[:8]) == (Step.ROLLED_BACK, "canary: "), site.story()
        assert not adapters.serves(NOISE)
    assert NOISE in site.answered_by(last.time - 600)
    assert site.new_conversations() == {live.NAME}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_that_is_started_again_gets_its_versions_back(world: World, site: Site) -> None:
    def restart() -> None:
        world.server.stop()
        world.server.start()

    def ended() -> bool:
        return any(record.step.ends for record in site.records.history())

    def in_canary() -> None:
        waited(lambda: site.records.routes(live.NAME).candidate, lambda: not ended())
        restart()

    with site.traffic.in_background("restart"):
        saboteur = threading.Thread(target=in_canary)
        saboteur.start()
        output = site.toolorch(*site.arguments("promote", "--candidate", str(world.good)))
        saboteur.join()
    assert "canary" in output
    assert site.story()[-1][0] == "promoted"
    assert site.new_conversations() == {GOOD}
    restart()
    assert site.new_conversations() == set()  # nobody has told the server
    assert GOOD in site.toolorch(*site.arguments("promote", "--restore"))
    assert site.new_conversations() == {GOOD}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_round_of_the_loop(world: World, site: Site) -> None:
    settings = [word for name, value in SFT.items() for word in ("--set", f"{name}={value}")]
    settings += ["--held-back", "0.5"]  # of few tasks
    with site.traffic.in_background("loop"):
        site.toolorch(
            *site.arguments("loop", "--once", "--method", "sft", *settings, "--new-traces", "100", "--interval", "60s")
        )
    (ended,) = map(json.loads, (site.folder / "rounds" / "rounds.jsonl").read_text().splitlines())
    assert ended["outcome"] == "promoted", site.story()
    assert site.new_conversations() == {ended["version"]}


def test_the_record_on_postgresql_gives_the_routes(postgres_url: str) -> None:
    records = PromotionRecords(TraceStore.open(postgres_url))
    first = records.append(PromotionRecord("p", Step.BEGUN, "v2", "v1", evidence={"text": "nul \0 and é"}))
    canary = records.append(replace(first, step=Step.CANARY, share=0.2), first)
    other = PromotionRecords(TraceStore.open(postgres_url))
    assert other.routes("v1") == Routes("v1", "v2", 0.2)
    other.append(replace(canary, step=Step.PROMOTED, share=0.0), canary)
    assert records.routes("v1") == Routes("v2")
    with pytest.raises(SupersededError, match="another process"):
        records.append(replace(canary, step=Step.ROLLED_BACK, share=0.0), canary)


def test_of_many_at_once_on_postgresql_one_takes_the_step(postgres_url: str) -> None:
    each = [PromotionRecords(TraceStore.open(postgres_url)) for _ in range(6)]
    first = each[0].append(PromotionRecord("p", Step.BEGUN, "v2", "v1"))

    def take(records: PromotionRecords) -> bool:
        try:
            records.append(replace(first, step=Step.ESTIMATED), first)
        except SupersededError:
            return False
        return True

    with ThreadPoolExecutor(len(each)) as pool:
        assert sum(pool.map(take, each)) == 1
    assert [step.step for step in each[-1].steps("p")] == [Step.BEGUN, Step.ESTIMATED]
