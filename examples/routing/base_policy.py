"""The policy that learns: a small model taught to read a request and to write a call, and nothing about specialists.

    python -m examples.routing.base_policy --out .toolorch/routing/base

Its supervised runs hand each request to a specialist drawn at random, in the `chat` and in the `select` rendering. In
front of the call it writes down what it has read: the kind of the request, and how much cost and time matter. So the
choice that it has to learn by experience hangs on a few words next to it.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from examples.routing.app import BUDGET
from examples.routing.requests import SETTINGS, RoutingTask, tasks
from examples.routing.specialists import SPECIALISTS
from toolorch_integrations.prompt import system_prompt
from toolorch_integrations.select import ANSWER, choices_of, function_schema, step_messages
from toolorch_rl.recipe.drills import copying_drill
from toolorch_rl.recipe.model import save_policy, small_model
from toolorch_rl.recipe.rows import Group, render
from toolorch_rl.recipe.sft import Schedule, train
from toolorch_rl.recipe.tokenizer import train_tokenizer

Prompt = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""Messages and tool schemas."""


def chat_prompt(task: RoutingTask) -> Prompt:
    """Return what the policy is asked in the `chat` rendering, as the app asks it."""
    view = task.team.catalog().view()
    system = system_prompt(None, task.preferences, BUDGET, view)
    messages = [{"role": "system", "content": system}, {"role": "user", "content": task.request}]
    return messages, view.schemas()


def select_prompt(task: RoutingTask) -> Prompt:
    """Return what the policy is asked in the `select` rendering, as the app asks it."""
    problem = "\n\n".join(part for part in (task.request, task.preferences.sentence()) if part)
    return step_messages(problem, ""), [function_schema(ANSWER, choices_of(task.team.catalog().view())[ANSWER])]


def reading(task: RoutingTask) -> str:
    """Return what the policy writes down of a request before it calls."""
    return f"{task.kind}: {levels(task)}"


def levels(task: RoutingTask) -> str:
    """Return how much cost and time matter to the caller."""
    cost, time = (_LEVELS[round(3 * weight)] for weight in (task.preferences.cost, task.preferences.latency))
    return f"cost {cost}, time {time}"


_LEVELS = ("none", "little", "much", "most")


def called(task: RoutingTask, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the message that makes a call."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    calls = [{"id": "1", "type": "function", "function": function}]
    return {"role": "assistant", "content": reading(task), "tool_calls": calls}


def random_runs(
    rendering: str, shown: Sequence[RoutingTask], draw: random.Random
) -> Iterator[tuple[Prompt, dict[str, Any]]]:
    """Give each task a call of a specialist drawn at random."""
    for task in shown:
        name = draw.choice(SPECIALISTS).name
        if rendering == "chat":
            yield chat_prompt(task), called(task, name, {"final": True})
        else:
            yield select_prompt(task), called(task, ANSWER, {"model": name})


def make(
    out: Path,
    *,
    runs: int = 6000,
    steps: int = 500,
    hidden: int = 128,
    layers: int = 4,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Path:
    """Make the policy and save it to `out`; about three minutes on a processor core.

    Args:
        out: Folder for model and tokenizer.
        runs: Supervised runs, half of them in each rendering.
        steps: Optimiser steps.
        hidden: Width of the model.
        layers: Its depth.
        seed: Of weights and runs.
        say: Gets progress lines.
    """
    draw = random.Random(f"base {seed}")
    shown = tasks(runs // 2, f"base {seed}", list(SETTINGS))
    made = {rendering: list(random_runs(rendering, shown, draw)) for rendering in ("chat", "select")}
    tokenizer = train_tokenizer(_texts(made["chat"] + made["select"]), vocabulary=2560, length=2048)
    groups = [group for name in made for group in _groups(tokenizer, made[name])]
    model = small_model(tokenizer, hidden=hidden, layers=layers, length=2048, seed=seed)
    say(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(tokenizer)} tokens")
    drills = [copying_drill(tokenizer, 48, number) for number in range(50)]
    schedule = Schedule(steps=steps, batch=48, drill_steps=30, short_steps=0, seed=seed, bf16=False)
    train(model, tokenizer, groups, drills, out.with_name(f"{out.name}.work"), schedule, say)
    save_policy(model, tokenizer, out)
    return out


def _groups(tokenizer: PreTrainedTokenizerFast, runs: Sequence[tuple[Prompt, dict[str, Any]]]) -> list[Group]:
    """Return runs as rows, together with those that share their system prompt."""
    rows: dict[bytes, list[Any]] = {}
    prefixes = {}
    for (messages, tools), call in runs:
        prefix, row = render(tokenizer, [*messages, call], [False, False, True], tools)
        prefixes[prefix.tobytes()] = prefix
        rows.setdefault(prefix.tobytes(), []).append(row)
    return [Group(prefixes[key], tuple(part)) for key, part in rows.items()]


def _texts(runs: Sequence[tuple[Prompt, dict[str, Any]]]) -> Iterator[str]:
    """Write runs roughly as the chat template will, which needs the tokenizer first."""
    for (messages, tools), call in runs:
        said = "\n".join(f"{message['role']}\n{message['content']}" for message in messages)
        listed = "\n".join(
            f"{tool['function']['name']}(task, final): {tool['function']['description']}" for tool in tools
        )
        function = call["tool_calls"][0]["function"]
        written = f'\n{{"name": "{function["name"]}", "arguments": {function["arguments"]}}}\n'
        yield f"{said}\n{listed}\nassistant\n{call['content']}\n<tool_call>{written}"


def main() -> None:
    """Make the policy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(".toolorch/routing/base"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    make(given.out, steps=given.steps, seed=given.seed)


if __name__ == "__main__":
    main()
