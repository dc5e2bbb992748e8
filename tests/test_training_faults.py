"""Training that is stopped, killed or fails, goes on from its last whole checkpoint; and runs in two processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.routing_world import (
    material,
    settings_of,
)
from toolorch_integrations.store import TraceStore
from toolorch_rl.rows import Example
from toolorch_rl.training import StepSource, TrainingError, TrainSettings, train
from toolorch_rl.training.checkpoints import MARK, checkpoints
from toolorch_rl.training.plan import Plan

pytestmark = pytest.mark.usefixtures("one_thread")


def test_no_number_stops_before_the_step_and_names_it(router: Path, router_store: str, tmp_path: Path) -> None:
    good = material(settings_of(router, tmp_path / "a", router_store)).source

    class Poisoned(StepSource):
        def next_batch(self, step: int, policy_version: str) -> list[Example]:
            examples = good.next_batch(step, policy_version)
            if step == 3:
                examples[0].advantages[:] = np.nan
            return examples

    out = tmp_path / "out"
    with pytest.raises(TrainingError, match=r"the loss of step 4 is nan; the last whole checkpoint is .*checkpoint-2"):
        train(settings_of(router, out, method="online", save_every=2, steps=5), source=Poisoned())
    weights = load_file(checkpoints(out / "checkpoints")[-1] / "adapter_model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_full_disk_leaves_the_last_checkpoint(
    router: Path, router_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    original = Trainer._save_rng_state
    out = tmp_path / "out"

    def full(self: Any, folder: str) -> None:
        if folder.endswith("checkpoint-4"):
            raise OSError(28, "No space left on device")
        original(self, folder)

    monkeypatch.setattr(Trainer, "_save_rng_state", full)
    with pytest.raises(TrainingError, match=r"checkpoint-4 cannot be saved: the disk .* full; the last .*checkpoint-2"):
        train(settings_of(router, out, router_store, save_every=2, steps=5))
    assert [path.name for path in (out / "checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]

    monkeypatch.undo()
    assert train(settings_of(router, out, router_store, save_every=2, steps=5)).metrics["steps"] == 5


@pytest.mark.parametrize("method", ["replay", "sft", "dpo"])
def test_a_run_goes_on_as_if_it_had_not_been_stopped(
    router: Path, router_store: str, tmp_path: Path, method: str
) -> None:
    more = {"method": method, "save_every": 2, "batch": 8, "steps": 6, "best": 1.0, "lora_dropout": 0.1, "keep": 3}
    whole, stopped = (settings_of(router, tmp_path / name, router_store, **more) for name in ("whole", "stopped"))
    train(whole)
    shutil.copytree(whole.output, stopped.output)
    for name in ("toolorch.json", "adapter_model.safetensors"):
        (stopped.output / name).unlink()
    for name in ("checkpoint-6", "checkpoint-4"):
        shutil.rmtree(stopped.output / "checkpoints" / name)

    assert train(stopped).metrics["steps"] == 6

    _assert_same_weights(whole.output, stopped.output)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_killed_run_goes_on_as_if_nothing_had_been(router: Path, router_store: str, tmp_path: Path) -> None:
    more = {"save_every": 3, "batch": 8, "steps": 12, "lora_dropout": 0.1}
    whole = settings_of(router, tmp_path / "whole", router_store, **more)
    killed = settings_of(router, tmp_path / "killed", router_store, **more)
    train(whole)
    _train_until_killed(killed, tmp_path)
    below = tmp_path / "killed" / "checkpoints"
    left = checkpoints(below)
    assert left
    assert not (tmp_path / "killed" / "toolorch.json").exists()
    half = below / "checkpoint-11"  # newer than all that are whole
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    with TraceStore.open(router_store) as opened:
        assert opened.stats().traces == 48

    train(killed)

    assert not half.exists()
    _assert_same_weights(whole.output, killed.output)


def test_a_folder_with_another_run_in_it_is_left_alone(router: Path, router_store: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(settings_of(router, out, router_store, steps=2))
    with pytest.raises(TrainingError, match="holds a trained policy"):
        train(settings_of(router, out, router_store, steps=2))
    (out / "toolorch.json").unlink()
    with pytest.raises(TrainingError, match="other settings"):
        train(settings_of(router, out, router_store, steps=3))

    assert train(settings_of(router, out, router_store, steps=3, restart=True)).metrics["steps"] == 3
    assert (checkpoints(out / "checkpoints")[-1] / MARK).is_file()


@pytest.mark.parametrize("ranks", [(4, None), (None, 4)], ids=["adapter-then-model", "model-then-adapter"])
def test_a_restart_leaves_nothing_of_the_policy_before(
    router: Path, router_store: str, tmp_path: Path, ranks: tuple[int | None, int | None]
) -> None:
    out = tmp_path / "out"
    before, after = (settings_of(router, out, router_store, steps=1, lora_rank=rank) for rank in ranks)
    train(before)
    (out / "added_tokens.json").write_text("{}")  # of a tokenizer of before

    train(after.model_copy(update={"restart": True}))

    files = {path.name for path in out.iterdir()}
    assert ("adapter_config.json" in files) == ("adapter_model.safetensors" in files) == (ranks[1] is not None)
    assert ("model.safetensors" in files) == ("config.json" in files) == (ranks[1] is None)
    assert "added_tokens.json" not in files


def test_an_output_folder_is_not_the_policy_nor_one_that_was_not_trained(
    router: Path, router_store: str, tmp_path: Path
) -> None:
    own = shutil.copytree(router, tmp_path / "own")
    checkpoint = shutil.copytree(router, own / "checkpoints" / "checkpoint-1")
    version = shutil.copytree(router, tmp_path / "v1")  # that an online training has served
    Plan.after(own).write(version)
    for policy, output, match in (
        (own, own, "is the policy that is trained"),
        (checkpoint, own, "is the policy that is trained"),
        (router, own, "not trained into it"),
        (router, version, "not trained into it"),
    ):
        with pytest.raises(TrainingError, match=match):
            train(settings_of(policy, output, router_store, steps=1, restart=True))
    for folder in (own, checkpoint, version):
        assert load_file(folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_train_as_one_does(router: Path, router_store: str, tmp_path: Path, kind: str) -> None:
    values = {"steps": 3, "batch": 24, "learning_rate": 1e-3, "kl": 0.05, "lora_rank": None}
    alone = settings_of(router, tmp_path / "one", router_store, **values)
    train(alone)
    together = alone.model_copy(update={"output": tmp_path / "two"})
    file = tmp_path / "settings.json"
    file.write_text(together.model_dump_json())

    done = subprocess.run(
        [*_launch(kind, tmp_path), str(file)], env=_environment(), capture_output=True, text=True, timeout=200
    )

    assert done.returncode == 0, done.stderr[-3000:]
    last = tmp_path / "two" / "checkpoints" / "checkpoint-3"
    assert len(list(last.glob("rng_state_*.pth"))) == 2
    assert (last / "pytorch_model_fsdp.bin").exists() == (kind == "fsdp2")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    start = load_file(router / "model.safetensors")
    moved = max(float((one[name] - start[name]).abs().max()) for name in one)
    apart = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert moved > 1e-3
    assert apart < 0.02 * moved


def test_a_live_source_hears_first_of_the_step_that_a_resumed_run_goes_on_from(
    router: Path, router_store: str, tmp_path: Path
) -> None:
    replayed = material(settings_of(router, tmp_path / "a", router_store)).source
    heard: list[tuple[str, int]] = []

    class Live(StepSource):
        def next_batch(self, step: int, policy_version: str) -> list[Example]:
            heard.append(("batch", step))
            if len(heard) == 5:
                raise TrainingError("stopped")
            return replayed.next_batch(step, policy_version)

        def after_step(self, step: int, model: torch.nn.Module) -> str | None:
            heard.append(("after", step))
            return None

    settings = settings_of(router, tmp_path / "out", method="online", steps=3, save_every=2)
    with pytest.raises(TrainingError, match="stopped"):
        train(settings, source=Live())
    heard += [("resumed", 0)]
    train(settings, source=Live())
    assert heard[heard.index(("resumed", 0)) + 1 :] == [("after", 1), ("batch", 2), ("after", 2)]


def _assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-6)


def _train_until_killed(settings: TrainSettings, folder: Path) -> None:
    """Train in another process, and kill it once it has a checkpoint and has gone on from that."""
    file = folder / "settings.json"
    file.write_text(settings.model_dump_json())
    slow = (
        "import time, toolorch_rl.training.progress as p\n"
        "said = p.Progress.on_log\n"
        "def on_log(self, args, state, control, logs=None, **more):\n"
        "    said(self, args, state, control, logs, **more)\n"
        "    time.sleep(0.3 if state.global_step > 6 else 0)\n"
        "p.Progress.on_log = on_log\n"
        "from toolorch_rl.training.__main__ import main\n"
        f"main([{str(file)!r}])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", slow], stderr=subprocess.DEVNULL, env=_environment())
    metrics = settings.output / "metrics.jsonl"
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and metrics.read_text().count("\n") >= 8:
            break
        time.sleep(0.05)
    assert process.poll() is None, "the run ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def _launch(kind: str, folder: Path) -> list[str]:
    """Return the command that starts two processes, with the configuration that users get but for GPUs."""
    root = Path(__file__).parents[1] / "rl" / "accelerate"
    if kind == "ddp":
        config, program = root / "cpu_two_processes.yaml", ["-m", "toolorch_rl.training"]
    else:
        text = (root / "fsdp2.yaml").read_text().replace("num_processes: 8", "num_processes: 2\nmain_process_port: 0")
        config = folder / "fsdp2.yaml"
        config.write_text(text.replace("mixed_precision: bf16", 'mixed_precision: "no"'))
        program = [str(Path(__file__).with_name("shard_on_cpu.py"))]
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), *program]
