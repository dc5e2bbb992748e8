"""Questions to a model: side by side, within the cap, each answer checked, sent back for repair, and written down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from toolorch_integrations.completion import acomplete
from toolorch_integrations.entry import Specialist
from toolorch_integrations.errors import MissingVariableError, ToolorchError
from toolorch_integrations.prompt import Message, most_tokens
from toolorch_rl.fan_out import Outcome, Workers
from toolorch_rl.synthesis.by_model.answers import object_in
from toolorch_rl.synthesis.by_model.errors import SynthesisError
from toolorch_rl.synthesis.by_model.journal import WorkFolder, key_of
from toolorch_rl.synthesis.by_model.report import Dropped, Progress
from toolorch_rl.synthesis.by_model.settings import Settings
from toolorch_rl.synthesis.by_model.spending import Spending

MOST_FAILURES = 6
"""Calls that may fail one after the other, each after its retries, before the endpoint counts as gone."""

REPAIR = "That answer is not usable: {fault}. Reply with the whole corrected JSON object and nothing else."

Read = TypeVar("Read")


Entry = dict[str, Any]
"""What is written down of a call: `item`, `input_tokens`, `output_tokens`, `dollars`, and what came of it."""


@dataclass(frozen=True)
class Question(Generic[Read]):
    """Something that a model is asked for.

    Attributes:
        item: What it is about, as drops and errors name it.
        messages: The prompt.
        read: Makes something of the JSON object in the answer; raises a `ToolorchError` that says what is wrong.
    """

    item: str
    messages: tuple[Message, ...]
    read: Callable[[dict[str, Any]], Read]


@dataclass(frozen=True, slots=True)
class Call:
    """A call that may have been made already; it travels to the worker that makes it.

    Attributes:
        key: Under which its entry stands in the journal.
        item: What it is about.
        bound: The most that it can cost, in dollars.
        payload: What is needed to make it.
    """

    key: str
    item: str
    bound: float
    payload: Any


Sender = Callable[[Call], Awaitable[Entry]]


@dataclass
class Desk:
    """Where all calls of a run are made: knows what is written down, what is spent and what was dropped.

    Attributes:
        settings: What is asked for.
        work: The work folder.
        workers: Who makes the calls.
        spending: The bill.
        progress: Is told after each call.
        dropped: What was given up, with the reasons.
    """

    settings: Settings
    work: WorkFolder
    workers: Workers
    spending: Spending
    progress: Callable[[Progress], None] = lambda _: None
    dropped: list[Dropped] = field(default_factory=list)
    _counts: dict[str, list[int]] = field(default_factory=dict)
    _failures: int = 0

    def bill_earlier_runs(self, stages: Iterable[str]) -> None:
        """Put what the work folder holds on the bill."""
        for stage in stages:
            for entry in self.work.entries(stage):
                self.spending.add(stage, entry, reused=True)

    def ask(self, stage: str, questions: Sequence[Question[Read]]) -> list[Read | None]:
        """Ask all questions; return what was read of the answers in order, None for those that were dropped.

        Raises:
            SynthesisError: The endpoint is gone.
            MissingVariableError: Its key is not set.
        """
        found: list[Read | None] = [None] * len(questions)
        threads = {number: list(question.messages) for number, question in enumerate(questions)}
        for attempt in range(1 + self.settings.repairs):
            calls = {number: self._call(stage, questions[number].item, thread) for number, thread in threads.items()}
            entries = self.make(stage, calls.values(), send)
            for number, call in calls.items():
                entry = entries.get(call.key)
                if entry is None:  # dropped already
                    del threads[number]
                    continue
                try:
                    found[number] = questions[number].read(object_in(entry["text"]))
                    del threads[number]
                except ToolorchError as error:
                    fault = str(error).rstrip(".")
                    if attempt == self.settings.repairs:
                        self.drop(stage, call.item, f"not usable after {attempt} repairs: {fault}")
                    threads[number] += [
                        {"role": "assistant", "content": entry["text"]},
                        {"role": "user", "content": REPAIR.format(fault=fault)},
                    ]
        return found

    def make(
        self, stage: str, calls: Iterable[Call], function: Callable[[Call], Awaitable[dict[str, Any]]]
    ) -> dict[str, dict[str, Any]]:
        """Make the calls that are not written down yet; return the journal's entries by key.

        Calls that failed, or that the cap forbids, have no entry; they are dropped with the reason.

        Args:
            stage: Whose journal.
            calls: Each is made once, however often it is there.
            function: Makes a call and returns its entry: `input_tokens`, `output_tokens`, `dollars` and more.

        Raises:
            SynthesisError: Too many calls in a row have failed.
            MissingVariableError: The endpoint's key is not set.
        """
        journal = self.work.journal(stage)
        wanted = {call.key: call for call in calls}
        left = [call for key, call in wanted.items() if key not in journal.entries]
        self._tell(stage, len(wanted) - len(left), len(wanted))
        while left:
            sent: set[str] = set()
            for outcome in self.workers.fan_out(function, self._admitted(left, sent)):
                self.spending.release(outcome.item.key)
                if outcome.error is None:
                    self._failures = 0
                    entry = {"item": outcome.item.item, **outcome.result()}
                    journal.add(outcome.item.key, entry)
                    self.spending.add(stage, entry)
                else:
                    self._failed(stage, outcome)
                self._tell(stage, 1, 0)
            if not sent:  # nothing is under way, and the cap does not cover even one more call
                self.spending.exhausted = True
                for call in left:
                    self.drop(stage, call.item, f"the cap of ${self.spending.cap:g} leaves no money for it")
                self._tell(stage, len(left), 0)
                break
            left = [call for call in left if call.key not in sent]
        return {key: journal.entries[key] for key in wanted if key in journal.entries}

    def drop(self, stage: str, item: str, reason: str) -> None:
        """Take note that an item is given up."""
        self.dropped.append(Dropped(stage, item, reason))

    def _call(self, stage: str, item: str, messages: list[Message]) -> Call:
        author = self.settings.author
        model = author.endpoint.model if author.endpoint else ""
        key = key_of(stage, model, item, messages)
        return Call(key, item, author.upper_bound(most_tokens(messages)), (author, tuple(messages)))

    def _admitted(self, left: Sequence[Call], sent: set[str]) -> Iterator[Call]:
        for call in left:
            if not self.spending.admit(call.key, call.bound):
                return
            sent.add(call.key)
            yield call

    def _failed(self, stage: str, outcome: Outcome[Call, Any]) -> None:
        error = outcome.error
        if isinstance(error, MissingVariableError) or not isinstance(error, Exception):
            outcome.result()
        self.drop(stage, outcome.item.item, str(error) or type(error).__name__)
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            raise SynthesisError(
                f"{self._failures} calls in a row have failed, the last with: {error} What is finished is kept in "
                f"{self.work.path}: run again to go on."
            ) from error

    def _tell(self, stage: str, done: int, total: int) -> None:
        counts = self._counts.setdefault(stage, [0, 0])
        counts[0] += done
        counts[1] += total
        self.progress(Progress(stage, counts[0], counts[1], len(self.dropped), self.spending.dollars))


async def send(call: Call) -> Entry:
    """Ask a model's endpoint; return the entry for the journal.

    Raises:
        EndpointError: It gave no usable answer.
    """
    author: Specialist = call.payload[0]
    assert author.endpoint is not None
    reply = await acomplete(author.endpoint, call.payload[1], author.retries)
    return {
        "text": reply.text,
        "input_tokens": reply.input_tokens,
        "output_tokens": reply.output_tokens,
        "dollars": author.price.dollars(reply.input_tokens, reply.output_tokens),
    }
