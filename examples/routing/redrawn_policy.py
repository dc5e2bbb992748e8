"""The policy that learns where specialists are redrawn: it reads the catalogue, and chooses by chance.

    python -m examples.routing.redrawn_policy --out .toolorch/routing/reader

Before it calls, it writes down the kind of the request, and of each specialist what it is good at, whether that is what
the request needs, its price and seconds, and who of those read so far that fit costs least and is quickest; then what
the caller cares about, and by what it chooses. That word its supervised runs draw by chance: when to take the cheapest,
the quickest or anybody it has to learn by experience.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from examples.routing.base_policy import called, chat_prompt, levels
from examples.routing.redrawn import EVERYTHING, SKILLS, names, team
from examples.routing.requests import KINDS, SETTINGS, RoutingTask, tasks
from toolorch_integrations.plain import content_hash
from toolorch_rl.recipe.drills import copying_drill
from toolorch_rl.recipe.model import save_policy, small_model
from toolorch_rl.recipe.rows import Group, load_groups, render_group, save_groups
from toolorch_rl.recipe.sft import Schedule, train
from toolorch_rl.recipe.tokenizer import train_tokenizer
from toolorch_rl.training import TrainingError
from toolorch_serving.simulated.specialists import SimulatedSpecialist

DRAWN = "drawn.txt"
"""Says which runs a working folder holds."""

CHOICES = ("cheapest", "quickest", "anybody")
"""By what the policy chooses among those whom it has read: the cheapest or quickest who fits, or anybody at all."""


def able(task: RoutingTask, specialist: SimulatedSpecialist) -> bool:
    """Whether a specialist's description names what a request needs."""
    return specialist.description == EVERYTHING or task.kind in _good_at(specialist)


def verdict(task: RoutingTask, specialist: SimulatedSpecialist) -> str:
    """Return what the policy writes down of a specialist: the name at both ends, so that each step is a local one."""
    good_at = _good_at(specialist)
    marked = ", ".join(f"{kind} yes" if kind == task.kind else kind for kind in good_at)
    said = "able" if able(task, specialist) else "weak"
    return f'"{specialist.name}" {marked}: {said} {_price(specialist)} {_seconds(specialist)} "{specialist.name}"'


def least(task: RoutingTask, read: int) -> str:
    """Return who costs least, and who is quickest, among those who are able of the first that were read.

    It is written anew after each verdict, and the figure before its name, so that there are never more than two
    figures to compare.
    """
    fit = _fit(task, read)
    if not fit:
        return "least none"
    cheapest, quickest = _cheapest(fit), _quickest(fit)
    return f'least {_price(cheapest)} "{cheapest.name}", {_seconds(quickest)} "{quickest.name}"'


def reply(task: RoutingTask, draw: random.Random) -> dict[str, Any]:
    """Return a message that says what there is to know of each specialist and by what one is chosen, and calls it."""
    asked = task.team.specialists
    read = "; ".join(f"{verdict(task, one)}; {least(task, number)}" for number, one in enumerate(asked, 1))
    word = draw.choice(CHOICES)
    chosen = _chosen(word, task, draw)
    # "needs" puts a space before the kind, so that it is the same token as in the descriptions.
    said = f'needs {task.kind}; {read}; {levels(task)}; {word} "{chosen.name}"'
    return {**called(task, chosen.name, {"final": True}), "content": said}


def _chosen(word: str, task: RoutingTask, draw: random.Random) -> SimulatedSpecialist:
    fit = _fit(task, len(task.team.specialists))
    if word == "cheapest":
        return _cheapest(fit)
    return _quickest(fit) if word == "quickest" else draw.choice(task.team.specialists)


def _fit(task: RoutingTask, read: int) -> list[SimulatedSpecialist]:
    return [specialist for specialist in task.team.specialists[:read] if able(task, specialist)]


def _cheapest(fit: Sequence[SimulatedSpecialist]) -> SimulatedSpecialist:
    return min(fit, key=lambda one: one.price.input)


def _quickest(fit: Sequence[SimulatedSpecialist]) -> SimulatedSpecialist:
    return min(fit, key=lambda one: one.latency or 0.0)


def _good_at(specialist: SimulatedSpecialist) -> list[str]:
    return specialist.description.removeprefix("Good at ").removesuffix(".").split(", ")


def _price(specialist: SimulatedSpecialist) -> str:
    return f"${specialist.price.input:g}"


def _seconds(specialist: SimulatedSpecialist) -> str:
    return f"{specialist.latency or 0.0:g}s"


def reader_runs(draw: random.Random, number: int, requests: int) -> list[RoutingTask]:
    """Return requests of all kinds to one team, all with the same preferences and so with the same system prompt."""
    setting = draw.choice(list(SETTINGS))
    drawn = team(draw)
    return [replace(task, team=drawn) for task in tasks(requests, f"reader {number}", (setting,))]


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

    Raises:
        TrainingError: The working folder beside `out` holds what was drawn or trained with other settings.
    """
    work = out.with_name(f"{out.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    file = work / "runs.npz"
    drawn = content_hash([teams, requests, seed])
    if file.exists() and (not (work / DRAWN).exists() or (work / DRAWN).read_text() != drawn):
        raise TrainingError(f"{work} holds runs of other teams, requests or another seed; remove it to begin anew")
    (work / DRAWN).write_text(drawn)
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
    train(model, tokenizer, groups, drills, work, schedule, say)
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
