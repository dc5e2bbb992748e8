"""Sandboxes that are started before they are needed."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from contextlib import suppress

from toolorch_serving.sandbox.errors import SandboxError
from toolorch_serving.sandbox.job import Launch
from toolorch_serving.sandbox.process import SandboxProcess

_CLOSE_SECONDS = 10.0
"""How long closing waits for the sandboxes to be gone; the thread goes on afterwards."""


class WarmPool:
    """Keeps sandboxes ready; each is used once.

    A thread of its own starts them, since a sandbox dies with the thread that started it.

    Args:
        launch: How they are started.
        size: How many wait.
    """

    def __init__(self, launch: Launch, size: int) -> None:
        self.launch = launch
        self._size = size
        self._waiting: deque[SandboxProcess] = deque()
        self._wanted = threading.Event()
        self._wanted.set()
        self._closed = threading.Event()
        # The thread holds what it needs and not the pool, so that a pool that nobody has any more ends it.
        state = (launch, size, self._waiting, self._wanted, self._closed)
        thread = threading.Thread(target=_keep, args=state, name="toolorch-sandbox-pool", daemon=True)
        thread.start()
        self.close = weakref.finalize(self, _close, thread, self._wanted, self._closed)

    def take(self) -> SandboxProcess | None:
        """Return a sandbox that waits, or None where there is none just now."""
        try:
            while True:
                process = self._waiting.popleft()
                if process.alive:
                    return process
                process.close()
        except IndexError:
            return None
        finally:
            self._wanted.set()


def _keep(
    launch: Launch,
    size: int,
    waiting: deque[SandboxProcess],
    wanted: threading.Event,
    closed: threading.Event,
) -> None:
    while wanted.wait() and not closed.is_set():
        wanted.clear()
        with suppress(SandboxError):  # a run that finds none waiting starts its own, and says what is wrong
            while len(waiting) < size and not closed.is_set():
                waiting.append(SandboxProcess(launch))
    with suppress(IndexError):  # a run may take the last one
        while True:
            process = waiting.popleft()
            with suppress(SandboxError):
                process.close()


def _close(thread: threading.Thread, wanted: threading.Event, closed: threading.Event) -> None:
    closed.set()
    wanted.set()
    if thread is not threading.current_thread():  # the garbage collector may find the pool on any thread
        thread.join(_CLOSE_SECONDS)
