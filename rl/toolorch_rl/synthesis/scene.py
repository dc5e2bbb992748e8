"""A scene: a filled environment in which a template plays out its golden calls."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolorch_rl.environments import EntitySpec, Environment, FieldSpec, Scalar, State
from toolorch_rl.environments.rows import new_id
from toolorch_rl.environments.state import IdForm, Row
from toolorch_rl.synthesis.domains import Domain
from toolorch_rl.synthesis.phrasing import Phrasing
from toolorch_rl.synthesis.values import Values
from toolorch_rl.tasks import GoldenCall

_ID_FORMS: tuple[IdForm, ...] = ("prefix-number", "prefix_hex", "hex", "number")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


class UnfitError(Exception):
    """A template does not fit a scene; another is drawn."""


@dataclass(frozen=True)
class Outline:
    """What a template makes of a scene besides calls.

    Attributes:
        request: The user's words.
        answer: A right answer.
        must_say: What the answer must say; of each item one wording is enough.
        follow_ups: What the user says to the policy's questions.
    """

    request: str
    answer: str
    must_say: Sequence[tuple[str, ...]]
    follow_ups: tuple[str, ...] = ()


@dataclass
class Scene:
    """A filled environment, and the golden calls so far.

    Attributes:
        domain: Of the environment.
        environment: In the state after the calls so far.
        draw: Source of randomness.
        approval: What a person says to destructive calls.
        initial: The state at first.
        turns: The golden calls.
        results: Result by call id.
    """

    domain: Domain
    environment: Environment
    draw: random.Random
    approval: bool = True
    initial: State = field(init=False)
    turns: list[list[GoldenCall]] = field(default_factory=lambda: [[]])
    results: dict[str, Any] = field(default_factory=dict)
    asked_destructive: bool = False

    def __post_init__(self) -> None:
        self.values = Values(self.domain, self.draw)
        self.words = Phrasing(self.draw)
        self._labels: dict[str, set[frozenset[str]]] = {}
        self._ids: set[str] = set()
        self._sources: dict[str, str] = {}
        self.initial = self._filled()
        self.environment.restore(self.initial)

    # --- what is there ---

    def rows(self, entity: EntitySpec) -> dict[str, Row]:
        """Return the entries that were there at first."""
        return self.initial.rows[entity.name]

    def label(self, entity: EntitySpec, key: str) -> str:
        """Return the name of an entry that was there at first."""
        return str(self.rows(entity)[key][entity.label])

    def pick(self, entity: EntitySpec, fits: Callable[[Row], bool] = lambda row: True) -> str:
        """Return the id of an entry that was there at first.

        Raises:
            UnfitError: None fits.
        """
        keys = [key for key, row in self.rows(entity).items() if fits(row)]
        if not keys:
            raise UnfitError
        return self.draw.choice(keys)

    def filters(
        self, entity: EntitySpec, least: int, most: int, where: Mapping[str, Scalar] | None = None
    ) -> tuple[FieldSpec, str, list[str]]:
        """Return a choice field and value that so many entries have, and their ids in order.

        Args:
            entity: Of what.
            least: At least so many.
            most: At most so many.
            where: Values that they must also have.
        """
        rows = {
            key: row
            for key, row in self.rows(entity).items()
            if all(row.get(name) == value for name, value in (where or {}).items())
        }
        found = []
        for item in entity.fields:
            if item.type == "choice":
                for value in item.choices:
                    keys = sorted(key for key, row in rows.items() if row.get(item.name) == value)
                    if least <= len(keys) <= most:
                        found.append((item, value, keys))
        if not found:
            raise UnfitError
        return self.draw.choice(found)

    def chance(self, share: float) -> bool:
        """Return True so often."""
        return self.draw.random() < share

    def fields(self, entity: EntitySpec, *types: str) -> list[FieldSpec]:
        """Return the fields of some types, without the label."""
        return [item for item in entity.fields if item.type in types and item.name != entity.label]

    def known_field(self, entity: EntitySpec, key: str) -> FieldSpec:
        """Return a field that an entry has a value in, no reference and not the label."""
        row = self.rows(entity)[key]
        known = [f for f in self.fields(entity, "choice", "date", "integer", "number", "text") if f.name in row]
        if not known:
            raise UnfitError
        return self.draw.choice(known)

    def change(self, entity: EntitySpec, row: Row) -> tuple[FieldSpec, Scalar]:
        """Return a field, and a value that it does not have in a row."""
        item = self.draw.choice(self.fields(entity, "choice", "date", "integer"))
        return item, self.values.other(item, row.get(item.name))

    def fresh(
        self, entity: EntitySpec, share: float = 0.4, *, references: Mapping[str, Scalar] | None = None
    ) -> dict[str, Scalar]:
        """Return arguments for a new entry: a new name, the references, and each optional field so often."""
        given: dict[str, Scalar] = {entity.label: self._new_label(entity), **(references or {})}
        for item in entity.fields:
            if item.type == "reference" or item.name in given:
                continue
            if item.required or self.draw.random() < share:
                given[item.name] = self.values.of(item)
        return given

    # --- golden calls ---

    def call(self, name: str, /, **arguments: Any) -> Any:
        """Make a golden call in the present turn and return its result; None when a person refuses it."""
        call_id = "call_" + "".join(self.draw.choices(_LETTERS, k=8))
        call = GoldenCall.model_construct(id=call_id, name=name, arguments=arguments, sources={})
        for argument, value in arguments.items():
            if argument.endswith("_id") and value in self._sources:
                call.sources[argument] = self._sources[value]
        self.turns[-1].append(call)
        if self.environment.operations[name].destructive:
            self.asked_destructive = True
            if not self.approval:
                return None
        result = self.environment.call(name, arguments)
        self.results[call_id] = result
        return result

    def next_turn(self) -> None:
        """Begin another turn: what the calls so far have told can be used in it."""
        for call in self.turns[-1]:
            for path, value in ids_in(self.results.get(call.id)):
                self._sources.setdefault(value, f"{call.id}:{path}")
        self.turns.append([])

    def find(self, entity: EntitySpec, label: str) -> str:
        """Make a golden search for an entry by name, begin another turn, and return the entry's id.

        Raises:
            UnfitError: The name finds more than one.
        """
        found = self.call(f"search_{entity.plural}", query=label)[entity.plural]
        if len(found) != 1:
            raise UnfitError
        self.next_turn()
        return str(found[0]["id"])

    # --- the state at first ---

    def _filled(self) -> State:
        draw, family = self.draw, self.domain.family
        counts = {family.parent.name: (2, 4), family.child.name: (4, 7), family.grandchild.name: (1, 3)}
        state = State.model_construct(
            rows={}, links={}, id_form=draw.choice(_ID_FORMS), id_seed=draw.getrandbits(32), touched=[]
        )
        for entity in self.domain.order:
            rows: dict[str, Row] = {}
            state.rows[entity.name] = rows
            for _ in range(draw.randint(*counts.get(entity.name, (2, 3)))):
                row: Row = {}
                for item in entity.fields:
                    if item.type == "reference":
                        targets = list(state.rows.get(item.refers_to or "", ()))
                        if targets and (item.required or draw.random() < 0.5):
                            row[item.name] = draw.choice(targets)
                    elif item.name == entity.label:
                        row[item.name] = self._new_label(entity)
                    elif item.required or item.default is not None or draw.random() < 0.6:
                        row[item.name] = self.values.of(item)
                rows[self._new_id(state, entity)] = row
            state.rows[entity.name] = dict(sorted(rows.items()))
        for link in self.domain.schema.links:
            targets = list(state.rows[link.target])
            pairs = [(source, draw.choice(targets)) for source in state.rows[link.source] if draw.random() < 0.4]
            state.links[link.name] = pairs
        return state

    def _new_id(self, state: State, entity: EntitySpec) -> str:
        while True:
            key = new_id(state.id_form, entity.name, str(self.draw.random()))
            if key not in self._ids:
                self._ids.add(key)
                return key

    def _new_label(self, entity: EntitySpec) -> str:
        """Return a name none of whose words are all in another's: searches must find one entry."""
        taken = self._labels.setdefault(entity.name, set())
        label = entity.by_name[entity.label]
        for _ in range(50):
            text = self.values.text(label)
            words = frozenset(text.casefold().split())
            if not any(words <= other or other <= words for other in taken):
                taken.add(words)
                return text
        raise UnfitError


def ids_in(result: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Give path and value of all ids in a result."""
    if isinstance(result, dict):
        for name, value in result.items():
            here = f"{path}.{name}" if path else name
            if isinstance(value, str) and (name == "id" or name.endswith("_id")):
                yield here, value
            elif isinstance(value, dict | list):
                yield from ids_in(value, here)
    elif isinstance(result, list):
        for index, item in enumerate(result):
            here = f"{path}[{index}]"
            if isinstance(item, str):
                yield here, item
            else:
                yield from ids_in(item, here)
