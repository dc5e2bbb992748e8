"""What each method of training learns, what a live source hears, and the command line."""

from __future__ import annotations

import json
from copy import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.routing_world import (
    Runs,
    material,
    probabilities,
    settings_of,
    share,
    stored,
)
from toolorch_rl.rows import Example
from toolorch_rl.training import StepSource, TrainingError, train
from toolorch_rl.training.plan import Plan, TrainedOn
from toolorch_rl.training.trainers import arguments_of, micro_batches, policy_parts, trainer_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("replay", {"learning_rate": 2e-3}),
        ("replay", {"lora_rank": None, "kl": 0.01, "entropy": 0.001}),
        ("sft", {"best": 1.0}),
        ("dpo", {"batch": 8, "micro_batch": 8, "learning_rate": 2e-3}),
        ("kto", {"batch": 16, "micro_batch": 8, "lora_rank": None, "learning_rate": 3e-4}),
    ],
)
def test_training_makes_the_rewarded_answer_likelier(
    router: Path, router_store: str, tmp_path: Path, method: str, more: dict[str, Any]
) -> None:
    out = tmp_path / "out"

    result = train(settings_of(router, out, router_store, method=method, **more))

    adapter = more.get("lora_rank", 16) is not None
    after = probabilities(router, out) if adapter else probabilities(out)
    assert share(probabilities(router)) < 0.3
    assert share(after) > 0.5
    card = json.loads((out / "toolorch.json").read_text())
    assert card["method"] == method
    assert card["counts"]["traces"] == 48
    assert card["policy_versions"] == ["policy-1"]
    assert (out / "chat_template.jinja").is_file()
    assert result.metrics["steps"] == 10


def test_replay_compares_single_runs_with_a_fitted_baseline(router: Path, router_runs: Runs, tmp_path: Path) -> None:
    traces = router_runs.traces(12)
    for number, trace in enumerate(traces):
        trace.metadata["task"] = f"task {number}"  # each was made once
    url = stored(tmp_path / "t.db", traces)

    result = train(settings_of(router, tmp_path / "out", url, learning_rate=2e-3))

    assert result.counts["single runs"] == len(traces)
    assert share(probabilities(router, tmp_path / "out")) > 0.4


@pytest.mark.parametrize(
    ("batch", "micro", "devices", "found"),
    [(1, 4, 1, (1, 1)), (32, 4, 1, (4, 8)), (32, 4, 16, (2, 1)), (6, 3, 2, (3, 1)), (8, 16, 2, (4, 1))],
)
def test_a_step_has_as_many_rows_as_batch_says(batch: int, micro: int, devices: int, found: tuple[int, int]) -> None:
    settings = settings_of(Path("p"), Path("o"), method="sft", batch=batch, micro_batch=micro)
    assert micro_batches(settings, devices) == found
    assert found[0] * found[1] * devices == batch


@pytest.mark.parametrize(
    ("method", "batch", "devices"), [("sft", 6, 1), ("dpo", 33, 2), ("sft", 8, 16), ("kto", 1, 1), ("kto", 16, 16)]
)
def test_a_batch_that_does_not_divide_is_refused(method: str, batch: int, devices: int) -> None:
    settings = settings_of(Path("p"), Path("o"), method=method, batch=batch, micro_batch=4)
    with pytest.raises(TrainingError, match=rf"batch: {batch} rows .* among {devices} process.* with micro_batch 4"):
        micro_batches(settings, devices)


@pytest.mark.parametrize("batch", [1, 6, 32, 64])
def test_passes_are_counted_as_transformers_makes_them(
    router: Path, router_store: str, tmp_path: Path, batch: int
) -> None:
    more = {"method": "sft", "best": 1.0, "steps": None, "epochs": 3.0, "batch": batch, "micro_batch": 2}
    settings = settings_of(router, tmp_path / "out", router_store, **more)
    base, tokenizer, _ = policy_parts(settings)
    made = material(settings)
    trainer = trainer_of(settings, made, arguments_of(settings), base, tokenizer)

    arguments = copy(trainer.args)
    arguments.max_steps, arguments.num_train_epochs = -1, 3.0
    steps = trainer.set_initial_training_values(arguments, trainer.get_train_dataloader())[-1]

    assert made.steps == trainer.args.max_steps == steps
    assert trainer.get_total_train_batch_size(trainer.args) == batch


def test_an_adapter_goes_on_being_trained(router: Path, tmp_path: Path, router_store: str) -> None:
    train(settings_of(router, tmp_path / "one", router_store, steps=4))
    before = share(probabilities(router, tmp_path / "one"))

    train(settings_of(tmp_path / "one", tmp_path / "two", router_store, steps=6, kl=0.01))

    assert share(probabilities(router, tmp_path / "two")) > before
    assert not (tmp_path / "two" / "ref").exists()


def test_a_live_source_hears_of_each_step_and_names_the_policy(router: Path, router_store: str, tmp_path: Path) -> None:
    replayed = material(settings_of(router, tmp_path / "a", router_store)).source

    class Live(StepSource):
        def __init__(self) -> None:
            self.asked: list[tuple[int, str]] = []
            self.trained: list[int] = []

        def next_batch(self, step: int, policy_version: str) -> list[Example]:
            self.asked.append((step, policy_version))
            return [] if step == 3 else replayed.next_batch(step, policy_version)

        def after_step(self, step: int, model: torch.nn.Module) -> str | None:
            self.trained.append(step)
            return f"{policy_name}-v{step + 1}" if step != 1 else None

        def metrics(self) -> dict[str, float]:
            return {"reward": 0.5}

    policy_name = router.name
    live = Live()
    result = train(settings_of(router, tmp_path / "out", method="online", steps=9), source=live)

    assert live.asked == [
        (0, policy_name),
        (1, f"{policy_name}-v1"),
        (2, f"{policy_name}-v1"),
        (3, f"{policy_name}-v3"),
    ]
    assert live.trained == [0, 1, 2]
    assert result.metrics["reward"] == 0.5


def test_what_a_live_source_trains_on_is_written_down_before_weights_that_know_it_are_served(
    router: Path, router_store: str, tmp_path: Path
) -> None:
    settings = settings_of(router, tmp_path / "out", method="online", steps=4, save_every=2)
    replayed = material(settings_of(router, tmp_path / "a", router_store)).source
    written: list[list[str] | None] = []

    class Live(StepSource):
        def __init__(self, first: int) -> None:
            self.given = range(first, first)

        def next_batch(self, step: int, policy_version: str) -> list[Example]:
            if step == 3:
                raise KeyboardInterrupt  # the process is ended
            self.given = range(self.given.start, step + 1)
            return self.examples(step)

        def examples(self, step: int) -> list[Example]:
            found: list[Example] = replayed.next_batch(step, "policy")
            return found

        def after_step(self, step: int, model: torch.nn.Module) -> str | None:
            written.append(Plan.read(settings.output).tasks)
            return None

        def tasks(self) -> set[str]:
            return {f"task {number // 2}" for number in self.given}

    with pytest.raises(KeyboardInterrupt):
        train(settings, source=Live(0))
    assert written == [["task 0"], ["task 0"], ["task 0", "task 1"]]

    class Resumed(Live):
        def next_batch(self, step: int, policy_version: str) -> list[Example]:
            self.given = range(8, 8 + step)
            return self.examples(step)

    train(settings, source=Resumed(8))
    names = ["task 0", "task 1", "task 4", "task 5"]
    for folder in (settings.output, settings.output / "checkpoints" / "checkpoint-2"):
        plans = TrainedOn.read(folder).plans
        assert [(plan.policy, plan.tasks) for plan in plans] == [(str(router), names)]


def test_the_command_trains_and_says_what_it_left_out(router: Path, router_runs: Runs, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from toolorch_integrations.cli import app

    traces = router_runs.traces(4)
    traces[0].rewards.clear()
    url = stored(tmp_path / "t.db", traces)
    out = tmp_path / "out"
    arguments = ["train", "--policy", str(router), "--output", str(out), "--store", url, "--steps", "2"]

    done = CliRunner().invoke(app, [*arguments, "--lora-rank", "4", "--set", "truncate=3", "--batch", "4"])

    assert done.exit_code == 0, done.output
    assert "left out: 1 no outcome" in done.output
    assert "trained 2 steps" in done.output
    card = json.loads((out / "toolorch.json").read_text())
    assert card["settings"]["lora_rank"] == 4
    assert card["settings"]["truncate"] == 3.0
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert "error: output:" in again.output
