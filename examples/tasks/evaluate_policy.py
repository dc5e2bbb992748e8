"""How good the policy is on held-out tasks and held-out `select` prompts, with greedy decoding in process.

    python -m examples.tasks.evaluate_policy --count 600

Tasks are those that `split.toml` holds out. Their tools run on the real databases, the policy reads what both faces
would show it (the same system message, schemas and observations), and destructive calls are decided as the task says.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from examples.tasks.choices import Choice, choices, menu
from examples.tasks.corpus import test_tasks
from toolorch_integrations import observation
from toolorch_integrations.entry import Specialist
from toolorch_integrations.errors import UnknownEntryError
from toolorch_integrations.prompt import system_prompt
from toolorch_integrations.run import MAX_FAILED_TURNS
from toolorch_integrations.view import CatalogView
from toolorch_rl.conversation import Conversation, from_messages
from toolorch_rl.environments import Environment
from toolorch_rl.metrics import MeasuredRun, MetricTable, measure, wilson
from toolorch_rl.recipe.greedy import reply_to
from toolorch_rl.tasks import PATTERNS, Task, asks, solved
from toolorch_rl.verifiers.verdict import Verdict

HERE = Path(__file__).parent
_MOST_TURNS = 10
_MOST_TOKENS = 256
_METRICS = (
    "solved",
    "chain_completion",
    "dependency_accuracy",
    "parallel_recognition",
    "over_serialisation",
    "synthesis_quality",
)


@dataclass(slots=True)
class Attempt:
    """One task at work.

    Attributes:
        task: The task.
        messages: So far.
        answer: The last words, once there are some.
        turns: Turns so far.
        failed: Turns in a row that brought nothing but errors; as many as an orchestrator bears end the run.
        confirmed: Ids of the destructive calls that were made.
    """

    task: Task
    messages: list[dict[str, Any]] = field(default_factory=list)
    answer: str | None = None
    turns: int = 0
    failed: int = 0
    confirmed: list[str] = field(default_factory=list)
    view: CatalogView = field(init=False)
    schemas: list[dict[str, Any]] = field(init=False)
    _environment: Environment = field(init=False)
    _words: list[str] = field(init=False)

    def __post_init__(self) -> None:
        task = self.task
        self.view = task.full_catalog().view(task.catalog, task.request)
        self.schemas = self.view.schemas()
        self._environment = task.open()
        self._words = list(task.follow_ups)
        self.messages += [
            {"role": "system", "content": system_prompt(None, task.preferences, task.budget, self.view)},
            {"role": "user", "content": task.request},
        ]

    def take(self, message: dict[str, Any]) -> None:
        """Add a reply of the policy, make its calls, or let the user go on."""
        self.turns += 1
        calls = [
            {**call, "id": f"call_{self.turns}_{index}"} for index, call in enumerate(message.get("tool_calls") or ())
        ]
        self.messages.append({**message, "tool_calls": calls} if calls else message)
        results = [self._result(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls]
        self.failed = self.failed + 1 if calls and all(text.startswith("Error:") for text in results) else 0
        for call, text in zip(calls, results, strict=True):
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})
        if not calls:
            if self._words and asks(message["content"]):
                self.messages.append({"role": "user", "content": self._words.pop(0)})
            else:
                self.answer = message["content"]
        if self.answer is None and (self.turns >= _MOST_TURNS or self.failed >= MAX_FAILED_TURNS):
            self.answer = ""

    def verdict(self) -> Verdict:
        """Say whether the task is solved, now that the run has ended; the database is closed."""
        found = solved(self.task, self._environment.state(), self.answer or "")
        self._environment.close()
        return found

    def conversation(self) -> Conversation:
        """Return the run as metrics read it."""
        return from_messages(
            self.messages,
            name=self.task.id,
            tools=self.schemas,
            confirmed=self.confirmed,
            aliases=self.view.aliases,
        )

    def _result(self, call_id: str, alias: str, arguments: str) -> str:
        """Make one call; return its observation, in the orchestrator's words."""
        try:
            entry = self.view.resolve(alias)
        except UnknownEntryError:
            return observation.unknown(alias, self.view.names)
        given = json.loads(arguments)
        if not isinstance(given, dict):
            return observation.malformed(alias, "the arguments are not a JSON object")
        if entry.needs_confirmation:
            if not self.task.approval:
                return observation.refused(alias)
            self.confirmed.append(call_id)
        if isinstance(entry, Specialist):
            return observation.failed(alias, "EndpointError: it answered 500")
        try:
            return self._environment.call_text(entry.name, given)
        except Exception as error:  # the policy must see any failure of a tool
            return observation.failed(alias, error)


def attempt(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tasks: Sequence[Task],
    ended: Callable[[int], None] = lambda count: None,
) -> list[Attempt]:
    """Let the policy work on all tasks side by side.

    Args:
        model: The policy.
        tokenizer: Its tokenizer.
        tasks: The tasks.
        ended: Is told how many are still at work, turn by turn.
    """
    attempts = [Attempt(task) for task in tasks]
    while open_ := [item for item in attempts if item.answer is None]:
        ended(len(open_))
        replies = reply_to(model, tokenizer, [(item.messages, item.schemas) for item in open_], _MOST_TOKENS)
        for item, sampled in zip(open_, replies, strict=True):
            item.take(sampled.message)
    return attempts


def measured(attempts: Sequence[Attempt], verdicts: Sequence[Verdict]) -> MetricTable:
    """Return the metrics of ended attempts."""
    return measure(
        [
            MeasuredRun.of(item.task, item.conversation(), verdict.passed)
            for item, verdict in zip(attempts, verdicts, strict=True)
        ],
        _METRICS,
    )


def held_out_choices(count: int) -> list[tuple[list[dict[str, Any]], Choice]]:
    """Return so many `select` prompts that training never showed: the schemas of each, and the expert's choice."""
    held: list[tuple[list[dict[str, Any]], Choice]] = []
    while len(held) < count:
        draw = random.Random(f"test choices {len(held)}")
        offered = menu(draw)
        held += [(offered.tools(), step) for step in choices(draw, offered)]
    return held[:count]


def chosen(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, held: Sequence[tuple[list[dict[str, Any]], Choice]]
) -> dict[str, list[bool]]:
    """Return of each `select` prompt whether the policy's function, its model, and both are the expert's."""
    replies = reply_to(model, tokenizer, [(step.messages, tools) for tools, step in held])
    hits: dict[str, list[bool]] = defaultdict(list)
    for (_, step), sampled in zip(held, replies, strict=True):
        calls = sampled.message.get("tool_calls") or [{"function": {"name": "", "arguments": "{}"}}]
        function = calls[0]["function"]
        right = function["name"] == step.function
        same = function["arguments"] == json.dumps({"model": step.model})
        for name, hit in (("function", right), ("model", same), ("both", right and same)):
            hits[name].append(hit)
    return hits


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--policy", type=Path, default=HERE / "policy")
    parser.add_argument("--count", type=int, default=600, help="held-out tasks")
    parser.add_argument("--choices", type=int, default=300, help="held-out prompts of the select rendering")
    parser.add_argument("--misses", type=int, default=0, help="show so many runs that do not solve their task")
    parser.add_argument("--json", type=Path, help="write the metrics there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(soft_wrap=True, highlight=False)
    model, tokenizer = load(given.policy)
    attempts = attempt(model, tokenizer, test_tasks(given.count), lambda left: console.print(f"{left} at work"))
    verdicts = [item.verdict() for item in attempts]
    metrics = measured(attempts, verdicts)
    console.print(_table(f"{given.count} held-out tasks, greedy", metrics))
    hits = chosen(model, tokenizer, held_out_choices(given.choices))
    for name, found in hits.items():
        console.print(f"select, {name} as the expert: {wilson(sum(found), len(found)).text()}", markup=False)
    missed = [pair for pair in zip(attempts, verdicts, strict=True) if not pair[1].passed]
    for item, verdict in missed[: given.misses]:
        console.print(f"--- {item.task.id} ({item.task.template}): {verdict.reason}", markup=False)
        console.print("\n".join(_line(message) for message in item.messages[1:]), markup=False)
        console.print(f"expected: {[(c.name, c.arguments) for c in item.task.calls]} {item.task.answer}", markup=False)
    if given.json:
        given.json.write_text(metrics.to_json(), encoding="utf-8")


def load(folder: Path) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """Return a policy's model, in float32, and its tokenizer."""
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.train(False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return model, tokenizer


def _table(title: str, metrics: MetricTable) -> Table:
    table = Table(title=title)
    for column in ("", "tasks", *_METRICS):
        table.add_column(column.replace("_", " "), justify="left" if not column else "right")
    for group in ("all", *(f"pattern {name}" for name in PATTERNS)):
        row = metrics.groups.get(group)
        if row:
            cells = [row[name].text() if row[name].value is not None else "" for name in _METRICS]
            table.add_row(group.removeprefix("pattern "), str(row["solved"].count), *cells)
    return table


def _line(message: dict[str, Any]) -> str:
    calls = [f"{call['function']['name']}({call['function']['arguments']})" for call in message.get("tool_calls") or ()]
    return " ".join([f"{message['role']}:", str(message["content"]).strip(), *calls])


if __name__ == "__main__":
    main()
