"""What a method trains on: rows of a data set, or a source of examples, made of captured runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolorch_integrations.trace import Trace
from toolorch_rl.examples import examples_of
from toolorch_rl.filters import drop_homogeneous
from toolorch_rl.refusals import Reason
from toolorch_rl.rewards import RunCredit, credit, preset
from toolorch_rl.rows import Rollout
from toolorch_rl.trace_rows import rollouts_of
from toolorch_rl.training.corpus import Corpus, Run, assess, corpus_of
from toolorch_rl.training.errors import TrainingError
from toolorch_rl.training.preferences import labelled, pairs_of
from toolorch_rl.training.rendering import rendered_rollout
from toolorch_rl.training.replay_source import ReplayRun, ReplaySource
from toolorch_rl.training.settings import Method, TrainSettings
from toolorch_rl.training.source import ExampleSource
from toolorch_rl.training.supervised import best_runs, supervised_rows
from toolorch_rl.training.vocabulary import check_tokenizer

Rollouts = Mapping[str, Rollout]
"""By trace."""


@dataclass(slots=True)
class Material:
    """What a trainer gets.

    Attributes:
        steps: Optimiser steps.
        rows: For TRL's data sets; None for policy gradients.
        source: For policy gradients.
        counts: What it is made of.
        refused: What was left out, by reason.
        versions: Names of the policies that made the runs, oldest first.
    """

    steps: int
    rows: list[dict[str, Any]] | None = None
    source: ExampleSource | None = None
    counts: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    versions: list[str] = field(default_factory=list)


def material_of(traces: Sequence[Trace], settings: TrainSettings, tokenizer: Any, config: Any) -> Material:
    """Turn captured runs into what a method trains on.

    Args:
        traces: The runs, oldest first.
        settings: Method and thresholds.
        tokenizer: The policy's.
        config: The policy's configuration: vocabulary and positions.

    Raises:
        TrainingError: The tokenizer is not the one that the ids are of, or too little is left to train on; the message
            has the counts.
    """
    text_config = config.get_text_config()
    longest = settings.max_length or int(getattr(text_config, "max_position_embeddings", 0)) or 2**31
    corpus = corpus_of(traces, settings)
    rollouts, rendered = _read(corpus, settings, tokenizer, int(text_config.vocab_size))
    check_tokenizer([run.trace for run in corpus.runs], tokenizer, int(text_config.vocab_size))
    if settings.method is Method.REPLAY:
        _drop_unfit(corpus, rollouts, settings, longest)
    if corpus.runs:
        assess(corpus, settings)
    made = _MAKERS[settings.method](corpus, rollouts, settings, longest)
    made.refused = {**corpus.refused, **made.refused}
    kept = sum(run.trace.id in rendered for run in corpus.runs)
    made.counts = {"traces": corpus.read, "runs": len(corpus.runs), "runs rendered again": kept, **made.counts}
    made.versions = list(dict.fromkeys(name for run in corpus.runs for name in run.trace.policy_versions))
    return made


def _sft(corpus: Corpus, rollouts: Rollouts, settings: TrainSettings, longest: int) -> Material:
    corpus.need(1, "sft needs a run that solved its task")
    chosen = best_runs(corpus, settings)
    if not chosen:
        solved = sum(run.solved for run in corpus.runs)
        raise TrainingError(
            f"sft needs a solved run that earned more than {settings.min_reward:g}: of {len(corpus.runs)} runs "
            f"{solved} solved their task, and none earned that; lower min_reward, or capture more runs"
        )
    rows, refused = supervised_rows(chosen, rollouts, longest)
    if not rows:
        raise TrainingError(f"sft has no row left of {len(chosen)} runs: {_text(refused)}")
    counts = {"best runs": len(chosen), "rows": len(rows)}
    return Material(_steps(settings, len(rows)), rows, counts=counts, refused=dict(refused))


def _dpo(corpus: Corpus, rollouts: Rollouts, settings: TrainSettings, longest: int) -> Material:
    corpus.need(2, "dpo compares runs of the same task, and needs two")
    found = pairs_of(corpus, rollouts, settings, longest)
    if not found.rows:
        tasks = Counter(run.task for run in corpus.runs)
        several = sum(number > 1 for number in tasks.values())
        detail = f": {_text(found.refused)}" if found.refused else ""
        raise TrainingError(
            f"dpo found no pair: {len(corpus.runs)} runs of {len(tasks)} tasks, {several} of them made more than once, "
            f"none with rewards that differ by more than {settings.margin:g}{detail}; capture several runs a task, or "
            "use kto, which needs no pairs"
        )
    return Material(_steps(settings, len(found.rows)), found.rows, counts=found.counts, refused=dict(found.refused))


def _kto(corpus: Corpus, rollouts: Rollouts, settings: TrainSettings, longest: int) -> Material:
    corpus.need(2, "kto needs good and bad runs")
    found = labelled(corpus, rollouts, settings, longest)
    if not found.counts["good"] or not found.counts["bad"]:
        why = f" ({_text(found.refused)})" if found.refused else ""
        raise TrainingError(
            f"kto needs good and bad runs: {found.counts['good']} rows are of good ones and {found.counts['bad']} of "
            f"bad ones{why}; capture more runs, or use sft on good ones alone"
        )
    return Material(_steps(settings, len(found.rows)), found.rows, counts=found.counts, refused=dict(found.refused))


def _replay(corpus: Corpus, rollouts: Rollouts, settings: TrainSettings, longest: int) -> Material:
    corpus.need(2, "replay compares runs, and needs two")
    charges = {}
    if corpus.rewards is not None and settings.credit == "call":
        charges = {entry.run: entry for entry in credit(corpus.rewards)}
    compared = len(corpus.runs)
    _drop_alike(corpus, settings)
    if not corpus.runs:
        raise TrainingError(
            f"replay found nothing to prefer: the rewards of all {compared} runs nearly equal those of the other runs "
            "of their task; capture runs that end differently, or set preferences by which they differ (cost, latency)"
        )
    ages = _staleness(corpus.runs, rollouts)
    runs = []
    units = _units(corpus.groups, corpus.runs)
    for group, run in zip(corpus.groups, corpus.runs, strict=True):
        name, rollout = run.trace.id, rollouts[run.trace.id]
        extra = {name: _later(charges[name], units[group], rollout)} if charges else None
        examples = examples_of([rollout], {name: run.advantage}, extra)
        runs.append(ReplayRun(run.task, tuple(examples), run.reward, ages[name]))
    counts = {
        "rows": sum(len(run.examples) for run in runs),
        "trained tokens": sum(rollouts[run.trace.id].trained_tokens for run in corpus.runs),
        "single runs": sum(run.single for run in corpus.runs),
    }
    source = ReplaySource(runs, settings.batch, settings.seed)
    return Material(
        settings.steps or math.ceil(settings.epochs * len(runs) / source.batch), source=source, counts=counts
    )


_MAKERS = {Method.SFT: _sft, Method.DPO: _dpo, Method.KTO: _kto, Method.REPLAY: _replay}


def _steps(settings: TrainSettings, rows: int) -> int:
    """Return the steps of TRL's trainers, whose passes end with a step of the rows that are left."""
    return settings.steps or math.ceil(settings.epochs * math.ceil(rows / settings.batch))


def _read(
    corpus: Corpus, settings: TrainSettings, tokenizer: Any, vocabulary: int
) -> tuple[dict[str, Rollout], set[str]]:
    """Return the runs' ids, and which of them the template rendered; leave out what the method cannot take.

    Where no log-probabilities are needed, runs without exact ids are rendered again. What stopped halfway stays out.
    """
    traces = [run.trace for run in corpus.runs]
    exact_only = settings.method is Method.REPLAY
    read = rollouts_of(traces, vocabulary=vocabulary, off_policy=exact_only)
    rollouts = {rollout.trace_id: rollout for rollout in read.rollouts}
    reasons = {one.trace_id: one.reason.value for one in read.refused}
    inexact = {one.trace_id for one in read.refused if one.reason is Reason.INEXACT and not exact_only}
    for trace in traces:
        if trace.id in inexact:
            try:
                rollouts[trace.id] = rendered_rollout(trace, tokenizer)
                del reasons[trace.id]
            except TrainingError as error:
                reasons[trace.id] = str(error)
    corpus.drop(reasons.items())
    return rollouts, inexact


def _drop_unfit(corpus: Corpus, rollouts: Rollouts, settings: TrainSettings, longest: int) -> None:
    """Leave out runs that are too old or too long for a policy gradient."""
    limit = settings.max_staleness
    if limit is not None:
        ages = _staleness(corpus.runs, rollouts)
        corpus.drop((one, f"its policy is more than {limit} versions old") for one, age in ages.items() if age > limit)
    corpus.drop(
        (run.trace.id, f"longer than {longest} tokens")
        for run in list(corpus.runs)
        if max(map(len, rollouts[run.trace.id].rows)) > longest
    )


def _drop_alike(corpus: Corpus, settings: TrainSettings) -> None:
    """Leave out runs of tasks whose rewards are so alike that their advantages would be noise.

    Single runs are compared with what is expected of each; they are left out where all of them earn just that.
    """
    assert corpus.rewards is not None
    alike = {entry.run: entry.reason for entry in drop_homogeneous(corpus.rewards, preset(settings.preset)).dropped}
    singles = [run for run in corpus.runs if run.single]
    if all(abs(run.advantage) <= 1e-9 for run in singles):
        alike |= {run.trace.id: "single runs that all earn what is expected of them" for run in singles}
    else:
        alike = {name: reason for name, reason in alike.items() if name not in {run.trace.id for run in singles}}
    corpus.drop((run.trace.id, alike[run.trace.id]) for run in list(corpus.runs) if run.trace.id in alike)


def _staleness(runs: Sequence[Run], rollouts: Rollouts) -> dict[str, int]:
    """Return how many versions older than the newest the oldest policy of each run is; versions go by first use."""
    order = list(dict.fromkeys(name for run in runs for name in rollouts[run.trace.id].policy_versions))
    place = {name: number for number, name in enumerate(order)}
    return {
        run.trace.id: len(order) - 1 - min(place[name] for name in rollouts[run.trace.id].policy_versions)
        for run in runs
    }


def _units(groups: Sequence[str], runs: Sequence[Run]) -> dict[str, float]:
    """Return how much reward an advantage of 1 is in each group, as its run that is furthest from 0 tells."""
    furthest: dict[str, Run] = {}
    for group, run in zip(groups, runs, strict=True):
        if abs(run.advantage) > abs(furthest.setdefault(group, run).advantage):
            furthest[group] = run
    return {group: (run.reward - run.expected) / run.advantage for group, run in furthest.items()}


def _later(charged: RunCredit, unit: float, rollout: Rollout) -> dict[int | None, float]:
    """Return what each turn's advantage gets back: what earlier turns were charged, which it could not help.

    With it a turn is judged by its run's outcome and by what it and later turns cost. What is expected of a run stays
    the baseline, so that the gradient stays unbiased.
    """
    by_node = charged.by_node()
    nodes = sorted({int(node) for row in rollout.rows for node in set(row.nodes[row.trained].tolist())})
    before = 0.0
    found: dict[int | None, float] = {}
    for node in nodes:
        found[node] = -before / unit
        before += by_node.get(node, 0.0)
    return found


def _text(refused: Mapping[str, int]) -> str:
    return "; ".join(f"{count} {reason}" for reason, count in refused.items())
