"""Tasks as a model drafts them, and how a draft becomes a sound task: its calls are made, and all else is computed."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from toolorch_rl.conversation import from_messages
from toolorch_rl.environments import Environment, EnvironmentCallError, EnvironmentSchema, State, changes
from toolorch_rl.environments.checks import creation_order
from toolorch_rl.quality import check, rules_of
from toolorch_rl.replay import value_at, verify
from toolorch_rl.synthesis.by_model.errors import AnswerError
from toolorch_rl.synthesis.by_model.shapes import check_shape
from toolorch_rl.synthesis.conversation import conversation
from toolorch_rl.synthesis.make import spared
from toolorch_rl.synthesis.scene import ids_in
from toolorch_rl.synthesis.templates.common import NO, YES
from toolorch_rl.synthesis.world import world
from toolorch_rl.tasks import GoldenCall, Pattern, Task

_PLACEHOLDER = re.compile(r"\{\{\s*([\w-]+)\s*:\s*([^{}]+?)\s*\}\}")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


class CallDraft(BaseModel):
    """A call; `{{call:path}}` in an argument stands for a value of an earlier turn's result."""

    model_config = ConfigDict(extra="forbid")

    id: str
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Draft(BaseModel):
    """A task as a model writes it.

    Attributes:
        request: The user's words.
        turns: The right calls; those of a turn are made side by side.
        answer: A right answer; it may have placeholders, as may `must_say`.
        must_say: What the answer must say, each in one or more wordings.
        forbidden: Entity and id of entries that no call may change.
        approval: What the person says to destructive calls.
    """

    model_config = ConfigDict(extra="forbid")

    request: str = Field(min_length=1)
    turns: list[list[CallDraft]] = Field(min_length=1)
    answer: str = Field(min_length=1)
    must_say: list[list[str]] = Field(min_length=1)
    forbidden: list[tuple[str, str]] = Field(default_factory=list)
    approval: bool = True


@dataclass(frozen=True)
class Brief:
    """What a task is to be made of.

    Attributes:
        task_id: Its id; with the seed it decides all that is drawn.
        schema: Of the environment.
        state: Initial state.
        pattern: What it exercises.
        seed: Of the run.
        bound: Whether it must have that pattern; a harder version may have another.
    """

    task_id: str
    schema: EnvironmentSchema
    state: State
    pattern: Pattern
    seed: int
    bound: bool = True


def build(draft: Draft, brief: Brief) -> Task:
    """Make a sound task of a draft.

    Raises:
        ToolorchError: A call fails, doing nothing solves it, or it is no task for another reason; the message says
            which and why.
    """
    draw = random.Random(f"{brief.seed} {brief.task_id}")
    with Environment(brief.schema, state=brief.state) as environment:
        scene = _Played(draft, environment, draw)
        for turn in draft.turns:
            scene.turn(turn)
        state = environment.state()
        task = _task(draft, brief, scene, state, draw)
        verify(task, environment)
        _check_quality(task, environment)
    return task


@dataclass
class _Played:
    """The calls of a draft as they are made."""

    draft: Draft
    environment: Environment
    draw: random.Random
    golden: list[tuple[GoldenCall, ...]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    """By the draft's id of the call."""
    ids: dict[str, str] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)
    """Where ids stand in results of earlier turns."""
    asked: bool = False
    """Whether a call is destructive."""
    asked_of_results: bool = False
    """Whether such a call's arguments come from results."""

    def turn(self, calls: list[CallDraft]) -> None:
        """Make the calls of a turn."""
        if not calls:
            raise AnswerError("a turn has no calls: leave it out")
        made = [self._prepared(call) for call in calls]
        results = {}
        for drafted, call in zip(calls, made, strict=True):
            if drafted.id in self.ids:
                raise AnswerError(f"two calls have the id {drafted.id!r}")
            self.ids[drafted.id] = call.id
            results[drafted.id] = self._called(call)
        self.results |= results
        for drafted in calls:
            for path, value in ids_in(self.results[drafted.id]):
                self.known.setdefault(value, f"{self.ids[drafted.id]}:{path}")
        self.golden.append(tuple(made))

    def filled(self, text: str) -> str:
        """Return a text with the values that its placeholders stand for."""
        return _PLACEHOLDER.sub(lambda found: str(self._value(found)), text)

    def _prepared(self, drafted: CallDraft) -> GoldenCall:
        operation = self.environment.operations.get(drafted.name)
        if operation is None:
            raise AnswerError(f"call {drafted.id!r}: there is no tool {drafted.name!r}")
        references = {item.name for item in operation.arguments if item.type == "reference"}
        arguments: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for name, value in drafted.arguments.items():
            if value is None:
                continue
            found = _PLACEHOLDER.fullmatch(value.strip()) if isinstance(value, str) else None
            if found:
                value = self._value(found)
                sources[name] = f"{self.ids[found[1]]}:{found[2]}"
            elif isinstance(value, str):
                value = self.filled(value)
            arguments[name] = value
            if str(value) in self.draft.request:
                sources.pop(name, None)  # the request itself tells it
            elif name in references and name not in sources:
                sources[name] = self._source(drafted, name, str(value))
        call_id = "call_" + "".join(self.draw.choices(_LETTERS, k=8))
        return GoldenCall(id=call_id, name=drafted.name, arguments=arguments, sources=sources)

    def _source(self, drafted: CallDraft, name: str, value: str) -> str:
        """Return the place in an earlier result that an id comes from."""
        try:
            return self.known[value]
        except KeyError:
            raise AnswerError(
                f"call {drafted.id!r}: nobody can know that {name} is {value!r}: neither the request nor the result of "
                "an earlier turn says so; look it up first"
            ) from None

    def _called(self, call: GoldenCall) -> Any:
        operation = self.environment.operations[call.name]
        if operation.destructive:
            self.asked = True
            self.asked_of_results = self.asked_of_results or bool(call.sources)
            if not self.draft.approval:
                return None
        try:
            return self.environment.call(call.name, call.arguments)
        except EnvironmentCallError as error:
            given = json.dumps(call.arguments, ensure_ascii=False)
            raise AnswerError(f"the call {call.name}({given}) fails: {error}") from error

    def _value(self, found: re.Match[str]) -> Any:
        call, path = found.groups()
        if call not in self.results:
            raise AnswerError(f"{found[0]} names the call {call!r}, which no earlier turn has")
        try:
            return value_at(self.results[call], path)
        except KeyError:
            shown = json.dumps(self.results[call], ensure_ascii=False)[:200]
            raise AnswerError(f"{found[0]}: there is nothing at that path of the result {shown}") from None


def _task(draft: Draft, brief: Brief, scene: _Played, state: State, draw: random.Random) -> Task:
    names = [call.name for turn in scene.golden for call in turn]
    drawn = world(draw, list(scene.environment.operations), names, len(scene.golden))
    forbidden = _forbidden(draft, brief.state) or spared(draw, creation_order(brief.schema), brief.state, state.touched)
    pattern = check_shape(brief.pattern, scene.golden, brief.schema, bound=brief.bound)
    return Task(
        id=brief.task_id,
        domain=brief.schema.name,
        pattern=pattern,
        template="by_model",
        request=draft.request,
        follow_ups=(draw.choice(YES if draft.approval else NO),) if scene.asked_of_results else (),
        initial=brief.state,
        golden=tuple(scene.golden),
        answer=scene.filled(draft.answer),
        changes=changes(brief.state, state),
        must_say=tuple(tuple(scene.filled(wording) for wording in wordings) for wordings in draft.must_say if wordings),
        forbidden=forbidden,
        approval=draft.approval if scene.asked else None,
        preferences=drawn.preferences,
        budget=drawn.budget,
        catalog=drawn.catalog,
        specialists=drawn.specialists,
        price_table=drawn.price_table,
        environment=brief.schema,
    )


def _forbidden(draft: Draft, state: State) -> tuple[tuple[str, str], ...]:
    for entity, key in draft.forbidden:
        if key not in state.rows.get(entity, {}):
            raise AnswerError(f"forbidden: there is no {entity} {key!r}")
    return tuple(sorted({(entity, key) for entity, key in draft.forbidden}))


def _check_quality(task: Task, environment: Environment) -> None:
    """Check the task's golden conversation as any example for training is checked."""
    row: Mapping[str, Any] = conversation(task, environment)
    confirmed = [item["tool_call_id"] for item in row["confirmations"] if item["decision"] == "approve"]
    seen = from_messages(
        row["messages"],
        name=task.id,
        tools=json.loads(row["tools"]),
        confirmed=confirmed,
        aliases=task.full_catalog().view(task.catalog).aliases,
    )
    report = check(seen, **rules_of(task.schema_of_environment))
    if not report.passed:
        raise AnswerError(report.text())
