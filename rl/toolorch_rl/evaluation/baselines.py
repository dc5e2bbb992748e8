"""What a routing policy has to beat: fixed rules for who works on a request, tried on the same requests.

| baseline | who works |
|---|---|
| `always-strongest` | the dearest specialist, or whom the caller names |
| `always-cheapest` | the cheapest by its list price |
| `random` | one by chance |
| `cascade` | the cheapest first, then the next dearer one, until an answer is accepted; all tries are paid |
| `oracle` | the cheapest that solves the request; it looks at who does, and pays only that one |

Only the oracle knows whether an answer is right. A cascade goes by what can be checked without that: `answered` (there
is an answer, and it does not say that it does not know) or `agreeing` (two specialists say the same). Where nobody
solves a request the oracle takes the cheapest.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from toolorch_integrations.entry import Specialist
from toolorch_rl.evaluation.errors import EvaluationError

_TYPICAL_TOKENS = (750, 250)
"""Input and output tokens by which specialists are ranked by price."""
_UNKNOWING = re.compile(r"\b(?:(?:do|can|could) ?(?:not|n[o']t)|unable to|no) (?:know|answer|find|idea|say)\b", re.I)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a specialist made of a request."""

    specialist: str
    answer: Any
    """None: it gave none."""
    dollars: float
    seconds: float
    solved: bool | None = None
    """None: hidden from baselines that may not look."""
    error: str = ""


class Baseline(Protocol):
    """A rule that decides who works on a request next."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def looks(self) -> bool:
        """Whether it is shown which attempts solve the request."""
        ...

    def next(self, key: str, ranked: Sequence[Specialist], tried: Sequence[Attempt]) -> Specialist | None:
        """Return who is asked next, or None when nobody is.

        Args:
            key: Names the request.
            ranked: The specialists, cheapest first.
            tried: Attempts so far.
        """
        ...

    def charged(self, tried: Sequence[Attempt]) -> Sequence[Attempt]:
        """Return the attempts that are paid; the last one's answer is the run's."""
        ...


class _Honest:
    looks: ClassVar[bool] = False

    def charged(self, tried: Sequence[Attempt]) -> Sequence[Attempt]:
        return tried


@dataclass(frozen=True, slots=True)
class AlwaysStrongest(_Honest):
    """The dearest specialist, or `strongest` where the caller knows better."""

    strongest: str | None = None
    name: str = "always-strongest"

    def next(self, key: str, ranked: Sequence[Specialist], tried: Sequence[Attempt]) -> Specialist | None:
        """Return the strongest, once."""
        if tried:
            return None
        return next((item for item in ranked if item.name == self.strongest), ranked[-1])


@dataclass(frozen=True, slots=True)
class AlwaysCheapest(_Honest):
    """The specialist with the lowest list price."""

    name: str = "always-cheapest"

    def next(self, key: str, ranked: Sequence[Specialist], tried: Sequence[Attempt]) -> Specialist | None:
        """Return the cheapest, once."""
        return None if tried else ranked[0]


@dataclass(frozen=True, slots=True)
class RandomChoice(_Honest):
    """A specialist by chance, the same each time for a request and seed."""

    seed: int = 0
    name: str = "random"

    def next(self, key: str, ranked: Sequence[Specialist], tried: Sequence[Attempt]) -> Specialist | None:
        """Return one by chance, once."""
        return None if tried else random.Random(f"{self.seed} {key}").choice(ranked)


Accept = Callable[[Sequence[Attempt]], bool]
"""Says whether a cascade may end with the newest attempt. It never sees whether that is right."""


def answered(tried: Sequence[Attempt]) -> bool:
    """Say whether the newest answer is one: not empty, and not words for not knowing."""
    answer = tried[-1].answer
    if not isinstance(answer, str):
        return answer is not None
    return bool(answer.strip()) and _UNKNOWING.search(answer) is None


def agreeing(same: Callable[[Any, Any], bool]) -> Accept:
    """Accept the newest answer when it is the same as an earlier one."""

    def accept(tried: Sequence[Attempt]) -> bool:
        return answered(tried) and any(answered([item]) and same(item.answer, tried[-1].answer) for item in tried[:-1])

    return accept


@dataclass(frozen=True, slots=True)
class Cascade(_Honest):
    """The cheapest first, then the next dearer one, until `accept` takes an answer."""

    accept: Accept = answered
    name: str = "cascade"

    def next(self, key: str, ranked: Sequence[Specialist], tried: Sequence[Attempt]) -> Specialist | None:
        """Return the next dearer one, unless the newest answer is accepted."""
        if len(tried) == len(ranked) or (tried and self.accept(tried)):
            return None
        return ranked[len(tried)]


@dataclass(frozen=True, slots=True)
class Oracle:
    """The cheapest specialist that solves the request, by looking."""

    name: str = "oracle"
    looks: ClassVar[bool] = True

    def next(self, key: str, ranked: Sequence[Specialist], tried: Sequence[Attempt]) -> Specialist | None:
        """Return everyone in turn: what an answer costs is known only afterwards."""
        return ranked[len(tried)] if len(tried) < len(ranked) else None

    def charged(self, tried: Sequence[Attempt]) -> Sequence[Attempt]:
        """Return the cheapest attempt that solves the request, or the cheapest of all."""
        return [min(tried, key=lambda item: (not item.solved, item.dollars))]


def all_baselines(accept: Accept = answered, strongest: str | None = None, seed: int = 0) -> list[Baseline]:
    """Return the five baselines, the oracle last."""
    return [AlwaysStrongest(strongest), AlwaysCheapest(), RandomChoice(seed), Cascade(accept), Oracle()]


def chosen_baselines(names: Iterable[str], **settings: Any) -> list[Baseline]:
    """Return baselines by name.

    Args:
        names: Of the baselines.
        settings: Those of `all_baselines`.

    Raises:
        EvaluationError: There is no such baseline.
    """
    known = {item.name: item for item in all_baselines(**settings)}
    for name in names:
        if name not in known:
            raise EvaluationError(f"there is no baseline {name!r}; choose among {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def ranked(specialists: Iterable[Specialist]) -> list[Specialist]:
    """Return specialists in the order of their list prices, cheapest first; ties stand in the order of their names."""
    return sorted(specialists, key=lambda item: (item.price.dollars(*_TYPICAL_TOKENS), item.name))
