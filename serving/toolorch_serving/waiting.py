"""One line that shows what a starting server is doing: redrawn in a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.status import Status

_EVERY = 10.0
"""Seconds between plain lines."""


class WaitingLine:
    """Shows a title, the seconds so far and a detail, on standard error."""

    def __init__(self, title: str, shown: bool) -> None:
        self._title = title
        self._shown = shown
        self._console = Console(stderr=True, highlight=False)
        self._status: Status | None = None
        self._begun = self._printed = time.monotonic()

    def __enter__(self) -> Self:
        if self._shown and self._console.is_terminal:
            self._status = self._console.status(escape(self._title))
            self._status.start()
        elif self._shown:
            self._console.print(escape(self._title), soft_wrap=True)
        return self

    def show(self, detail: str) -> None:
        """Show how long it has taken, and `detail`."""
        now = time.monotonic()
        if self._status is not None:
            room = max(20, self._console.width - len(self._title) - 12)
            self._status.update(f"{escape(self._title)} {now - self._begun:.0f} s [dim]{escape(detail[:room])}[/dim]")
        elif self._shown and now - self._printed >= _EVERY:
            self._printed = now
            self._console.print(f"  {now - self._begun:.0f} s: {escape(detail[:200])}", soft_wrap=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
        if self._shown and error is None:
            self._console.print(
                f"{escape(self._title)}: ready in {time.monotonic() - self._begun:.1f} s", soft_wrap=True
            )
