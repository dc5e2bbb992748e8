"""Synthesise runs, train tokenizer and policy on one processor core, and save them.

    python -m examples.tasks.train_policy --out examples/tasks/policy

A killed training goes on from its last checkpoint in the work folder when the same command is given again; with more
`--steps` a finished one goes on, too, at the full rates at first. On one core of an AMD EPYC a thousand tasks and their
runs take five seconds, and a step 0.9 s (2,300 tokens/s), two hours by default.

The weights in `policy/` were made in two trainings. The first had one pool of tasks, so that its runs shared names and
ids, and learnt many of them by heart: its loss was twice as high on fresh tasks. The second went on on fresh ones:

    python -m examples.tasks.train_policy --work W1 --out W1/policy --pools 1 --groups 1500
    python -m examples.tasks.train_policy --work W2 --begin W1/policy --first-pool 1 --steps 6000
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from examples.tasks.choices import SYSTEM, choices, menu
from examples.tasks.corpus import Corpus, Shared, training_tasks
from examples.tasks.evaluate_policy import load
from toolorch_rl.recipe.drills import copying_drill, lookup_drill
from toolorch_rl.recipe.model import save_policy, small_model
from toolorch_rl.recipe.rows import Group, load_groups, render_group, save_groups
from toolorch_rl.recipe.sft import Schedule, train
from toolorch_rl.recipe.tokenizer import DENSE_SPLIT, HEXADECIMALS, train_tokenizer

HERE = Path(__file__).parent
VOCABULARY = 6912
"""Of these 4,352 are pieces of ids."""

Say = Callable[[str], None]


def main() -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(".toolorch/tasks-policy"), help="checkpoints and runs")
    parser.add_argument("--out", type=Path, default=HERE / "policy")
    parser.add_argument("--begin", type=Path, help="a policy of this recipe to begin with, in place of a new one")
    parser.add_argument("--pools", type=int, default=12, help="pools of tasks: runs of one share names and ids")
    parser.add_argument("--first-pool", type=int, default=0, help="the first of them")
    parser.add_argument("--tasks", type=int, default=9000, help="tasks of a pool")
    parser.add_argument("--groups", type=int, default=6000, help="views of the catalogue, each with `batch` runs")
    parser.add_argument("--steps", type=int, default=7200)
    parser.add_argument("--batch", type=int, default=24, help="runs a step")
    parser.add_argument("--data-only", action="store_true", help="stop before training")
    parser.add_argument("--save-only", action="store_true", help="save the last checkpoint as it is")
    given = parser.parse_args()
    say: Say = Console(soft_wrap=True, highlight=False).print
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    drawn = (given.first_pool, given.pools, given.tasks, given.groups, given.batch)
    file = given.work / f"runs-{'-'.join(map(str, drawn))}.npz"
    if given.begin:
        load_tokenizer(given.begin).save_pretrained(given.work / "tokenizer")
    if not file.exists() and not given.save_only:
        _synthesise(file, *drawn, _timed(say))
    if given.data_only:
        return
    tokenizer = load_tokenizer(given.work / "tokenizer")
    model = load(given.begin)[0] if given.begin else small_model(tokenizer, related=True)
    say(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(tokenizer)} tokens")
    if given.save_only:
        model.load_state_dict(torch.load(given.work / "checkpoint.pt", weights_only=True)["model"])
    else:
        schedule = Schedule(steps=given.steps, batch=given.batch, short_steps=400, short_tokens=140)
        if given.begin:
            schedule = replace(schedule, drill_steps=0, short_steps=0)
        train(model, tokenizer, load_groups(file), _drills(tokenizer, given.batch), given.work, schedule, _timed(say))
    save(model, tokenizer, given.out)
    say(f"saved {sum(item.stat().st_size for item in given.out.iterdir()) / 1e6:.2f} MB to {given.out}")


def save(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a policy's folder, weights in bfloat16."""
    model.to(torch.bfloat16)
    save_policy(model, tokenizer, folder, do_sample=False)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a folder."""
    loaded = AutoTokenizer.from_pretrained(folder)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    return loaded


def _timed(say: Say) -> Say:
    return lambda line: say(f"{time.strftime('%H:%M:%S')} {line}")


def _drills(tokenizer: PreTrainedTokenizerFast, batch: int) -> list[Group]:
    plain = [copying_drill(tokenizer, 2 * batch, seed) for seed in range(100)]
    return [*plain, *(lookup_drill(tokenizer, 2 * batch, seed) for seed in range(200))]


def _synthesise(file: Path, first: int, pools: int, tasks: int, groups: int, batch: int, say: Say) -> None:
    def corpus(pool: int) -> Corpus:
        say(f"synthesising pool {pool} of {tasks} tasks")
        return Corpus(list(training_tasks(tasks, pool)))

    if not (file.parent / "tokenizer").exists():
        trained_on = corpus(first)
        say("training the tokenizer")
        texts = [text for seed in range(200) for text in _texts(trained_on.group(10**6 + seed, 12))]
        texts += [text for seed in range(60) for text in _texts(_choice_group(10**6 + seed, 8))]
        trained = train_tokenizer(texts, VOCABULARY, split=DENSE_SPLIT, whole=HEXADECIMALS, repeats=400)
        trained.save_pretrained(file.parent / "tokenizer")
    tokenizer = load_tokenizer(file.parent / "tokenizer")
    seeds = np.array_split(np.arange(groups) + first * groups // pools, pools)
    made = (
        group
        for pool, part in enumerate(seeds, first)
        for group in _rendered(tokenizer, corpus(pool), part.tolist(), batch)
    )
    save_groups(file, list(made))
    say("drawn")


def _rendered(tokenizer: PreTrainedTokenizerFast, corpus: Corpus, seeds: Iterable[int], batch: int) -> Iterator[Group]:
    for seed in seeds:
        shared = corpus.group(seed, batch) if seed % 8 else _choice_group(seed, batch)
        yield render_group(tokenizer, shared.system, shared.tools, shared.runs)


def _choice_group(seed: int, count: int) -> Shared:
    """Return prompts of the `select` rendering that share their functions and models."""
    draw = random.Random(f"choices {seed}")
    offered = menu(draw)
    runs: list[tuple[list[dict[str, Any]], list[bool]]] = []
    while len(runs) < count:
        runs += [([step.messages[1], step.reply], [False, True]) for step in choices(draw, offered)]
    return Shared(SYSTEM, offered.tools(), runs[:count])


def _texts(shared: Shared) -> Iterator[str]:
    """Write prompt and runs roughly as the chat template will, which needs the tokenizer first."""
    yield "\n".join(["system", shared.system, "# Tools", *(_line(tool["function"]) for tool in shared.tools)])
    for messages, _ in shared.runs:
        parts = []
        for message in messages:
            parts.append(f"{message['role']}\n{message['content']}")
            for call in message.get("tool_calls", ()):
                function = call["function"]
                parts.append(f'\n{{"name": "{function["name"]}", "arguments": {function["arguments"]}}}\n')
        yield "\n".join(parts)


def _line(function: dict[str, Any]) -> str:
    properties = function["parameters"]["properties"]
    head = f"{function['description']}\n{function['name']}({', '.join(properties)})"
    return "\n".join([head, *(item["description"] for item in properties.values() if "Choices" in str(item))])


if __name__ == "__main__":
    main()
