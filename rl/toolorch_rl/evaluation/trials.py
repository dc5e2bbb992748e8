"""Trying baselines on requests: each specialist is asked at most once a request, for all baselines together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from toolorch_integrations.entry import Specialist
from toolorch_integrations.errors import ToolorchError
from toolorch_integrations.steps import Steps, adrive, drive
from toolorch_rl.evaluation.arms import Arm
from toolorch_rl.evaluation.baselines import Attempt, Baseline, all_baselines, ranked
from toolorch_rl.evaluation.errors import EvaluationError
from toolorch_rl.evaluation.gather import gathered
from toolorch_rl.rewards.features import RunFeatures

Request = TypeVar("Request")
Brought = tuple[Any, float, float]
"""What asking a specialist brings: the answer, dollars and seconds."""


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
        key: Names a request: its runs, and the random choice for it.
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
            EvaluationError: A request has nobody to ask.
        """

        def one(request: Request) -> list[RunFeatures]:
            return drive(self._tried(request), lambda who: ask(who, request))

        if workers <= 1:
            return self._arms([one(request) for request in self.requests])
        with ThreadPoolExecutor(workers) as pool:
            return self._arms(list(pool.map(one, self.requests)))

    async def arun(self, ask: Callable[[Specialist, Request], Awaitable[Brought]], concurrency: int = 8) -> list[Arm]:
        """Do as `run` on the running event loop, so many requests at a time."""

        async def one(request: Request) -> list[RunFeatures]:
            return await adrive(self._tried(request), lambda who: ask(who, request))

        return self._arms(await gathered(one, self.requests, concurrency))

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
