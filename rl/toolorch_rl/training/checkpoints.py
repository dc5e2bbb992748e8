"""Checkpoints that are whole or do not count, and training that stops where it cannot go on."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolorch_rl.training.errors import TrainingError

if TYPE_CHECKING:
    import torch
    from transformers import Trainer as _Base
else:
    _Base = object

MARK = "complete.json"
"""Written last; a checkpoint without it was being written when its process died."""


def checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints below a folder, oldest first."""
    return sorted((path for path in _all(folder) if (path / MARK).is_file()), key=_step)


def remove_halves(folder: Path) -> list[Path]:
    """Remove checkpoints that were not finished; return them."""
    halves = [path for path in _all(folder) if not (path / MARK).is_file()]
    for path in halves:
        shutil.rmtree(path, ignore_errors=True)
    return halves


def write_synced(path: Path, text: str) -> None:
    """Write a file so that it is there whole after a power cut, or as it was before."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


class Guarded(_Base):
    """What all trainers here share, mixed in before TRL's: whole checkpoints, and no step on a loss that is no number.

    Attributes:
        keep: Checkpoints that are kept. TRL's own rotation has to be off: it deletes before the new one is whole.
    """

    keep: int = 2

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Make a step's gradients, and look at the loss."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.check_finite("loss", loss)
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        norm: Any = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        self.check_finite("gradient's norm", norm)
        return norm

    def check_finite(self, name: str, value: Any) -> None:
        """Stop before the optimiser takes a step on what is no number."""
        number = float(value)
        if not math.isfinite(number):
            raise TrainingError(
                f"the {name} of step {self.state.global_step + 1} is {number}; {self._last()}. A lower learning_rate, "
                "dtype float32 or a smaller `truncate` may help"
            )

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: the card of a trained policy is `toolorch.json`."""

    def extra_state(self) -> dict[str, Any]:
        """Return what a checkpoint holds besides the trainer's own, as JSON."""
        return {}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        root = Path(self._get_output_dir(trial=trial))
        folder = root / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes its own share
            if self.args.should_save:
                state = {"step": self.state.global_step, **self.extra_state()}
                _sync(folder)
                write_synced(folder / MARK, json.dumps(state))
                for old in checkpoints(root)[: -self.keep]:
                    shutil.rmtree(old, ignore_errors=True)
        except Exception as error:
            reason = reason_not_written(error, root)
            if reason is None:
                raise
            shutil.rmtree(folder, ignore_errors=True)
            raise TrainingError(f"{folder.name} cannot be saved: {reason}; {self._last()}") from error
        self.accelerator.wait_for_everyone()

    def _last(self) -> str:
        whole = checkpoints(Path(str(self.args.output_dir)))
        return f"the last whole checkpoint is {whole[-1]}" if whole else "there is no checkpoint yet"


def checkpoint_state(checkpoint: Path) -> dict[str, Any]:
    """Return what `extra_state` gave when a checkpoint was written."""
    state: dict[str, Any] = json.loads((checkpoint / MARK).read_text(encoding="utf-8"))
    return state


def _all(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if path.is_dir() and path.name[11:].isdigit()]


def _step(path: Path) -> int:
    return int(path.name[11:])


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def reason_not_written(error: BaseException, folder: Path) -> str | None:
    """Return why a write failed, in words; None: it was something else.

    safetensors and torch raise errors of their own, with the system's reason only in their text.
    """
    if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return str(error)
    text = f"{error}".lower()
    full = isinstance(error, OSError) or "no space left" in text or "quota exceeded" in text or "os error 28" in text
    if not full and ("pytorchstreamwriter" in text or "unexpected pos" in text or "file write failed" in text):
        full = shutil.disk_usage(folder).free < 64 * 2**20
        return "the disk is full" if full else f"writing failed ({error})"
    return f"the disk of {folder} is full" if full else None
