"""A training run from beginning to end, or from where it was killed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolorch_integrations.plain import content_hash
from toolorch_rl.training.checkpoints import checkpoint_state, checkpoints, remove_halves
from toolorch_rl.training.corpus import read_traces
from toolorch_rl.training.errors import TrainingError
from toolorch_rl.training.material import Material, material_of
from toolorch_rl.training.plan import CHECKPOINTS, PLAN, Plan, is_output, policy_name
from toolorch_rl.training.result import CARD, METRICS_FILE, TrainResult, policy_files, remove_saved, save
from toolorch_rl.training.settings import Method, TrainSettings
from toolorch_rl.training.source import ExampleSource

_MAY_CHANGE = {"output", "save_every", "keep", "log_every", "report_to", "run_name", "restart", "token_budget"}
"""Settings that a run may go on with changed: the result is the same but for rounding."""


def train(settings: TrainSettings | None = None, *, source: ExampleSource | None = None, **values: Any) -> TrainResult:
    """Train a policy on captured runs, or on the examples of a source.

    Call it again with the same settings after a crash, and it goes on from the last whole checkpoint. Under
    `accelerate launch` every process calls it, and all return the same.

    Args:
        settings: What to do; or give the fields of `TrainSettings` as keywords.
        source: Where the examples of `online` come from.
        **values: Fields of `TrainSettings`, in place of `settings`.

    Returns:
        Where the trained policy is, and figures.

    Raises:
        TrainingError: The settings, the traces or the policy do not allow it, the loss is no number, or the disk is
            full. What was trained until then is in the last checkpoint.
        StoreError: The store cannot be opened.

    Example:
        >>> result = train(policy="models/orchestrator", output="adapters/v2", store="traces.db", method="replay")
        >>> result.metrics["reward"]
    """
    if settings is not None and values:
        raise TrainingError("give `settings` or keywords, not both")
    chosen = TrainSettings.of(values) if settings is None else settings
    if (chosen.method is Method.ONLINE) != (source is not None):
        raise TrainingError("method online, and only that, trains on a `source` of rollouts")
    return _run(chosen, source)


def _run(settings: TrainSettings, source: ExampleSource | None) -> TrainResult:
    # Here, so that settings can be read without torch.
    from toolorch_rl.training.trainers import arguments_of, policy_parts, trainer_of

    base, tokenizer, config = policy_parts(settings)
    _check_not_own_policy(settings, base)
    arguments = arguments_of(settings)
    resumed = _prepare(settings, arguments)
    if source is None:
        material = _material(settings, arguments, tokenizer, config)
    else:
        assert settings.steps is not None
        material = Material(settings.steps, source=source)
    trainer = trainer_of(settings, material, arguments, base, tokenizer)
    if resumed is not None and material.source is not None:
        trainer.restore(checkpoint_state(resumed))
    begun = time.monotonic()
    output = trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    metrics = _last_figures(trainer.state.log_history)
    metrics |= {"train_loss": output.training_loss, "steps": float(trainer.state.global_step)}
    metrics["seconds"] = time.monotonic() - begun
    save(trainer, settings, material, metrics)
    return TrainResult(settings.output, metrics, material.counts, material.refused)


def _prepare(settings: TrainSettings, arguments: Any) -> Path | None:
    """Make the output folder ready; return the checkpoint to go on from, or None."""
    folder = settings.output
    below = folder / CHECKPOINTS
    mark = content_hash([settings.model_dump(mode="json", exclude=_MAY_CHANGE)])
    if arguments.should_save:
        _check_not_foreign(folder)
        if settings.restart:
            (folder / CARD).unlink(missing_ok=True)
            shutil.rmtree(below, ignore_errors=True)
        _check_output(folder, mark)
        below.mkdir(parents=True, exist_ok=True)
        remove_halves(below)
        if not checkpoints(below):
            # Nothing was trained: runs that were captured since are welcome.
            (folder / METRICS_FILE).unlink(missing_ok=True)
            remove_saved(folder)
            Plan(mark, policy_name(settings.policy), group_by=settings.group_by).write(folder)
    _wait(arguments)
    whole = checkpoints(below)
    return whole[-1] if whole else None


def _check_not_own_policy(settings: TrainSettings, base: str) -> None:
    """Refuse to write over what is trained: it is read after the output folder was made ready."""
    output = settings.output.resolve()
    for path in (Path(settings.policy), Path(base)):
        if path.is_dir() and (path.resolve() == output or (output / CHECKPOINTS) in path.resolve().parents):
            raise TrainingError(
                f"output: {path} is the policy that is trained, and would be written over; give another folder"
            )


def _check_not_foreign(folder: Path) -> None:
    """Refuse a folder with a policy that no training run has begun to write."""
    if policy_files(folder) and not (folder / CARD).exists() and not is_output(folder):
        raise TrainingError(f"output: {folder} holds a policy that was not trained into it; give another folder")


def _check_output(folder: Path, mark: str) -> None:
    if (folder / CARD).exists():
        raise TrainingError(f"output: {folder} holds a trained policy; give another folder, or restart to replace it")
    if not checkpoints(folder / CHECKPOINTS):
        return
    try:
        known = Plan.read(folder).settings
    except (OSError, ValueError) as error:
        raise TrainingError(f"output: {folder / PLAN} cannot be read; give another folder, or restart") from error
    if known != mark:
        raise TrainingError(
            f"output: {folder} holds a run with other settings that did not end; give those to go on with it, another "
            "folder, or restart to begin anew"
        )


def _material(settings: TrainSettings, arguments: Any, tokenizer: Any, config: Any) -> Material:
    """Read the runs: those of the plan where there is one, so that every process and every resumed run has the same."""
    made: Material | None = None
    if arguments.should_save:
        plan = Plan.read(settings.output)
        traces = read_traces(settings, plan.traces)
        made = material_of(traces, settings, tokenizer, config)
        plan.of(traces, settings).write(settings.output)
    _wait(arguments)
    if made is None:
        ids = Plan.read(settings.output).traces
        made = material_of(read_traces(settings, ids), settings, tokenizer, config)
    return made


def _wait(arguments: Any) -> None:
    if arguments.world_size > 1:
        arguments.distributed_state.wait_for_everyone()


def _last_figures(history: Sequence[dict[str, Any]]) -> dict[str, float]:
    found: dict[str, Any] = next((entry for entry in reversed(history) if "loss" in entry), {})
    return {name: float(value) for name, value in found.items() if isinstance(value, (int, float)) and name != "step"}
