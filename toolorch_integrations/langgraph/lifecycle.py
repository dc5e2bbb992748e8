"""LangGraph's own events, that a graph waits or goes on, for a handler that no run's config names."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import wrapt
from langgraph.callbacks import GraphCallbackHandler

from toolorch_integrations.errors import CaptureWarning

_MODULE = "langgraph.pregel.main"
_MANAGERS = ("get_sync_graph_callback_manager_for_config", "get_async_graph_callback_manager_for_config")


def hear_graph_events(active: Callable[[], GraphCallbackHandler | None]) -> None:
    """Have LangGraph tell `on_interrupt` and `on_resume` of the handler that is active where a run begins.

    A breakpoint (`interrupt_before`) is known by these events only. LangGraph tells them to the handlers in a run's
    config, and not to those that LangChain's configure hook adds to a run, as `with capture(...)` does.
    """

    def with_handler(wrapped: Callable[..., Any], _instance: Any, args: Any, kwargs: Any) -> Any:
        manager = wrapped(*args, **kwargs)
        handler = active()
        if handler is not None and handler not in manager.handlers:
            manager.add_handler(handler, inherit=False)
        return manager

    def wrap(module: ModuleType) -> None:
        for name in _MANAGERS:
            if hasattr(module, name):
                wrapt.wrap_function_wrapper(module, name, with_handler)
            else:
                warnings.warn(f"capture does not see breakpoints: {_MODULE} has no {name}", CaptureWarning, 2)

    wrapt.register_post_import_hook(wrap, _MODULE)
