"""Supervised training of a small policy on one processor core: Muon and AdamW, shared prompts, resumable.

Runs that share a system prompt are trained together and the prompt is computed once, with gradients: about three times
fewer tokens than a row a run. The loss is over what the policy writes, and only there is the output head computed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, PreTrainedTokenizerFast, Qwen3ForCausalLM

from toolorch_rl.recipe.fingerprint import check_same, fingerprint
from toolorch_rl.recipe.rows import Group, Ids, Row


@dataclass(frozen=True, slots=True)
class Schedule:
    """How to train.

    Attributes:
        steps: Optimizer steps.
        batch: Runs a step.
        drill_steps: Steps at the start that drill copying; later every tenth step does.
        short_steps: Steps after that in which only short runs are taken.
        short_tokens: Longest run of that time, in tokens after the prompt.
        muon: Learning rate of Muon, for the matrices of the layers.
        adam: Learning rate of AdamW, for embeddings, output head and norms.
        warmup: Steps until the full rates.
        every: Steps between checkpoints and progress lines.
        seed: Order of the runs.
        bf16: Compute in bfloat16 where that is safe; the weights stay float32.
    """

    steps: int = 4000
    batch: int = 24
    drill_steps: int = 150
    short_steps: int = 300
    short_tokens: int = 110
    muon: float = 0.02
    adam: float = 0.003
    warmup: int = 50
    every: int = 100
    seed: int = 0
    bf16: bool = True

    def rate(self, step: int) -> float:
        """Return the factor on the learning rates: a warm-up, level, and a linear fall over the last half."""
        rise = min(1.0, (step + 1) / self.warmup)
        return rise * min(1.0, 2 * (1 - step / self.steps) + 0.02)


def train(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    groups: Sequence[Group],
    drills: Sequence[Group],
    folder: Path,
    schedule: Schedule,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Train `model` in place, from the last checkpoint in `folder` where there is one.

    Args:
        model: Trained in place.
        tokenizer: What the rows' ids are of.
        groups: The runs.
        drills: Copying drills, of which a step takes a whole one.
        folder: Holds `checkpoint.pt`, written so that a killed run loses at most `schedule.every` steps.
        schedule: How.
        say: Gets a progress line.

    Raises:
        TrainingError: The checkpoint is of a training with other settings, model, tokenizer or rows; more steps are
            allowed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    muon, adam = _optimizers(model, schedule)
    done = 0
    made_of = fingerprint(model, tokenizer, groups, drills, asdict(schedule))
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        check_same(state.get("made_of"), made_of, checkpoint)
        model.load_state_dict(state["model"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        done = state["step"]
        say(f"resumed at step {done}")
    model.train()
    losses: list[float] = []
    tokens, since = 0, time.monotonic()
    for step in range(done, schedule.steps):
        prefix, rows = batch_of(groups, drills, schedule, step)
        for optimizer, rate in ((muon, schedule.muon), (adam, schedule.adam)):
            for part in optimizer.param_groups:
                part["lr"] = rate * schedule.rate(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=schedule.bf16):
            loss = loss_of(model, prefix, rows)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        tokens += len(prefix) + sum(len(row.ids) for row in rows)
        if (step + 1) % schedule.every == 0 or step + 1 == schedule.steps:
            speed = tokens / (time.monotonic() - since)
            say(f"step {step + 1}/{schedule.steps} loss {sum(losses) / len(losses):.4f} {speed:.0f} tokens/s")
            parts = {"model": model.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict()}
            _save(checkpoint, {**parts, "step": step + 1, "made_of": made_of})
            losses, tokens, since = [], 0, time.monotonic()
    model.train(False)


def batch_of(groups: Sequence[Group], drills: Sequence[Group], schedule: Schedule, step: int) -> tuple[Ids, list[Row]]:
    """Return the prompt and the runs of a step: one group's, of similar length."""
    draw = random.Random(schedule.seed * 1_000_003 + step)
    if step < schedule.drill_steps or step % 10 == 0:
        drill = draw.choice(drills)
        return drill.prefix, list(drill.rows)
    while True:
        group = draw.choice(groups)
        rows = list(group.rows)
        if step < schedule.drill_steps + schedule.short_steps:
            rows = [row for row in rows if len(row.ids) <= schedule.short_tokens]
        if rows:
            break
    rows.sort(key=lambda row: len(row.ids))  # neighbours are of similar length: little padding
    first = draw.randint(1 - schedule.batch, len(rows) - 1)
    return group.prefix, rows[max(0, first) : first + schedule.batch]


def loss_of(model: Qwen3ForCausalLM, prefix: Ids, rows: Sequence[Row]) -> torch.Tensor:
    """Return the mean cross-entropy over the tokens that the policy wrote."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    wrote = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.from_numpy(row.ids.astype(np.int64))
        wrote[index, : len(row.ids)] = torch.from_numpy(row.wrote)
    cache = DynamicCache(config=model.config)
    shared = torch.from_numpy(prefix.astype(np.int64))[None]
    model.model(input_ids=shared, past_key_values=cache, use_cache=True)
    layers: list[Any] = cache.layers
    for layer in layers:
        layer.keys = layer.keys.expand(len(rows), -1, -1, -1)
        layer.values = layer.values.expand(len(rows), -1, -1, -1)
    states = model.model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
    targets = wrote[:, 1:]
    logits = model.lm_head(states[:, :-1][targets])
    return cross_entropy(logits.float(), ids[:, 1:][targets])


def _optimizers(model: Qwen3ForCausalLM, schedule: Schedule) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    known = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in known]
    return (
        torch.optim.Muon(inner, lr=schedule.muon, weight_decay=0.01, adjust_lr_fn="original"),
        torch.optim.AdamW(outer, lr=schedule.adam, weight_decay=0.0, betas=(0.9, 0.95)),
    )


def _save(path: Path, state: dict[str, object]) -> None:
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)
