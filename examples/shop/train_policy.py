"""`make policy`: synthesise runs, train tokenizer and demo policy on one processor core, and save them.

    python -m examples.shop.train_policy --work .toolorch/policy --out examples/shop/policy

A killed training goes on from its last checkpoint in the work folder when the same command is given again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from examples.shop.synthesis import Run, World, withheld_runs, worlds
from toolorch_rl.recipe.drills import copying_drill
from toolorch_rl.recipe.model import save_policy, small_model
from toolorch_rl.recipe.rows import Group, load_groups, render, save_groups
from toolorch_rl.recipe.sft import Schedule, train
from toolorch_rl.recipe.tokenizer import train_tokenizer

HERE = Path(__file__).parent
Say = Callable[[str], None]


def main() -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path(".toolorch/policy"), help="checkpoints and tokenised runs")
    parser.add_argument("--out", type=Path, default=HERE / "policy")
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=32, help="runs a world")
    parser.add_argument("--steps", type=int, default=Schedule().steps)
    parser.add_argument("--batch", type=int, default=Schedule().batch)
    parser.add_argument("--save-only", action="store_true", help="save the last checkpoint as it is")
    given = parser.parse_args()
    say: Say = Console(soft_wrap=True, highlight=False).print
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(given.work, say)
    model = small_model(tokenizer)
    say(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(tokenizer)} tokens")
    if given.save_only:
        model.load_state_dict(torch.load(given.work / "checkpoint.pt", weights_only=True)["model"])
    else:
        groups = _groups(given.work, tokenizer, given.worlds, given.runs, say)
        schedule = Schedule(steps=given.steps, batch=given.batch)
        drills = [copying_drill(tokenizer, 2 * given.batch, seed) for seed in range(200)]
        train(
            model,
            tokenizer,
            groups,
            drills,
            given.work,
            schedule,
            lambda line: say(f"{time.strftime('%H:%M:%S')} {line}"),
        )
    halved: Any = model
    halved.to(torch.bfloat16)
    save_policy(model, tokenizer, given.out, do_sample=False)
    say(f"saved {sum(file.stat().st_size for file in given.out.iterdir()) / 1e6:.2f} MB to {given.out}")


def _tokenizer(work: Path, say: Say) -> PreTrainedTokenizerFast:
    folder = work / "tokenizer"
    if not folder.exists():
        texts = [_text(place, run) for place, runs in worlds(10_000, 150, 12) for run in runs]
        train_tokenizer(texts).save_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    return loaded


def _text(place: World, run: Run) -> str:
    """Write a run roughly as the chat template will, which needs the tokenizer first."""
    parts = [f"{tool['function']['name']}(task, final): {tool['function']['description']}" for tool in place.schemas()]
    for message in run.messages:
        parts.append(f"{message['role']}\n{message['content']}")
        for call in message.get("tool_calls", ()):
            function = call["function"]
            parts.append(f'\n{{"name": "{function["name"]}", "arguments": {function["arguments"]}}}\n')
    return "\n".join(parts)


def _groups(work: Path, tokenizer: PreTrainedTokenizerFast, count: int, runs: int, say: Say) -> list[Group]:
    file = work / f"runs-{count}-{runs}.npz"
    if not file.exists():
        say(f"synthesising {count * runs} runs")
        save_groups(file, list(_rendered(tokenizer, count, runs)))
    return load_groups(file)


def _rendered(tokenizer: PreTrainedTokenizerFast, count: int, runs: int) -> Iterator[Group]:
    for place, made in worlds(0, count, runs):
        tools = place.schemas()
        rendered = [render(tokenizer, run.messages, run.written, tools) for run in made]
        yield Group(rendered[0][0], tuple(row for _, row in rendered))
    yield from _withheld(tokenizer, count * runs // 40)


def _withheld(tokenizer: PreTrainedTokenizerFast, count: int) -> Iterator[Group]:
    rendered = [render(tokenizer, run.messages, run.written, ()) for run in withheld_runs(count)]
    for first in range(0, count, 64):
        part = rendered[first : first + 64]
        yield Group(part[0][0], tuple(row for _, row in part))


if __name__ == "__main__":
    main()
