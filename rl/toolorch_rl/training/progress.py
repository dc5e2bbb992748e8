"""What a training run says as it goes: lines on the terminal, and a file that programs read."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from transformers import TrainerCallback

from toolorch_rl.training.plan import add_tasks

if TYPE_CHECKING:
    from toolorch_rl.training.policy_trainer import PolicyTrainer
    from toolorch_rl.training.source import ExampleSource

_SHOWN = ("loss", "reward", "ratio", "clipped", "entropy", "kl", "staleness", "mean_token_accuracy", "rewards/margins")


class Progress(TrainerCallback):
    """Prints a line a log step, and appends all its figures to a file, a JSON object a line."""

    def __init__(self, file: Path) -> None:
        """Take the file."""
        self.file = file
        self.console = Console(stderr=True, highlight=False)
        self._begun = 0.0
        self._first = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note when training began, and at which step."""
        self._begun, self._first = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show figures."""
        if not state.is_world_process_zero or not logs:
            return
        figures = {name: value for name, value in logs.items() if isinstance(value, (int, float))}
        with self.file.open("a", encoding="utf-8") as file:
            # JSON has no NaN.
            known = {name: value for name, value in figures.items() if math.isfinite(value)}
            file.write(json.dumps({"step": state.global_step, **known}) + "\n")
        if "loss" not in figures:
            return
        parts = [f"{name} {figures[name]:.4g}" for name in _SHOWN if name in figures]
        done = state.global_step - self._first
        left = (time.monotonic() - self._begun) / max(done, 1) * (state.max_steps - state.global_step)
        # A source whose time is limited ends before all steps are done.
        left = min(left, figures.get("seconds_left", math.inf))
        self.console.print(
            f"step {state.global_step}/{state.max_steps}  {'  '.join(parts)}  {_duration(left)} left", soft_wrap=True
        )


class StepDone(TrainerCallback):
    """Tells a policy trainer's source that a step is done."""

    def __init__(self, trainer: PolicyTrainer) -> None:
        """Take the trainer."""
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell it of the step that a resumed run goes on from: a live source serves older weights, if any."""
        if state.global_step:
            self.trainer.after_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell it, before the checkpoint of the step is written."""
        self.trainer.after_step()


class TasksNoted(TrainerCallback):
    """Adds the tasks of a source's runs to the training's plan, before weights that know them are saved or served."""

    def __init__(self, source: ExampleSource, folder: Path) -> None:
        """Take the source, and the folder of the plan."""
        self.source = source
        self.folder = folder
        self._noted = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add those that are new."""
        if not state.is_world_process_zero:
            return
        tasks = self.source.tasks()
        if len(tasks) > self._noted:
            add_tasks(self.folder, tasks)
            self._noted = len(tasks)


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
