"""How much of what the policy of `redrawn_policy.py` writes down is right, on teams that it has never seen.

    python -m examples.routing.redrawn_reading FOLDER [--tasks 80]

It answers greedily; each part of each verdict is compared with what the catalogue says. A verdict whose name is wrong
has no right part. Of each request, it is also seen whether those who cost least and are quickest are named rightly, and
whether it calls whom it has said it would.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.routing.base_policy import chat_prompt
from examples.routing.redrawn import redrawn_tasks
from examples.routing.redrawn_policy import CHOICES, least, verdict
from examples.routing.requests import SETTINGS

PARTS = ("name", "who fits", "price", "seconds")
LEAST = ("who costs least", "who is quickest")
CALLED = "calls whom its choice says"
_VERDICT = re.compile(r'"([\w-]+)" [^":]*: (able|weak) \$([\d.]+) ([\d.]+)s')
_LEAST = re.compile(r'least \$[\d.]+ "([\w-]+)", [\d.]+s "([\w-]+)"')
_CALLED = re.compile(rf'; ({"|".join(CHOICES)}) "([\w-]+)".*"name": "([\w-]+)"', re.DOTALL)


def parts_of(said: str) -> list[tuple[str, ...]]:
    """Return the parts of each verdict in a text."""
    return [match.groups() for match in _VERDICT.finditer(said)]


def consistent(said: str) -> bool:
    """Whether a text calls the one that its choice names: whom it named cheapest or quickest, if it says so."""
    called, least_of = _CALLED.search(said), _LEAST.findall(said)
    if not called or not least_of:
        return False
    word, chosen, name = called.groups()
    meant = dict(zip(CHOICES, least_of[-1], strict=False)).get(word, chosen)
    return name == chosen == meant


def right(folder: Path, count: int) -> tuple[Counter[str], int]:
    """Return how often each part of a verdict, and each choice, is right, and how many verdicts there are."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = loaded.eval()
    found: Counter[str] = Counter()
    verdicts = 0
    for task in redrawn_tasks(count, "reading", list(SETTINGS), unseen=True):
        messages, tools = chat_prompt(task)
        rendered = tokenizer.apply_chat_template(
            messages, tools=tools, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            ids = model.generate(**rendered, max_new_tokens=400, do_sample=False)[0, rendered["input_ids"].shape[1] :]
        text = tokenizer.decode(ids)
        said = {name: rest for name, *rest in parts_of(text)}
        (expected,), named = _LEAST.findall(least(task, len(task.team.specialists))), _LEAST.findall(text)
        if named:
            found.update(part for part, a, b in zip(LEAST, expected, named[-1], strict=True) if a == b)
        found[CALLED] += consistent(text)
        for specialist in task.team.specialists:
            ((name, *facts),) = parts_of(verdict(task, specialist))
            verdicts += 1
            if name in said:
                found["name"] += 1
                found.update(part for part, a, b in zip(PARTS[1:], facts, said[name], strict=True) if a == b)
    return found, verdicts


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", type=int, default=80)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found, verdicts = right(given.folder, given.tasks)
    for part in PARTS:
        print(f"{part}: {found[part]} of {verdicts} right, {found[part] / verdicts:.1%}")
    for part in (*LEAST, CALLED):
        print(f"{part}: {found[part]} of {given.tasks} right, {found[part] / given.tasks:.1%}")


if __name__ == "__main__":
    main()
