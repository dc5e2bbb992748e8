"""A call back at a framework's first run.

An adapter imports much of its framework, which cannot be done while the framework itself is being imported: half of
it is not there yet. The first run is the earliest moment at which all is.

Runs may begin at the same time in several threads. Each calls back until one call has returned, so that none goes on
before the adapter is there: a callback may be called more than once, and holds up the others while it works.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeAlias

import wrapt

Callback: TypeAlias = Callable[[], None]


def is_importing(*families: str) -> bool:
    """Whether a module is being imported whose name begins with one of the given words."""
    return any(
        getattr(getattr(module, "__spec__", None), "_initializing", False)
        for name, module in list(sys.modules.items())
        if name.startswith(families)
    )


def at_first_langchain_run(callback: Callback) -> None:
    """Call back before the handlers of the next LangChain or LangGraph run are collected."""

    class Trigger:
        """Takes the place of a context variable that LangChain asks for a handler at each run; has none."""

        done = False

        def get(self) -> None:
            if not self.done:
                # What the adapter registers now is asked next, for this same run.
                callback()
                self.done = True

    def register(module: ModuleType) -> None:
        module.register_configure_hook(Trigger(), inheritable=True)

    wrapt.register_post_import_hook(register, "langchain_core.tracers.context")


def at_first_llamaindex_run(callback: Callback) -> None:
    """Call back before the next event or span of LlamaIndex is dispatched."""
    done = False

    def first(wrapped: Callable[..., Any], _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal done
        if not done:
            callback()
            done = True
        return wrapped(*args, **kwargs)

    def wrap(module: ModuleType) -> None:
        for name in ("event", "span_enter"):
            wrapt.wrap_function_wrapper(module, f"Dispatcher.{name}", first)

    wrapt.register_post_import_hook(wrap, "llama_index_instrumentation.dispatcher")
