"""`make evaluate`: how good the demo policy is on held-out enquiries, by kind, with greedy decoding in process.

    python -m examples.shop.evaluate_policy --count 220

Three figures a kind: enquiries solved (by the checker), runs in which every turn makes the calls that the scripted
expert would make in its place, arguments included, and turns that choose the same tools. The world is checked, too:
what the scripted expert solves and spends against the strongest specialist always.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from examples.shop import scripted
from examples.shop.enquiries import KINDS_OF_ENQUIRY, Enquiry, held_out, solved
from examples.shop.oracle import compare
from examples.shop.synthesis import World, default_world, perform, world
from toolorch_rl.recipe.greedy import Sampled, reply_to

_MOST_TURNS = 8


@dataclass(slots=True)
class Attempt:
    """One enquiry at work.

    Attributes:
        enquiry: What is asked.
        place: What the policy is told.
        messages: So far.
        answer: The answer, once there is one.
        chosen: Turns that chose the tools that the expert would choose.
        same: Turns that made the very same calls, or answered where the expert would.
        turns: Turns so far.
        drifted: Turns whose prompt did not extend what the policy had read and written.
    """

    enquiry: Enquiry
    place: World
    messages: list[dict[str, Any]] = field(default_factory=list)
    answer: str | None = None
    chosen: int = 0
    same: int = 0
    turns: int = 0
    drifted: int = 0
    seen: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.messages += [
            {"role": "system", "content": self.place.system},
            {"role": "user", "content": self.enquiry.text},
        ]

    def take(self, sampled: Sampled, trouble: float, draw: random.Random) -> None:
        """Add a reply, make its calls, and compare it with the expert's."""
        self.turns += 1
        self.drifted += sampled.prompt_ids[: len(self.seen)] != self.seen
        self.seen = sampled.prompt_ids + sampled.ids
        theirs, ours = scripted.expert(self.messages, self.place.schemas()), sampled.message
        self.chosen += _names(theirs) == _names(ours)
        self.same += _calls(theirs) == _calls(ours) and (bool(_calls(ours)) or theirs["content"] == ours["content"])
        self.messages.append(ours)
        if not ours.get("tool_calls"):
            self.answer = ours["content"]
            return
        for call in ours["tool_calls"]:
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            result = perform(self.place, self.messages, name, arguments, self.enquiry.shop)
            if draw.random() < trouble:
                result = f"Error: {name} failed: EndpointError: it answered 500. Try other arguments or another tool."
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
            if '"final": true' in arguments and not result.startswith("Error:"):
                self.answer = result
        if self.turns >= _MOST_TURNS and self.answer is None:
            self.answer = ""


def attempt(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    enquiries: Sequence[Enquiry],
    places: Sequence[World],
    trouble: float = 0.0,
) -> list[Attempt]:
    """Let the policy work on all enquiries side by side, each in its place; a share `trouble` of the calls fails."""
    draw = random.Random(0)
    attempts = [Attempt(enquiry, place) for enquiry, place in zip(enquiries, places, strict=True)]
    while open_ := [item for item in attempts if item.answer is None]:
        replies = reply_to(model, tokenizer, [(item.messages, item.place.schemas()) for item in open_])
        for item, sampled in zip(open_, replies, strict=True):
            item.take(sampled, trouble, draw)
    return attempts


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--policy", type=Path, default=Path(__file__).parent / "policy")
    parser.add_argument("--count", type=int, default=220, help="held-out enquiries")
    parser.add_argument("--misses", type=int, default=0, help="show so many runs that differ from the expert's")
    given = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(soft_wrap=True, highlight=False)
    model = Qwen3ForCausalLM.from_pretrained(given.policy, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(given.policy)
    enquiries = held_out(given.count)
    plain = attempt(model, tokenizer, enquiries, [default_world()] * given.count)
    console.print(_table(f"{given.count} held-out enquiries, greedy, the demo's own catalogue", plain))
    # Worlds from here on were never trained on: other prices, orders, entries denied, preferences and budgets.
    varied = attempt(
        model, tokenizer, enquiries, [world(900_000 + index) for index in range(given.count)], trouble=0.06
    )
    console.print(_table("the same in unseen views of the catalogue, 6 % of the calls failing", varied))
    console.print(f"prompts that do not extend the sampled ids: {sum(item.drifted for item in plain + varied)}")
    for item in [item for item in [*plain, *varied] if item.same < item.turns][: given.misses]:
        console.print(f"--- {item.enquiry.kind}; expected {item.enquiry.expected}", markup=False)
        console.print("\n".join(_line(message) for message in item.messages[1:]), markup=False)
        console.print(
            "tools:",
            *(f"{t['function']['name']}: {t['function']['description']}" for t in item.place.schemas()[2:]),
            markup=False,
        )
    console.print(compare(enquiries))


def _table(title: str, attempts: Sequence[Attempt]) -> Table:
    table = Table(title=title)
    for column in ("kind", "enquiries", "solved", "as the expert", "right tools, by turn"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    groups: dict[str, list[Attempt]] = defaultdict(list)
    for item in attempts:
        groups[item.enquiry.kind].append(item)
    for kind in (*KINDS_OF_ENQUIRY, "all"):
        part = list(attempts) if kind == "all" else groups[kind]
        if not part:
            continue
        count = Counter(
            solved=sum(solved(item.enquiry, item.answer or "") for item in part),
            same=sum(item.same == item.turns for item in part),
            chosen=sum(item.chosen for item in part),
            turns=sum(item.turns for item in part),
        )
        table.add_row(
            kind,
            str(len(part)),
            f"{count['solved'] / len(part):.1%}",
            f"{count['same'] / len(part):.1%}",
            f"{count['chosen'] / count['turns']:.1%}",
        )
    return table


def _calls(message: Mapping[str, Any]) -> list[tuple[str, Any]]:
    made = message.get("tool_calls") or ()
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in made]


def _names(message: Mapping[str, Any]) -> list[str]:
    return sorted(name for name, _ in _calls(message))


def _line(message: Mapping[str, Any]) -> str:
    made = " ".join(f"{name}({json.dumps(arguments)})" for name, arguments in _calls(message))
    return f"{message['role']}: {str(message['content']).strip()} {made}".strip()


if __name__ == "__main__":
    main()
