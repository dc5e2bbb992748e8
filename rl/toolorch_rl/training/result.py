"""What a training run leaves: the policy's folder and its card."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from toolorch_integrations.store import TraceStore
from toolorch_rl.training.checkpoints import reason_not_written, write_synced
from toolorch_rl.training.errors import TrainingError
from toolorch_rl.training.material import Material
from toolorch_rl.training.settings import Method, TrainSettings

METRICS_FILE = "metrics.jsonl"
"""A JSON object a log step, in the output folder."""

CARD = "toolorch.json"
"""Written last: a folder that has it is whole."""

_POLICY_FILES = ("adapter_*", "model*.safetensors*", "config.json", "generation_config.json")
"""What makes a folder an adapter or a model, as patterns of names."""
_TOKENIZER_FILES = ("tokenizer*", "chat_template*", "special_tokens_map.*", "added_tokens.*", "vocab.*", "merges.*")

_PARTS = ("toolorch-integrations", "trl", "transformers", "peft", "torch")


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What came of a training run.

    Attributes:
        folder: Holds the adapter or the model, tokenizer, chat template and card.
        metrics: Figures of the last logged step, `train_loss` over all steps, `steps` and `seconds`.
        counts: What it trained on.
        refused: Runs that were left out, by reason.
    """

    folder: Path
    metrics: dict[str, float]
    counts: dict[str, int]
    refused: dict[str, int]


def policy_files(folder: Path) -> list[Path]:
    """Return the files that make a folder an adapter or a model."""
    return [path for pattern in _POLICY_FILES for path in folder.glob(pattern) if path.is_file()]


def remove_saved(folder: Path) -> None:
    """Remove what `save` once wrote to a folder: an adapter beside a model would be taken for the one that counts."""
    surplus = [path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern)]
    for path in (folder / CARD, *policy_files(folder), *surplus):
        path.unlink(missing_ok=True)


def save(trainer: Any, settings: TrainSettings, material: Material, metrics: dict[str, float]) -> None:
    """Write the trained policy and its card; every process calls this, the main one writes.

    Raises:
        TrainingError: The disk is full; checkpoints are as they were.
    """
    part = settings.output / ".saving"
    try:
        trainer.save_model(str(part))  # gathers shards: all processes
        if trainer.args.should_save:
            for surplus in ("README.md", "training_args.bin"):
                (part / surplus).unlink(missing_ok=True)
            shutil.rmtree(part / "ref", ignore_errors=True)  # the adapter that training began with
            for path in part.iterdir():
                path.replace(settings.output / path.name)
            part.rmdir()
            write_synced(settings.output / CARD, json.dumps(card(settings, material, metrics), indent=2) + "\n")
    except Exception as error:
        reason = reason_not_written(error, settings.output)
        if reason is None:
            raise
        shutil.rmtree(part, ignore_errors=True)
        raise TrainingError(
            f"the trained policy cannot be written to {settings.output}: {reason}; its last checkpoint is whole: make "
            "room and give the same command again"
        ) from error
    trainer.accelerator.wait_for_everyone()


def card(settings: TrainSettings, material: Material, metrics: dict[str, float]) -> dict[str, Any]:
    """Return what `toolorch.json` says of a trained policy."""
    values = settings.model_dump(mode="json", exclude_defaults=True)
    values.pop("store", None)  # its URL may hold a password
    return {
        "method": settings.method.value,
        "policy": settings.policy,
        "adapter": settings.lora_rank is not None,
        "store": None if settings.method is Method.ONLINE else str(TraceStore(settings.store)),
        "policy_versions": material.versions,
        "counts": material.counts,
        "refused": material.refused,
        "seed": settings.seed,
        "settings": values,
        "metrics": metrics,
        "trained": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "software": {name: version(name) for name in _PARTS},
    }
