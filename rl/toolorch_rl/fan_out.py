"""Work on many items at once: on an event loop, in threads, in processes, or on Ray workers, all the same way.

Invariant: each item comes back exactly once, with a value or with an error. An error that the function raises is a
value like any other; only a worker that died (killed, out of memory, lost node) has its items done again, and that a
bounded number of times. The function bounds its own time.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, Generic, Literal, Self, TypeVar, cast, get_args, overload

from toolorch_integrations.errors import ToolorchError
from toolorch_rl import pools

Backend = Literal["asyncio", "threads", "processes", "ray"]
"""Where the work is done. `asyncio` takes a coroutine function, `threads` and `processes` a plain one, `ray` either."""

BACKENDS: tuple[Backend, ...] = get_args(Backend)

RETRIES = 2
"""Further tries of an item whose worker died, unless said otherwise."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class FanOutError(ToolorchError, ValueError):
    """Work cannot be spread as asked; the message says what to change."""


class WorkerDiedError(ToolorchError):
    """The workers that an item was given to died, the last allowed time too."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Item, Result]):
    """What came of an item.

    Attributes:
        number: Place of the item among all, from 0.
        item: The item.
        value: What the function returned; None when it failed.
        error: What the function raised, or `WorkerDiedError`; None when it went well.
    """

    number: int
    item: Item
    value: Result | None = None
    error: BaseException | None = None

    def result(self) -> Result:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return cast(Result, self.value)


class Workers:
    """Workers that stay for several rounds of work: starting those of Ray takes seconds.

    Args:
        workers: Threads, processes or Ray actors; with `asyncio`, coroutines.
        backend: Where the work is done. `ray` joins the cluster that RAY_ADDRESS names (`auto`: the one on this
            machine), or else starts one of its own here until the workers are closed.
        at_once: Items that a Ray worker has at a time; all of them are done again when it dies. 1 elsewhere.
        cpus: Cores that a Ray worker claims; less than 1 for work that mostly waits.

    Raises:
        FanOutError: The arguments do not fit together, Ray is not installed, or its cluster has too few cores.

    Example:
        >>> with Workers(2) as workers:
        ...     sorted(outcome.result() for outcome in workers.fan_out(abs, [-1, 2, -3]))
        [1, 2, 3]
    """

    def __init__(self, workers: int = 4, backend: Backend = "threads", *, at_once: int = 1, cpus: float = 1.0) -> None:
        _check(workers, backend, at_once)
        self.backend = backend
        try:
            self._pool = pools.pool(backend, workers, at_once, cpus)
        except pools.PoolError as error:
            raise FanOutError(str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the workers go."""
        self._pool.close()

    @overload
    def fan_out(
        self, function: Callable[[Item], Awaitable[Result]], items: Iterable[Item], *, retries: int = ...
    ) -> Iterator[Outcome[Item, Result]]: ...

    @overload
    def fan_out(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, retries: int = ...
    ) -> Iterator[Outcome[Item, Result]]: ...

    def fan_out(
        self, function: Callable[[Item], Any], items: Iterable[Item], *, retries: int = RETRIES
    ) -> Iterator[Outcome[Item, Any]]:
        """Do as the function `fan_out`, one round at a time."""
        _check_function(function, self.backend)
        if retries < 0:
            raise FanOutError(f"retries is {retries}: it must be at least 0.")
        return _outcomes(self._pool, function, items, retries)


@overload
def fan_out(
    function: Callable[[Item], Awaitable[Result]],
    items: Iterable[Item],
    workers: int = ...,
    backend: Backend = ...,
    *,
    at_once: int = ...,
    retries: int = ...,
    cpus: float = ...,
) -> Iterator[Outcome[Item, Result]]: ...


@overload
def fan_out(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int = ...,
    backend: Backend = ...,
    *,
    at_once: int = ...,
    retries: int = ...,
    cpus: float = ...,
) -> Iterator[Outcome[Item, Result]]: ...


def fan_out(
    function: Callable[[Item], Any],
    items: Iterable[Item],
    workers: int = 4,
    backend: Backend = "threads",
    *,
    at_once: int = 1,
    retries: int = RETRIES,
    cpus: float = 1.0,
) -> Iterator[Outcome[Item, Any]]:
    """Work on items, `workers` times `at_once` of them side by side; give the outcomes as they come.

    Items are drawn from the iterable only as there is room for them: at no time are more than that many items begun and
    their outcomes not given yet. Closing the iterator drops what has not begun.

    Args:
        function: What is done with an item. For `processes` and `ray` it and the items travel to other processes.
        items: Any number of them.
        workers: See `Workers`, as for `backend`, `at_once` and `cpus`.
        backend: Where the work is done.
        at_once: Items that a Ray worker has at a time.
        retries: Further tries of an item whose worker died.
        cpus: Cores that a Ray worker claims.

    Raises:
        FanOutError: The arguments do not fit together, Ray is not installed, or its cluster has too few cores.

    Example:
        >>> sorted(outcome.result() for outcome in fan_out(abs, [-1, 2, -3], workers=2))
        [1, 2, 3]
    """
    _check(workers, backend, at_once)
    _check_function(function, backend)
    crew = Workers(workers, backend, at_once=at_once, cpus=cpus)
    try:
        outcomes = crew.fan_out(function, items, retries=retries)
    except FanOutError:
        crew.close()
        raise
    return _then_closed(crew, outcomes)


def _then_closed(crew: Workers, outcomes: Iterator[Outcome[Item, Any]]) -> Iterator[Outcome[Item, Any]]:
    with crew:
        yield from outcomes


@dataclass(slots=True)
class _Job(Generic[Item]):
    number: int
    item: Item
    attempts: int = 0


def _outcomes(
    pool: pools.Pool, function: Callable[[Item], Any], items: Iterable[Item], retries: int
) -> Iterator[Outcome[Item, Any]]:
    fresh = (_Job(number, item) for number, item in enumerate(items))
    again: deque[_Job[Item]] = deque()
    running: dict[Future[Any], _Job[Item]] = {}
    ended: deque[Outcome[Item, Any]] = deque()
    try:
        while True:
            while len(running) + len(ended) < pool.slots:  # what nobody has heard of yet counts as under way
                job = again.popleft() if again else next(fresh, None)
                if job is None:
                    break
                job.attempts += 1
                running[pool.submit(function, job.item)] = job
            if ended:
                yield ended.popleft()
                continue
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                died = pool.release(future)
                if died and job.attempts <= retries:
                    again.append(job)
                else:
                    ended.append(_outcome(job, future, died))
    finally:
        for future in running:
            pool.abandon(future)


def _outcome(job: _Job[Item], future: Future[Any], died: bool) -> Outcome[Item, Any]:
    error = future.exception()
    if error is None:
        return Outcome(job.number, job.item, future.result())
    if died:
        lost = WorkerDiedError(f"Item {job.number}: its worker died {job.attempts} times, at last: {error}")
        lost.__cause__ = error
        return Outcome(job.number, job.item, error=lost)
    if isinstance(error, KeyboardInterrupt):
        raise error
    return Outcome(job.number, job.item, error=pools.cause(error))


def _check(workers: int, backend: str, at_once: int) -> None:
    if backend not in BACKENDS:
        raise FanOutError(f"backend {backend!r} is none of {', '.join(BACKENDS)}.")
    for name, value in (("workers", workers), ("at_once", at_once)):
        if value < 1:
            raise FanOutError(f"{name} is {value}: it must be at least 1.")
    if at_once > 1 and backend != "ray":
        raise FanOutError("at_once is for the backend 'ray': give more `workers` instead.")


def _check_function(function: Callable[..., Any], backend: str) -> None:
    if backend != "ray" and pools.is_async(function) != (backend == "asyncio"):
        kind = "a coroutine function" if backend == "asyncio" else "a plain function, not a coroutine function"
        raise FanOutError(f"The backend {backend!r} needs {kind}.")
    if backend == "processes":
        try:
            pickle.dumps(function)
        except Exception as error:
            raise FanOutError(
                f"The function cannot travel to other processes ({error}): define it, and what it holds, at the top "
                "of a module."
            ) from error
