"""The policy that learns where specialists are redrawn: it reads the catalogue, and chooses by chance.

    python -m examples.routing.redrawn_policy --out .toolorch/routing/reader

Before it calls, it writes down the kind of the request, what the caller cares about, and of each specialist what it is
good at, whether that is what the request needs, and which step of price and seconds it stands on; then who of those
that fit costs least, and who is quickest. Whom to call it has to learn by experience: its supervised runs call anybody.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from examples.routing.base_policy import called, chat_prompt
from examples.routing.redrawn import EVERYTHING, SKILLS, names, team
from examples.routing.requests import KINDS, SETTINGS, RoutingTask, tasks
from toolorch_rl.recipe.drills import copying_drill
from toolorch_rl.recipe.model import save_policy, small_model
from toolorch_rl.recipe.rows import Group, load_groups, render_group, save_groups
from toolorch_rl.recipe.sft import Schedule, train
from toolorch_rl.recipe.tokenizer import train_tokenizer
from toolorch_serving.simulated.specialists import SimulatedSpecialist

_STEPS = "abcdefghijklmnop"
"""Of price and of seconds: two to an octave."""
_LEAST_PRICE, _LEAST_SECONDS = 0.1, 0.5


def able(task: RoutingTask, specialist: SimulatedSpecialist) -> bool:
    """Whether a specialist's description names what a request needs."""
    return specialist.description == EVERYTHING or task.kind in _good_at(specialist)


def shortlist(task: RoutingTask) -> str:
    """Return who, among those who are able, stands on the lowest step of price, and of seconds."""
    fit = [specialist for specialist in task.team.specialists if able(task, specialist)]
    cheapest = min(fit, key=lambda one: _price_step(one))
    quickest = min(fit, key=lambda one: _seconds_step(one))
    return f'low cost "{cheapest.name}"; low latency "{quickest.name}"'


def verdict(task: RoutingTask, specialist: SimulatedSpecialist) -> str:
    """Return what the policy writes down of a specialist: the name at both ends, so that each step is a local one."""
    marked = ", ".join(f"{kind} yes" if kind == task.kind else kind for kind in _good_at(specialist))
    said = "able" if able(task, specialist) else "weak"
    steps = f"${_price_step(specialist)} {_seconds_step(specialist)}s"
    return f'"{specialist.name}" {marked}: {said} {steps} "{specialist.name}"'


def _good_at(specialist: SimulatedSpecialist) -> list[str]:
    return specialist.description.removeprefix("Good at ").removesuffix(".").split(", ")


def _price_step(specialist: SimulatedSpecialist) -> str:
    return _step(specialist.price.input / _LEAST_PRICE)


def _seconds_step(specialist: SimulatedSpecialist) -> str:
    return _step((specialist.latency or 0) / _LEAST_SECONDS)


def _step(times: float) -> str:
    return _STEPS[min(len(_STEPS) - 1, int(2 * math.log2(times) + 1e-9))]


def reader_runs(draw: random.Random, number: int, requests: int) -> list[RoutingTask]:
    """Return requests of all kinds to one team, all with the same preferences and so with the same system prompt."""
    setting = draw.choice(list(SETTINGS))
    drawn = team(draw)
    return [replace(task, team=drawn) for task in tasks(requests, f"reader {number}", (setting,))]


def reply(task: RoutingTask, draw: random.Random) -> dict[str, Any]:
    """Return a message that says of each specialist what its description says, and calls one of them by chance."""
    made = called(task, draw.choice(task.team.specialists).name, {"final": True})
    read = "; ".join(verdict(task, specialist) for specialist in task.team.specialists)
    read += f"; {shortlist(task)}"
    # "needs" puts a space before the kind, so that it is the same token as in the descriptions.
    return {**made, "content": f"needs {made['content']}; {read}"}


def make(
    out: Path,
    *,
    teams: int = 6000,
    requests: int = 16,
    steps: int = 8000,
    hidden: int = 128,
    layers: int = 4,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Path:
    """Make the policy and save it to `out`; goes on where it was stopped.

    Args:
        out: Folder for model and tokenizer.
        teams: Teams that are drawn.
        requests: Runs with each of them.
        steps: Optimiser steps, one team each.
        hidden: Width of the model.
        layers: Its depth.
        seed: Of weights and runs.
        say: Gets progress lines.
    """
    work = out.with_name(f"{out.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    file = work / "runs.npz"
    if (work / "tokenizer").exists() and file.exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
        groups = load_groups(file)
    else:
        tokenizer = train_tokenizer(_texts(seed), vocabulary=2560, length=1024)
        tokenizer.save_pretrained(work / "tokenizer")
        groups = list(_groups(tokenizer, teams, requests, seed))
        save_groups(file, groups)
    model = small_model(tokenizer, hidden=hidden, layers=layers, length=1024, seed=seed)
    size = sum(len(row.ids) for row in groups[0].rows) / len(groups[0].rows)
    say(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(tokenizer)} tokens")
    say(f"{len(groups[0].prefix)} tokens of prompt, {size:.0f} of a run")
    drills = [copying_drill(tokenizer, 48, number) for number in range(50)]
    schedule = Schedule(steps=steps, batch=requests, short_steps=0, seed=seed, bf16=False)
    train(model, groups, drills, work, schedule, say)
    save_policy(model, tokenizer, out)
    return out


def _groups(tokenizer: PreTrainedTokenizerFast, teams: int, requests: int, seed: int) -> Iterator[Group]:
    draw = random.Random(f"reader {seed}")
    for number in range(teams):
        shown = reader_runs(draw, number, requests)
        (system, _), tools = chat_prompt(shown[0])
        runs = [([{"role": "user", "content": task.request}, reply(task, draw)], [False, True]) for task in shown]
        yield render_group(tokenizer, str(system["content"]), tools, runs)


def _texts(seed: int) -> Iterator[str]:
    """Write runs roughly as the chat template will, which needs the tokenizer first; and each name."""
    draw = random.Random(f"texts {seed}")
    for number in range(300):
        shown = reader_runs(draw, number, 8)
        (system, _), tools = chat_prompt(shown[0])
        functions = [tool["function"] for tool in tools]
        listed = "\n".join(f"{function['description']}\n{function['name']}(task, final)" for function in functions)
        yield f"system\n{system['content']}\n\n# Tools\n{listed}"
        for task in shown:
            said = reply(task, draw)
            function = said["tool_calls"][0]["function"]
            call = f'{{"name": "{function["name"]}", "arguments": {function["arguments"]}}}'
            yield f"user\n{task.request}\nassistant\n{said['content']}\n<tool_call>\n{call}\n"
    yield from (json.dumps({"name": name}) + f"\n{name}(task, final)\n" for name in (*names(False), *names(True)))
    yield from (f'"{kind}" Good at {kind}, {kind}.' for kind in (*KINDS, *SKILLS))


def main() -> None:
    """Make the policy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(".toolorch/routing/reader"))
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--teams", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    make(given.out, steps=given.steps, teams=given.teams, seed=given.seed)


if __name__ == "__main__":
    main()
