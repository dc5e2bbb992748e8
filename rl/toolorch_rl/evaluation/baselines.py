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
solves a request the oracle takes the cheapest. Each specialist is asked at most once a request, for all baselines
together.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from toolorch_integrations.entry import Specialist
from toolorch_integrations.errors import ToolorchError
from toolorch_integrations.steps import Steps, adrive, drive
from toolorch_rl.evaluation.arms import Arm
from toolorch_rl.evaluation.errors import EvaluationError
from toolorch_rl.rewards.features import RunFeatures

Request = TypeVar("Request")
Brought = tuple[Any, float, float]
"""What asking a specialist brings: the answer, dollars and seconds."""

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


@dataclass(frozen=True)
class Trials(Generic[Request]):
    """Requests with the means to try specialists on them.

    Example:
        >>> from toolorch_integrations import Price
        >>> small, large = Specialist(name="small", price=Price(call=1)), Specialist(name="large", price=Price(call=9))
        >>> trials = Trials(["2 + 2", "7 * 8"], [small, large], str.__eq__)
        >>> def ask(who, request):
        ...     return request if who is large or request == "2 + 2" else "?", who.price.call, 0.1
        >>> [(arm.name, arm.solved.value, arm.dollars.value) for arm in trials.run(ask)][::4]
        [('always-strongest', 1.0, 9.0), ('oracle', 1.0, 5.0)]

    Attributes:
        requests: What is asked.
        specialists: Whom it may be asked: the same for all requests, or a function of the request where each has a
            catalogue of its own.
        solved: Says of a request and an answer whether it is right.
        baselines: Which to try.
        key: Names a request; names must differ.
    """

    requests: Sequence[Request]
    specialists: Sequence[Specialist] | Callable[[Request], Sequence[Specialist]]
    solved: Callable[[Request, Any], bool]
    baselines: Sequence[Baseline] = field(default_factory=all_baselines)
    key: Callable[[Request], str] = str

    def run(self, ask: Callable[[Specialist, Request], Brought], workers: int = 1) -> list[Arm]:
        """Try all baselines on all requests.

        Args:
            ask: Asks a specialist. A `ToolorchError` that it raises is an attempt without an answer and without costs.
            workers: Requests at a time, in threads.

        Returns:
            An arm for each baseline.

        Raises:
            EvaluationError: A request has nobody to ask, or two have the same name.
        """

        def one(request: Request) -> list[RunFeatures]:
            return drive(self._tried(request), lambda who: ask(who, request))

        self._check()
        if workers <= 1:
            return self._arms([one(request) for request in self.requests])
        with ThreadPoolExecutor(workers) as pool:
            return self._arms(list(pool.map(one, self.requests)))

    async def arun(self, ask: Callable[[Specialist, Request], Awaitable[Brought]], concurrency: int = 8) -> list[Arm]:
        """Do as `run` on the running event loop, so many requests at a time."""
        self._check()
        gate = asyncio.Semaphore(concurrency)

        async def one(request: Request) -> list[RunFeatures]:
            async with gate:
                return await adrive(self._tried(request), lambda who: ask(who, request))

        return self._arms(await asyncio.gather(*(one(request) for request in self.requests)))

    def _check(self) -> None:
        names = Counter(self.key(request) for request in self.requests)
        twice = next((name for name, count in names.items() if count > 1), None)
        if twice is not None:
            raise EvaluationError(f"two requests are named {twice!r}: give `key` a function that tells them apart")

    def _tried(self, request: Request) -> Steps[list[RunFeatures]]:
        """Yield whom to ask, each once; return a run for each baseline."""
        key = self.key(request)
        roster = ranked(self.specialists(request) if callable(self.specialists) else self.specialists)
        if not roster:
            raise EvaluationError(f"request {key!r} has no specialists: baselines need at least one")
        known: dict[str, Attempt] = {}
        runs = []
        for baseline in self.baselines:
            tried: list[Attempt] = []
            while (who := baseline.next(key, roster, tried)) is not None:
                if who.name not in known:
                    try:
                        answer, dollars, seconds = yield who
                        right = answer is not None and bool(self.solved(request, answer))
                        known[who.name] = Attempt(who.name, answer, dollars, seconds, right)
                    except ToolorchError as error:
                        known[who.name] = Attempt(who.name, None, 0.0, 0.0, False, str(error))
                attempt = known[who.name]
                tried.append(attempt if baseline.looks else replace(attempt, solved=None))
            charged = baseline.charged(tried)
            runs.append(
                RunFeatures(
                    run=key,
                    calls=dict(Counter(item.specialist for item in charged)),
                    solved=bool(known[charged[-1].specialist].solved),
                    dollars=sum(item.dollars for item in charged),
                    seconds=sum(item.seconds for item in charged),
                )
            )
        return runs

    def _arms(self, runs: Sequence[Sequence[RunFeatures]]) -> list[Arm]:
        return [Arm(baseline.name, tuple(row[place] for row in runs)) for place, baseline in enumerate(self.baselines)]
