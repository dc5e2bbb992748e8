"""What the preference methods train on: pairs of runs (`dpo`), and runs that were liked or not (`kto`).

Ids are the server's own; nothing is rendered again. A run's completion is all that follows its prompt, with a mask over
what the policy wrote: what tools answered is the same under both policies and cancels in the ratio that both losses are
made of, so the sum over the policy's tokens is the trajectory's (Xiong et al., arXiv 2409.02392).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from toolorch_rl.rows import Rollout, Row
from toolorch_rl.training.corpus import Corpus, Run
from toolorch_rl.training.settings import TrainSettings

Masked = tuple[list[int], list[int]]
"""Ids, and 1 for those that the policy wrote."""


@dataclass(slots=True)
class Preferred:
    """Rows for TRL's preference trainers, and what they are made of.

    Attributes:
        rows: As the data set holds them: lists of ids and masks.
        counts: What was made, for the card.
        refused: Pairs or runs that could not be used, by reason.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)


def pairs_of(corpus: Corpus, rollouts: Mapping[str, Rollout], settings: TrainSettings, longest: int) -> Preferred:
    """Return pairs of runs of the same task, the better one first.

    Whole runs are compared where both are one path; else, or where the settings say so, the first turn in which two
    runs do different things after the same ids.

    Args:
        corpus: The runs with their rewards.
        rollouts: Their ids, by trace.
        settings: How many pairs a group gives, how far apart they must be, and what is compared.
        longest: Pairs with more tokens than this on a side are refused.
    """
    found = Preferred()
    decisions = 0
    for runs in _by_task(corpus).values():
        wide = [
            (better, worse)
            for better, worse in (_ordered(one, other) for one, other in combinations(runs, 2))
            if better.reward > worse.reward and better.reward - worse.reward >= settings.margin
        ]
        wide.sort(key=lambda pair: pair[1].reward - pair[0].reward)
        taken = 0
        for better, worse in wide:
            if taken == settings.pairs:
                break
            sides = rollouts[better.trace.id], rollouts[worse.trace.id]
            whole = settings.pair_on == "run" and all(len(side.rows) == 1 for side in sides)
            row = _whole(*sides) if whole else _decision(*sides)
            if isinstance(row, str):
                found.refused[f"pairs: {row}"] += 1
            elif len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) > longest:
                found.refused[f"pairs: longer than {longest} tokens"] += 1
            else:
                found.rows.append(row)
                taken += 1
                decisions += not whole
    found.counts = {"pairs": len(found.rows), "pairs on one decision": decisions}
    return found


def labelled(corpus: Corpus, rollouts: Mapping[str, Rollout], settings: TrainSettings, longest: int) -> Preferred:
    """Return runs with whether they were good: solved, and worth at least what was expected of them.

    Each path of a run is a row. Each row also holds another's completion after its own prompt: what KTO estimates the
    divergence with.

    Args:
        corpus: The runs with their rewards.
        rollouts: Their ids, by trace.
        settings: How far from the middle a run must be.
        longest: Rows with more tokens than this are refused.
    """
    found = Preferred()
    for run in corpus.runs:
        good = run.solved and run.reward >= run.expected - 1e-9
        if settings.margin and abs(run.reward - run.expected) < settings.margin:
            found.refused["runs within the margin"] += 1
            continue
        for row in rollouts[run.trace.id].rows:
            if len(row) > longest:
                found.refused[f"rows: longer than {longest} tokens"] += 1
            elif row.trained.any():
                start = int(row.trained.argmax())
                ids, mask = _rest(row, start)
                found.rows.append(
                    {"prompt_ids": row.ids[:start].tolist(), "completion_ids": ids, "mask": mask, "label": bool(good)}
                )
    order = np.random.default_rng(settings.seed).permutation(len(found.rows))
    found.rows = [found.rows[place] for place in order.tolist()]
    for entry, other in zip(found.rows, [*found.rows[1:], *found.rows[:1]], strict=True):
        # An overlong mismatched sequence is cut: it is an estimate of a mean, and nothing is trained on it.
        room = longest - len(entry["prompt_ids"])
        entry["KL_completion_ids"] = other["completion_ids"][:room]
        entry["KL_mask"] = other["mask"][:room]
    good_rows = sum(entry["label"] for entry in found.rows)
    found.counts = {"rows": len(found.rows), "good": good_rows, "bad": len(found.rows) - good_rows}
    return found


def _by_task(corpus: Corpus) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in corpus.runs:
        groups[run.task].append(run)
    return groups


def _ordered(one: Run, other: Run) -> tuple[Run, Run]:
    return (one, other) if one.reward >= other.reward else (other, one)


def _rest(row: Row, start: int) -> Masked:
    return row.ids[start:].tolist(), row.trained[start:].astype(int).tolist()


def _whole(chosen: Rollout, rejected: Rollout) -> dict[str, Any] | str:
    """Return a pair of whole runs, or why it is none."""
    one, other = chosen.rows[0], rejected.rows[0]
    start = int(one.trained.argmax())
    if start != int(other.trained.argmax()) or not np.array_equal(one.ids[:start], other.ids[:start]):
        return "the prompts of the two runs differ"
    if np.array_equal(one.ids[one.trained], other.ids[other.trained]):
        return "the policy wrote the same in both runs"
    return _pair(one.ids[:start].tolist(), _rest(one, start), _rest(other, start))


def _decision(chosen: Rollout, rejected: Rollout) -> dict[str, Any] | str:
    """Return the first turn in which two runs do different things after the same ids, or why there is none."""
    turns, others = _turns(chosen), _turns(rejected)
    for (prompt, wrote), (other_prompt, other_wrote) in zip(turns, others, strict=False):
        if not np.array_equal(prompt, other_prompt):
            return "the prompts of the two runs differ before what the policy wrote does"
        if not np.array_equal(wrote, other_wrote):
            answers = [(one.tolist(), [1] * len(one)) for one in (wrote, other_wrote)]
            return _pair(prompt.tolist(), answers[0], answers[1])
    return "the policy wrote the same in both runs"


def _turns(rollout: Rollout) -> Sequence[tuple[Any, Any]]:
    """Return prompt and answer of each turn, in the order in which they came."""
    found = {}
    for row in rollout.rows:
        edges = np.flatnonzero(np.diff(row.nodes, prepend=-1, append=-1))
        for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if row.trained[start]:
                found[int(row.nodes[start])] = row.ids[:start], row.ids[start:stop]
    return [found[node] for node in sorted(found)]


def _pair(
    prompt: list[int], chosen: tuple[list[int], list[int]], rejected: tuple[list[int], list[int]]
) -> dict[str, Any]:
    return {
        "prompt_ids": prompt,
        "chosen_ids": chosen[0],
        "chosen_mask": chosen[1],
        "rejected_ids": rejected[0],
        "rejected_mask": rejected[1],
    }
