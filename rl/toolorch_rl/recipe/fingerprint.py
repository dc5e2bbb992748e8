"""What a checkpoint was trained with, so that training goes on only with the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from toolorch_integrations.plain import content_hash
from toolorch_rl.recipe.rows import Group
from toolorch_rl.training.errors import TrainingError

Fingerprint = Mapping[str, str | int]
"""A hash of each of model, tokenizer, runs, drills and schedule, and the number of steps."""


def fingerprint(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    groups: Sequence[Group],
    drills: Sequence[Group],
    schedule: Mapping[str, Any],
) -> dict[str, str | int]:
    """Return the fingerprint of a training.

    Args:
        model: Its configuration counts; weights do not.
        tokenizer: What the rows' ids are of.
        groups: The runs.
        drills: The drills.
        schedule: Fields of the schedule. `every` changes nothing about the result, and does not count.
    """
    shape = {name: value for name, value in model.config.to_dict().items() if name != "transformers_version"}
    rest = {name: value for name, value in schedule.items() if name not in ("steps", "every")}
    return {
        "model": content_hash(shape),
        "tokenizer": content_hash(tokenizer.backend_tokenizer.to_str()),
        "runs": _rows(groups),
        "drills": _rows(drills),
        "schedule": content_hash(rest),
        "steps": int(schedule["steps"]),
    }


def check_same(found: Fingerprint | None, wanted: Fingerprint, checkpoint: Path) -> None:
    """Refuse to go on from a checkpoint of another training; more steps are allowed.

    Raises:
        TrainingError: The message says what differs.
    """
    advice = f"remove {checkpoint.parent}, or give another folder, to begin anew"
    if found is None:
        raise TrainingError(f"{checkpoint} does not say what it was trained with (an older release wrote it); {advice}")
    other = [name for name in wanted if name != "steps" and found.get(name) != wanted[name]]
    if int(wanted["steps"]) < int(found.get("steps", 0)):
        other.append(f"steps ({wanted['steps']}, fewer than {found['steps']})")
    if other:
        raise TrainingError(f"{checkpoint} was trained with other settings: {', '.join(other)} differ; {advice}")


def _rows(groups: Sequence[Group]) -> str:
    digest = hashlib.sha256()
    for group in groups:
        for part in (group.prefix, *(part for row in group.rows for part in (row.ids, row.wrote))):
            digest.update(f"{part.dtype} {len(part)} ".encode())
            digest.update(part.tobytes())
    return digest.hexdigest()[:32]
