from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from toolorch_integrations.langgraph import ChatPolicy
from toolorch_integrations.per_loop import PerLoop
from toolorch_integrations.testing import ScriptedPolicy


class Thing:
    """A value that can hold its loop, as connections do."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop = loop


def holding_its_loop() -> Thing:
    return Thing(asyncio.get_running_loop())


async def here(things: PerLoop[Thing]) -> Thing:
    return things.here(holding_its_loop)


@pytest.fixture
def often_switched() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_a_loop_has_one_value() -> None:
    things = PerLoop[Thing]()

    async def twice() -> tuple[Thing, Thing]:
        first = await here(things)
        return first, await asyncio.create_task(here(things))

    first, second = asyncio.run(twice())
    assert first is second


def test_without_a_loop_there_is_no_value() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        PerLoop[Thing]().here(Thing)


def test_loops_that_run_at_once_have_values_of_their_own() -> None:
    things = PerLoop[Thing]()
    together = threading.Barrier(4, timeout=60)

    async def both() -> Thing:
        first = await here(things)
        together.wait()  # no loop ends before all have their value
        assert await here(things) is first
        return first

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: asyncio.run(both()), range(4)))
    assert len({id(thing) for thing in found}) == 4
    assert len(things) == 4


@pytest.mark.usefixtures("often_switched")
def test_loops_come_and_go_in_many_threads() -> None:
    things = PerLoop[Thing]()

    async def look() -> bool:
        first = await here(things)
        await asyncio.sleep(0)
        return first is await here(things) and first.loop is asyncio.get_running_loop()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: asyncio.run(look()), range(200)))
    asyncio.run(here(things))
    assert len(things) == 1  # all others were closed


def test_the_value_of_a_closed_loop_is_dropped_although_it_holds_the_loop() -> None:
    things = PerLoop[Thing]()
    ended = weakref.ref(asyncio.run(here(things)))
    asyncio.run(here(things))
    gc.collect()
    assert ended() is None


def test_the_value_of_a_loop_that_is_open_is_kept() -> None:
    things = PerLoop[Thing]()
    with asyncio.Runner() as runner:
        first = runner.run(here(things))
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(asyncio.run, here(things)).result()
        assert other is not first
        assert runner.run(here(things)) is first


def test_the_value_of_a_loop_that_nobody_has_is_garbage() -> None:
    things = PerLoop[Thing]()

    async def value() -> Thing:
        return things.here(Thing)

    loop = asyncio.new_event_loop()
    kept = weakref.ref(loop.run_until_complete(value()))
    assert kept() is not None
    loop.close()
    del loop
    gc.collect()
    assert kept() is None


async def test_a_value_is_taken_out() -> None:
    things = PerLoop[Thing]()
    assert things.pop() is None
    first = await here(things)
    assert things.pop() is first
    assert await here(things) is not first


async def test_a_value_that_cannot_be_made_is_tried_again() -> None:
    things = PerLoop[Thing]()

    def fail() -> Thing:
        raise OSError("no certificates")

    with pytest.raises(OSError, match="no certificates"):
        things.here(fail)
    assert isinstance(things.here(Thing), Thing)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda things: pickle.loads(pickle.dumps(things))])
async def test_a_copy_begins_without_values(duplicate: Callable[[PerLoop[Thing]], PerLoop[Thing]]) -> None:
    things = PerLoop[Thing]()
    await here(things)
    assert len(duplicate(things)) == 0


def test_a_policy_keeps_no_clients_of_loops_that_ended() -> None:
    with ScriptedPolicy(lambda _: "Yes.") as server:
        policy = ChatPolicy(model=server.model, base_url=server.url, max_retries=0)
        for _ in range(4):
            assert asyncio.run(policy.ainvoke("Hi")).text == "Yes."
        assert len(policy._clients) == 1  # the first loop used LangChain's
