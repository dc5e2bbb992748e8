"""What supervised training says again: the best runs of each task."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toolorch_rl.rows import Rollout
from toolorch_rl.training.corpus import Corpus, Run
from toolorch_rl.training.settings import TrainSettings

IGNORED = -100
"""Label of a token that is not trained."""


def best_runs(corpus: Corpus, settings: TrainSettings) -> list[Run]:
    """Return of each task the solved runs that earned most: a share of them, at least one, and all that tie."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in corpus.runs:
        if run.solved and run.reward > settings.min_reward:
            groups[run.task].append(run)
    found = []
    for runs in groups.values():
        runs.sort(key=lambda run: -run.reward)
        least = runs[math.ceil(settings.best * len(runs)) - 1].reward
        found += [run for run in runs if run.reward >= least - 1e-9]
    return found


def supervised_rows(
    runs: Sequence[Run], rollouts: Mapping[str, Rollout], longest: int
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Return rows of ids and labels for TRL's SFT trainer, and how many were refused for which reason.

    Args:
        runs: The runs.
        rollouts: Their ids, by trace.
        longest: Rows with more tokens than this are refused.
    """
    rows: list[dict[str, Any]] = []
    refused: Counter[str] = Counter()
    for row in (row for run in runs for row in rollouts[run.trace.id].rows):
        if len(row) > longest:
            refused[f"rows: longer than {longest} tokens"] += 1
        else:
            ids = row.ids.astype(np.int64)
            rows.append({"input_ids": ids.tolist(), "labels": np.where(row.trained, ids, IGNORED).tolist()})
    return rows, refused
