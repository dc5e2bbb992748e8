"""Where the ids in a call's arguments come from: what was said, an earlier result, or nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from toolorch_integrations.safety import READING_WORDS
from toolorch_rl.conversation import Conversation, Step, leaves

_ID = re.compile(r"(?:^|_)ids?$|(?<=[a-z0-9])Ids?$")
_GENERIC = frozenset({"data", "result", "results", "items", "records", "rows", "entries", "value", "values"})
_IRREGULAR = {"children": "child", "men": "man", "people": "person", "women": "woman"}
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")


@dataclass(frozen=True, slots=True)
class Source:
    """A place in a result that holds a value."""

    step: Step
    path: tuple[str | int, ...]
    """Keys and places from the result's root; empty where the result is a text."""

    @property
    def field(self) -> str:
        """The key that holds the value; of a list of values, the list's."""
        return next((key for key in reversed(self.path) if isinstance(key, str)), "")

    @property
    def entity(self) -> str:
        """What the value is the id of, as far as keys and the tool's name tell; empty where they do not."""
        key = self.field
        if not is_id(key):
            return ""
        stem = _stem(key)
        if stem:
            return stem
        above = [key for key in self.path[:-1] if isinstance(key, str) and key not in _GENERIC and not is_id(key)]
        return singular(above[-1]) if above else noun_of(self.step.name)


@dataclass(frozen=True, slots=True)
class IdArgument:
    """An id that a call was given, and where it may come from."""

    step: Step
    name: str
    value: Any
    entity: str
    """What it must be the id of; empty where the name does not tell."""
    given: bool
    """Whether somebody said it before the call."""
    earlier: tuple[Source, ...] = ()
    """Results of earlier turns that hold it."""
    siblings: tuple[Source, ...] = ()
    """Results of other calls of the same turn that hold it: the policy could not have read them."""


def is_id(name: str) -> bool:
    """Say whether a field or argument of this name holds an id, or ids."""
    return _ID.search(name) is not None


def noun_of(tool: str) -> str:
    """Return what a tool works on: `create_team_member` makes a `team_member`."""
    words = [word.lower() for word in _WORD.findall(tool)]
    return singular("_".join(words[1:]))


def is_reading(tool: str) -> bool:
    """Say whether a tool only looks, by its name."""
    words = [word.lower() for word in _WORD.findall(tool)]
    return bool(words) and words[0] in {*READING_WORDS, "lookup", "query", "view"}


def singular(noun: str) -> str:
    """Return a plural noun's singular, as far as its ending tells."""
    head, cut, last = noun.rpartition("_")
    if last in _IRREGULAR:
        return f"{head}{cut}{_IRREGULAR[last]}"
    if noun.endswith("ies") and len(noun) > 4:
        return noun[:-3] + "y"
    if noun.endswith(("sses", "xes", "ches", "shes")):
        return noun[:-2]
    return noun[:-1] if noun.endswith("s") and not noun.endswith("ss") else noun


def same_entity(one: str, other: str) -> bool:
    """Say whether two names stand for the same kind of thing: `parent_task` is a `task`, and `shelve` a `shelf`."""
    if not one or not other:
        return False
    return any(
        first == second or first.endswith(f"_{second}") or second.endswith(f"_{first}")
        for first in _forms(one)
        for second in _forms(other)
    )


def _forms(noun: str) -> tuple[str, ...]:
    return (noun, f"{noun[:-2]}f", f"{noun[:-2]}fe") if noun.endswith("ve") else (noun,)


@dataclass(frozen=True)
class Origins:
    """The id arguments of a conversation.

    Attributes:
        conversation: What is looked at.
        references: What an argument is the id of, where its name does not say: `{"assignee_id": "user"}`; a key may
            also be `tool.argument`.
    """

    conversation: Conversation
    references: Mapping[str, str] = field(default_factory=dict)

    def id_arguments(self) -> Iterator[IdArgument]:
        """Yield each id in each call's arguments."""
        held: dict[str, list[Source]] = {}
        texts: list[Source] = []
        for step in self.conversation.steps:
            if not step.ok:
                continue
            if isinstance(step.result, str):
                texts.append(Source(step, ()))
            for path, value in leaves(step.result):
                if path and not isinstance(value, bool):
                    held.setdefault(str(value), []).append(Source(step, path))
        for step in self.conversation.steps:
            for path, value in leaves(step.arguments):
                name = next((key for key in reversed(path) if isinstance(key, str)), "")
                if is_id(name) and not isinstance(value, bool) and str(value):
                    yield self._argument(step, name, value, held, texts)

    def _argument(
        self, step: Step, name: str, value: Any, held: Mapping[str, list[Source]], texts: list[Source]
    ) -> IdArgument:
        word = re.compile(rf"(?<![\w-]){re.escape(str(value))}(?![\w-])")
        sources = list(held.get(str(value), ()))
        sources += [source for source in texts if word.search(source.step.result)]
        return IdArgument(
            step,
            name,
            value,
            self.entity(step, name),
            any(turn <= step.turn and word.search(text) for turn, text in self.conversation.said),
            tuple(source for source in sources if source.step.turn < step.turn),
            tuple(source for source in sources if source.step.turn == step.turn and source.step is not step),
        )

    def entity(self, step: Step, name: str) -> str:
        """Return what an argument of a call is the id of; empty where it cannot be told."""
        declared = self.references.get(f"{step.name}.{name}") or self.references.get(name)
        return declared or _stem(name) or noun_of(step.name)

    def declared(self, step: Step, name: str) -> bool:
        """Say whether `references` names what an argument is the id of."""
        return f"{step.name}.{name}" in self.references or name in self.references


def _stem(name: str) -> str:
    stem = _ID.sub("", name)
    return singular("_".join(word.lower() for word in _WORD.findall(stem)))
