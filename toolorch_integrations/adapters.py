"""The framework adapters of capture: which there are, and when they are attached.

This module is light, since `TOOLORCH_CAPTURE` loads it when the interpreter starts. An adapter is a module with
`attach(session) -> detach`. It is imported when its framework is there, and never before: at once where the
framework has been imported, at its first run where it is imported later. `attach` is called for every session that is
open then or opened later. The call may come in another thread or context than the session's: an
adapter asks `toolorch_integrations.capture.active_session()` at each run instead of remembering the context.
"""

from __future__ import annotations

import importlib
import logging
import threading
import warnings
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import wrapt

from toolorch_integrations.errors import CaptureWarning
from toolorch_integrations.first_run import Callback, at_first_langchain_run, at_first_llamaindex_run, is_importing

if TYPE_CHECKING:
    from toolorch_integrations.capture import CaptureSession

logger = logging.getLogger(__name__)

ADAPTERS: dict[str, str] = {
    "langchain_core.callbacks": "toolorch_integrations.langgraph.capture",
    "llama_index_instrumentation": "toolorch_integrations.llamaindex.capture",
}
"""Adapter by the framework module whose import calls for it."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "langchain_core.callbacks": ("langchain", "langgraph"),
    "llama_index_instrumentation": ("llama_index", "workflows"),
}
"""What an adapter imports of its framework, by beginnings of module names."""

FIRST_RUN: dict[str, Callable[[Callback], None]] = {
    "langchain_core.callbacks": at_first_langchain_run,
    "llama_index_instrumentation": at_first_llamaindex_run,
}

Detach: TypeAlias = Callable[[], None]

_lock = threading.RLock()
_watched: set[str] = set()
_waiting: list[str] = []
"""Frameworks that were still being imported when they were noticed."""
_ready: list[str] = []
_sessions: dict[CaptureSession, list[Detach]] = {}


def on_import(module: str, callback: Callable[[], None]) -> None:
    """Call back once a module has been imported, or at once where it is imported already."""

    def hook(_module: ModuleType) -> None:
        callback()

    wrapt.register_post_import_hook(hook, module)


def join(session: CaptureSession) -> None:
    """Attach a session to every adapter whose framework is or will be imported, until it leaves."""
    with _lock:
        _sessions[session] = []
        ready, waiting = list(_ready), list(_waiting)
    for module in ready:
        _attach(module, [session])
    for module in waiting:
        if not is_importing(*FAMILIES[module]):
            _make_ready(module)
    for module in ADAPTERS:
        with _lock:
            new = module not in _watched
            _watched.add(module)
        if new:
            on_import(module, partial(_arrived, module))


def leave(session: CaptureSession) -> None:
    """Detach a session from all adapters."""
    with _lock:
        detaches = _sessions.pop(session, [])
    for detach in reversed(detaches):
        try:
            detach()
        except Exception as error:
            warnings.warn(f"an adapter could not be detached from capture: {error}", CaptureWarning, stacklevel=3)


def _arrived(module: str) -> None:
    if module in FIRST_RUN and is_importing(*FAMILIES[module]):
        with _lock:
            _waiting.append(module)
        FIRST_RUN[module](partial(_make_ready, module))
    else:
        _make_ready(module)


def _make_ready(module: str) -> None:
    with _lock:  # Held to the end: a run in another thread waits for the adapter instead of going on without.
        if module in _ready:
            return
        if module in _waiting:
            _waiting.remove(module)
        _ready.append(module)
        _attach(module, list(_sessions))


def _attach(module: str, sessions: list[CaptureSession]) -> None:
    for session in sessions:
        try:
            detach: Detach = importlib.import_module(ADAPTERS[module]).attach(session)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) or isinstance(error.__cause__, ModuleNotFoundError):
                logger.info("capture leaves out %s: %s", module, error)  # The extra is not installed.
                return
            warnings.warn(f"capture does not see {module}: {error}", CaptureWarning, stacklevel=3)
        else:
            with _lock:
                if session in _sessions:
                    _sessions[session].append(detach)
                    continue
            detach()  # The session has ended in the meantime.
