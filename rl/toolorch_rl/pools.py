"""Where `fan_out` has its work done: each pool takes items and gives futures of `concurrent.futures`."""

from __future__ import annotations

import asyncio
import inspect
import math
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from typing import Any, Protocol

Function = Callable[[Any], Any]


class PoolError(Exception):
    """A pool cannot be set up; the message says what to change."""


class Pool(Protocol):
    """Workers that wait for items. Used by one thread."""

    slots: int
    """Items that may be under way at a time."""

    def submit(self, function: Function, item: Any) -> Future[Any]:
        """Begin with an item."""

    def release(self, future: Future[Any]) -> bool:
        """Take note that an item has ended, and say whether that was because its worker died."""

    def abandon(self, future: Future[Any]) -> None:
        """Give an item up that has not ended."""

    def close(self) -> None:
        """Let the workers go."""


def pool(backend: str, workers: int, at_once: int, cpus: float) -> Pool:
    """Return the pool of a backend.

    Raises:
        PoolError: It cannot be set up.
    """
    if backend == "ray":
        return RayPool(workers, at_once, cpus)
    kinds: dict[str, Callable[[int], Pool]]
    kinds = {"asyncio": LoopPool, "threads": ThreadPool, "processes": ProcessPool}
    return kinds[backend](workers)


class ThreadPool:
    """Threads of this process."""

    def __init__(self, workers: int) -> None:
        self.slots = workers
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="fan-out")

    def submit(self, function: Function, item: Any) -> Future[Any]:
        """Begin with an item."""
        return self._executor.submit(function, item)

    def release(self, future: Future[Any]) -> bool:
        """Say no: a thread does not die alone."""
        return False

    def abandon(self, future: Future[Any]) -> None:
        """Drop an item that has not begun; one that has goes on unheard."""
        future.cancel()

    def close(self) -> None:
        """Let the threads end; those at work finish their item unheard."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class LoopPool:
    """Coroutines on an event loop in a thread of its own, so that the caller may have a loop too.

    A process has one such loop: connections cannot move between loops, and those that stand are used again.
    """

    def __init__(self, workers: int) -> None:
        self.slots = workers
        self._loop = _loop()

    def submit(self, function: Function, item: Any) -> Future[Any]:
        """Begin with an item."""
        return asyncio.run_coroutine_threadsafe(function(item), self._loop)

    def release(self, future: Future[Any]) -> bool:
        """Say no: a coroutine does not die alone."""
        return False

    def abandon(self, future: Future[Any]) -> None:
        """Cancel the coroutine."""
        future.cancel()

    def close(self) -> None:
        """Leave the loop to others."""


class ProcessPool:
    """Processes of this machine. Each is an executor of its own: when one dies, it is known whose item it had."""

    def __init__(self, workers: int) -> None:
        self.slots = workers
        self._context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
        self._idle: list[ProcessPoolExecutor] = []
        self._busy: dict[Future[Any], ProcessPoolExecutor] = {}

    def submit(self, function: Function, item: Any) -> Future[Any]:
        """Begin with an item, in a process that is idle, or else a new one."""
        executor = self._idle.pop() if self._idle else ProcessPoolExecutor(1, self._context)
        future = executor.submit(function, item)
        self._busy[future] = executor
        return future

    def release(self, future: Future[Any]) -> bool:
        """Keep the item's process for the next one, unless it died."""
        executor = self._busy.pop(future)
        if isinstance(future.exception(), BrokenProcessPool):
            executor.shutdown(wait=False)
            return True
        self._idle.append(executor)
        return False

    def abandon(self, future: Future[Any]) -> None:
        """Let the item's process finish unheard, and end."""
        self._busy.pop(future).shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Let the processes end."""
        for executor in (*self._idle, *self._busy.values()):
            executor.shutdown(wait=False, cancel_futures=True)


class RayPool:
    """Actors of a Ray cluster.

    Raises:
        PoolError: Ray is not installed, its cluster cannot be joined, or has too few cores.
    """

    def __init__(self, workers: int, at_once: int, cpus: float) -> None:
        self.slots = workers * at_once
        self._ray, self._started = _joined(workers * cpus)
        self._load: dict[Any, int] = {}
        self._busy: dict[Future[Any], Any] = {}
        self._function: tuple[Any, Any] = (None, None)
        total = self._ray.cluster_resources().get("CPU", 0.0)
        if total < workers * cpus:  # or the actors that do not fit would be waited for without end
            self.close()
            raise PoolError(
                f"The Ray cluster has {total:g} cores, {workers} workers of {cpus:g} were asked for: ask for fewer."
            )
        self._actor = self._ray.remote(_Worker).options(max_concurrency=at_once, num_cpus=cpus)
        self._load = {self._actor.remote(): 0 for _ in range(workers)}

    def submit(self, function: Function, item: Any) -> Future[Any]:
        """Begin with an item, on the worker that has least to do."""
        if self._function[0] is not function:
            self._function = function, self._ray.put(function)  # it travels to each worker once
        worker = min(self._load, key=self._load.__getitem__)
        future: Future[Any] = worker.run.remote([self._function[1]], item).future()
        self._load[worker] += 1
        self._busy[future] = worker
        return future

    def release(self, future: Future[Any]) -> bool:
        """Take note that an item has ended; put a new worker in the place of one that died."""
        worker = self._busy.pop(future)
        died = isinstance(future.exception(), self._ray.exceptions.RayActorError)
        if worker in self._load:
            self._load[worker] -= 1
            if died:
                self._replace(worker)
        return died

    def abandon(self, future: Future[Any]) -> None:
        """Put a new worker in the place of the item's."""
        worker = self._busy.pop(future)
        if worker in self._load:
            self._replace(worker)

    def close(self) -> None:
        """Let the workers go, and the cluster if it was started for them."""
        for worker in self._load:
            self._ray.kill(worker)
        if self._started:
            self._ray.shutdown()

    def _replace(self, worker: Any) -> None:
        del self._load[worker]
        self._ray.kill(worker)  # one that is only out of reach must not go on
        self._load[self._actor.remote()] = 0


class _Worker:
    """An actor. What it holds of Ray is imported where it runs."""

    def __init__(self) -> None:
        self._key = ""
        self._function: Function | None = None

    async def run(self, reference: list[Any], item: Any) -> Any:
        """Work on an item; a plain function has a thread of its own."""
        if self._function is None or self._key != reference[0].hex():
            self._function, self._key = await reference[0], reference[0].hex()
        if is_async(self._function):
            return await self._function(item)
        return await asyncio.to_thread(self._function, item)


def is_async(function: Function) -> bool:
    """Say whether calling a function, or an object, gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def cause(error: BaseException) -> BaseException:
    """Return what the function itself raised, without Ray's wrapping."""
    inner = getattr(error, "cause", None) if type(error).__module__.startswith("ray.") else None
    return inner if isinstance(inner, BaseException) else error


def _joined(cpus: float) -> tuple[Any, bool]:
    """Return Ray, in a cluster, and whether the cluster is to be left when the work is done."""
    try:
        import ray
    except ImportError as error:
        raise PoolError('The backend "ray" needs Ray: pip install "toolorch-integrations[ray]".') from error
    if ray.is_initialized():
        return ray, False
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)  # workers import what this process can
        options |= {"address": "local", "num_cpus": max(math.ceil(cpus), 1), "include_dashboard": False}
        options["runtime_env"] = {"env_vars": {"PYTHONPATH": paths}}
    try:
        ray.init(**options)
    except Exception as error:
        raise PoolError(f"The Ray cluster {address or 'of this machine'!r} cannot be joined: {error}") from error
    return ray, True


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="fan-out", daemon=True).start()
    return loop


os.register_at_fork(after_in_child=_loop.cache_clear)  # threads do not survive a fork
