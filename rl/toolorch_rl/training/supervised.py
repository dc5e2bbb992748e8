"""What supervised training says again: the best runs of each task."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toolorch_rl.rows import Rollout
from toolorch_rl.training.corpus import Corpus, Run
from toolorch_rl.training.errors import TrainingError
from toolorch_rl.training.rendering import rendered_rows
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
    runs: Sequence[Run], rollouts: Mapping[str, Rollout], tokenizer: Any, longest: int
) -> tuple[list[dict[str, Any]], dict[str, int], Counter[str]]:
    """Return rows of ids and labels for TRL's SFT trainer, what they were made of, and what was refused.

    Exact runs give the server's ids. Of the others the messages are rendered again with the tokenizer's template.

    Args:
        runs: The runs.
        rollouts: Ids of the exact ones, by trace.
        tokenizer: Renders the others.
        longest: Rows with more tokens than this are refused.
    """
    rows: list[dict[str, Any]] = []
    refused: Counter[str] = Counter()
    counts = Counter({"exact runs": 0, "runs rendered again": 0})
    for run in runs:
        rollout = rollouts.get(run.trace.id)
        if rollout is not None:
            ids_and_masks = [(row.ids.astype(np.int64), row.trained) for row in rollout.rows]
        else:
            try:
                ids_and_masks = rendered_rows(run.trace, tokenizer)
            except TrainingError as error:
                refused[str(error)] += 1
                continue
        taken = False
        for ids, trained in ids_and_masks:
            if len(ids) > longest:
                refused[f"rows: longer than {longest} tokens"] += 1
            elif trained.any():
                taken = True
                rows.append({"input_ids": ids.tolist(), "labels": np.where(trained, ids, IGNORED).tolist()})
        if taken:
            counts["exact runs" if rollout is not None else "runs rendered again"] += 1
    return rows, {"rows": len(rows), **counts}, refused
