"""Adapters that are attached at a framework's first run, where several runs are the first."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.waiting import until
from toolorch_integrations import adapters
from toolorch_integrations.capture import capture
from toolorch_integrations.first_run import Callback, at_first_langchain_run, at_first_llamaindex_run

Install = Callable[[pytest.MonkeyPatch, Callback], Callable[[], Any]]


def langchain(monkeypatch: pytest.MonkeyPatch, callback: Callback) -> Callable[[], Any]:
    """Return what a run of LangChain does first: it asks the configure hooks for handlers."""
    found: list[Any] = []
    module: Any = ModuleType("langchain_core.tracers.context")
    module.register_configure_hook = lambda hook, inheritable: found.append(hook)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    at_first_langchain_run(callback)
    return lambda: found[0].get()


def llamaindex(monkeypatch: pytest.MonkeyPatch, callback: Callback) -> Callable[[], Any]:
    """Return what a run of LlamaIndex does first: it opens a span."""

    class Dispatcher:
        def event(self) -> None: ...

        def span_enter(self) -> None: ...

    module: Any = ModuleType("llama_index_instrumentation.dispatcher")
    module.Dispatcher = Dispatcher
    monkeypatch.setitem(sys.modules, module.__name__, module)
    at_first_llamaindex_run(callback)
    return Dispatcher().span_enter


@pytest.mark.parametrize("install", [langchain, llamaindex])
def test_runs_that_begin_with_the_first_one_wait_for_the_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Install
):
    begins, go = threading.Event(), threading.Event()
    attached: list[object] = []
    calls: list[str] = []

    def attach(session: object) -> Callable[[], None]:
        begins.set()
        assert go.wait(60)
        attached.append(session)
        return lambda: None

    adapter: Any = ModuleType("slow_adapter")
    adapter.attach = attach
    monkeypatch.setitem(sys.modules, "slow_adapter", adapter)
    monkeypatch.setattr(adapters, "ADAPTERS", {"slow": "slow_adapter"})
    monkeypatch.setattr(adapters, "_watched", {"slow"})
    monkeypatch.setattr(adapters, "_ready", [])
    monkeypatch.setattr(adapters, "_waiting", [])

    def callback() -> None:
        calls.append(threading.current_thread().name)
        adapters._make_ready("slow")

    run = install(monkeypatch, callback)
    seen: dict[str, list[object]] = {}

    def begin() -> None:
        run()
        seen[threading.current_thread().name] = list(attached)

    first, second = (threading.Thread(target=begin, name=name) for name in ("first", "second"))
    with capture(tmp_path / "traces.db") as session:
        first.start()
        assert begins.wait(60)
        second.start()
        until(lambda: "second" in calls or not second.is_alive())
        go.set()
        first.join()
        second.join()
        run()
    assert seen == {"first": [session], "second": [session]}, "neither run has gone on without it"
    assert calls == ["first", "second"], "later runs do not ask again"
