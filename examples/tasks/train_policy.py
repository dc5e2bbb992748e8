"""Synthesise runs, train tokenizer and policy on one processor core, and save them.

    python -m examples.tasks.train_policy --work .toolorch/tasks-policy --out examples/tasks/policy

A killed training goes on from its last checkpoint in the work folder when the same command is given again; with more
`--steps` a finished one goes on, too, at the full rates at first. On one core of an AMD EPYC the runs take five minutes
to make and a step 0.9 s (2,300 tokens/s): the weights in `policy/` are those of 7,200 steps, of two hours. The loss was
still falling slowly, and what they miss of the bars is in the README.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from examples.tasks.choices import SYSTEM, choices, menu
from examples.tasks.corpus import Corpus, Shared, training_tasks
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
    parser.add_argument("--tasks", type=int, default=9000, help="tasks to draw runs from")
    parser.add_argument("--groups", type=int, default=1500, help="views of the catalogue, each with `batch` runs")
    parser.add_argument("--steps", type=int, default=7200)
    parser.add_argument("--batch", type=int, default=24, help="runs a step")
    parser.add_argument("--data-only", action="store_true", help="stop before training")
    parser.add_argument("--save-only", action="store_true", help="save the last checkpoint as it is")
    given = parser.parse_args()
    say: Say = Console(soft_wrap=True, highlight=False).print
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    file = given.work / f"runs-{given.tasks}-{given.groups}-{given.batch}.npz"
    if not file.exists() and not given.save_only:
        _synthesise(file, given.tasks, given.groups, given.batch, say)
    if given.data_only:
        return
    tokenizer = load_tokenizer(given.work)
    model = small_model(tokenizer, related=True)
    say(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(tokenizer)} tokens")
    if given.save_only:
        model.load_state_dict(torch.load(given.work / "checkpoint.pt", weights_only=True)["model"])
    else:
        schedule = Schedule(steps=given.steps, batch=given.batch, short_steps=400, short_tokens=140)
        train(model, tokenizer, load_groups(file), _drills(tokenizer, given.batch), given.work, schedule, _timed(say))
    save(model, tokenizer, given.out)
    say(f"saved {sum(item.stat().st_size for item in given.out.iterdir()) / 1e6:.2f} MB to {given.out}")


def save(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a policy's folder, weights in bfloat16."""
    model.to(torch.bfloat16)
    save_policy(model, tokenizer, folder, do_sample=False)


def load_tokenizer(work: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer that was trained before."""
    loaded = AutoTokenizer.from_pretrained(work / "tokenizer")
    assert isinstance(loaded, PreTrainedTokenizerFast)
    return loaded


def _timed(say: Say) -> Say:
    return lambda line: say(f"{time.strftime('%H:%M:%S')} {line}")


def _drills(tokenizer: PreTrainedTokenizerFast, batch: int) -> list[Group]:
    plain = [copying_drill(tokenizer, 2 * batch, seed) for seed in range(100)]
    return [*plain, *(lookup_drill(tokenizer, 2 * batch, seed) for seed in range(200))]


def _synthesise(file: Path, tasks: int, groups: int, batch: int, say: Say) -> None:
    timed = _timed(say)
    timed(f"synthesising {tasks} tasks")
    corpus = Corpus(list(training_tasks(tasks)))
    if not (file.parent / "tokenizer").exists():
        timed("training the tokenizer")
        texts = [text for seed in range(200) for text in _texts(corpus.group(10**6 + seed, 12))]
        texts += [text for seed in range(60) for text in _texts(_choice_group(10**6 + seed, 8))]
        trained = train_tokenizer(texts, VOCABULARY, split=DENSE_SPLIT, whole=HEXADECIMALS, repeats=400)
        trained.save_pretrained(file.parent / "tokenizer")
    tokenizer = load_tokenizer(file.parent)
    timed("drawing runs")
    save_groups(file, list(_rendered(tokenizer, corpus, groups, batch)))
    timed("drawn")


def _rendered(tokenizer: PreTrainedTokenizerFast, corpus: Corpus, groups: int, batch: int) -> Iterator[Group]:
    for seed in range(groups):
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
