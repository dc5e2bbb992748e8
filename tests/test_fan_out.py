"""Work on many items at once: every item once, failures as values, workers that die."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from toolorch_rl.fan_out import BACKENDS, FanOutError, WorkerDiedError, fan_out


def double(number: int) -> int:
    """Double a number; refuse 3."""
    if number == 3:
        raise ValueError("no threes")
    return number * 2


async def double_later(number: int) -> int:
    await asyncio.sleep(0)
    return double(number)


def killed_once(folder: Path, number: int) -> int:
    """Die at the first try of 2, and at every try of 5."""
    mark = folder / f"{number}-{len(list(folder.glob(f'{number}-*')))}"
    mark.touch()
    if number == 5 or (number == 2 and mark.name == "2-0"):
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def process_of(_: int) -> int:
    return os.getpid()


def results(outcomes: Any) -> dict[int, Any]:
    return {outcome.number: outcome.error or outcome.value for outcome in outcomes}


@pytest.mark.parametrize("backend", ["asyncio", "threads", "processes"])
def test_every_item_comes_back_once_and_failures_are_values(backend: Any) -> None:
    function: Any = double_later if backend == "asyncio" else double
    found = results(fan_out(function, range(7), workers=3, backend=backend))
    assert isinstance(found[3], ValueError)
    assert {number: value for number, value in found.items() if number != 3} == {0: 0, 1: 2, 2: 4, 4: 8, 5: 10, 6: 12}


def test_no_more_than_the_workers_are_at_work_and_items_are_drawn_as_there_is_room() -> None:
    gate, drawn = threading.Semaphore(0), []

    def items() -> Any:
        for number in range(6):
            drawn.append(number)
            yield number

    def wait(number: int) -> int:
        gate.acquire()
        return number

    outcomes = fan_out(wait, items(), workers=2)
    gate.release()
    next(outcomes)
    assert drawn == [0, 1]
    gate.release()
    next(outcomes)
    assert drawn == [0, 1, 2]
    for _ in range(4):
        gate.release()
    assert len(list(outcomes)) == 4


def test_closing_early_begins_nothing_more() -> None:
    done: list[int] = []
    outcomes = fan_out(done.append, range(1000), workers=2)
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert len(done) < 10


def test_coroutines_are_cancelled_when_the_iterator_is_closed() -> None:
    cancelled = threading.Event()

    async def work(number: int) -> int:
        if number:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled.set()
                raise
        return number

    outcomes = fan_out(work, range(2), workers=2, backend="asyncio")
    assert next(outcomes).result() == 0
    outcomes.close()  # type: ignore[attr-defined]
    assert cancelled.wait(30)


def test_an_error_of_the_items_themselves_comes_through() -> None:
    def items() -> Any:
        yield 1
        raise RuntimeError("the file ended")

    with pytest.raises(RuntimeError, match="the file ended"):
        list(fan_out(double, items()))


def test_a_process_that_dies_has_its_item_done_again_a_bounded_number_of_times(tmp_path: Path) -> None:
    found = results(fan_out(functools.partial(killed_once, tmp_path), range(6), 2, "processes", retries=1))
    assert [found[number] for number in range(5)] == [0, 1, 2, 3, 4]
    assert isinstance(found[5], WorkerDiedError)
    assert "died 2 times" in str(found[5])
    assert len(list(tmp_path.glob("5-*"))) == 2
    assert len(list(tmp_path.glob("0-*"))) == 1  # others are not paid for again


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"backend": "carrier"}, "'carrier' is none of asyncio, threads, processes, ray"),
        ({"workers": 0}, "workers is 0: it must be at least 1"),
        ({"retries": -1}, "retries is -1"),
        ({"at_once": 2}, "give more `workers` instead"),
        ({"backend": "asyncio"}, "needs a coroutine function"),
    ],
)
def test_arguments_that_do_not_fit_say_so(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(FanOutError, match=says):
        fan_out(double, [1], **arguments)


def test_a_function_that_cannot_travel_says_so() -> None:
    with pytest.raises(FanOutError, match="at the top of a module"):
        fan_out(lambda number: number, [1], backend="processes")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(FanOutError, match=r"toolorch-integrations\[ray\]"):
        fan_out(double, [1], backend="ray")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_on_ray_workers(tmp_path: Path) -> None:
    """Two workers of a cluster of our own: plain and coroutine functions, failures, deaths, too few cores."""
    import ray

    paths = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=paths)
    try:
        found = results(fan_out(double, range(5), 2, "ray"))
        assert isinstance(found[3], ValueError)
        assert [found[number] for number in (0, 1, 2, 4)] == [0, 2, 4, 8]
        found = results(fan_out(double_later, range(3), 1, "ray", at_once=3))
        assert found == {0: 0, 1: 2, 2: 4}
        found = results(fan_out(functools.partial(killed_once, tmp_path), range(6), 2, "ray", retries=1))
        assert [found[number] for number in range(5)] == [0, 1, 2, 3, 4]
        assert isinstance(found[5], WorkerDiedError)
        assert len(set(results(fan_out(process_of, range(40), 2, "ray")).values())) == 2
        with pytest.raises(FanOutError, match="has 2 cores, 3 workers"):
            fan_out(double, [1], 3, "ray")
        assert ray.is_initialized()  # a cluster that was there before is left
    finally:
        ray.shutdown()


def test_the_backends_are_listed() -> None:
    assert BACKENDS == ("asyncio", "threads", "processes", "ray")
