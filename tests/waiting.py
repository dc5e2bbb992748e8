"""Waiting for what other threads and processes do: as long as a busy machine needs, and no longer than a test may."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

SECONDS = 60.0
"""How long a condition is waited for: half of what a test may take in all."""
_PAUSE = 0.02


def until(condition: Callable[[], object]) -> None:
    """Return when a condition holds; fail where it does not come to hold."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to pass within {SECONDS:g} s"
        time.sleep(_PAUSE)


async def auntil(condition: Callable[[], object]) -> None:
    """`until` on an event loop, which goes on with its other work."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to pass within {SECONDS:g} s"
        await asyncio.sleep(_PAUSE)
