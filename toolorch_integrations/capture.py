"""Capture as a scope: every run of a supported framework inside of it is written to a trace store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from contextvars import ContextVar, Token
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from toolorch_integrations import adapters
from toolorch_integrations.recorder import Recorder
from toolorch_integrations.redaction import Redact
from toolorch_integrations.store import TraceStore

if TYPE_CHECKING:
    from toolorch_integrations.spool import Spool


class CaptureSession:
    """An open or ended capture; made by `capture`.

    Attributes:
        recorder: What adapters put events into.
    """

    def __init__(self, recorder: Recorder, everywhere: bool, timeout: float) -> None:
        self.recorder = recorder
        self._everywhere = everywhere
        self._timeout = timeout
        self._outer: CaptureSession | None = None
        self._token: Token[CaptureSession | None] | None = None
        self._open = False

    def __enter__(self) -> CaptureSession:
        self._open = True
        if self._everywhere:
            _everywhere.append(self)
        else:
            self._outer = _current.get()
            self._token = _current.set(self)
        adapters.join(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()
        self.recorder.close(self._timeout)

    async def __aenter__(self) -> CaptureSession:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        await asyncio.to_thread(self.recorder.close, self._timeout)

    @property
    def is_open(self) -> bool:
        """Whether runs are captured."""
        return self._open

    @property
    def trace_ids(self) -> list[str]:
        """Ids of the traces written so far, oldest first; `flush` first to see the newest."""
        return self.recorder.trace_ids

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many events were lost, by reason; see `Recorder.dropped`."""
        return self.recorder.dropped

    def flush(self, timeout: float | None = 30.0) -> bool:
        """Wait until all that happened so far is in the store; see `Recorder.flush`."""
        return self.recorder.flush(timeout)

    def _leave(self) -> None:
        self._open = False
        adapters.leave(self)
        if self._everywhere:
            with contextlib.suppress(ValueError):
                _everywhere.remove(self)
        elif self._token is not None:
            # Another context ends the scope than began it, as test fixtures do: `active_session` skips ended ones.
            with contextlib.suppress(ValueError):
                _current.reset(self._token)


def capture(
    store: TraceStore | str | Path,
    *,
    app: str = "",
    redact: Redact | None = None,
    redact_token_ids: bool = True,
    everywhere: bool = False,
    timeout: float = 30.0,
    spool: Spool | str | Path | None = None,
) -> CaptureSession:
    """Capture all runs of supported frameworks within a `with` or `async with` block.

    The scope follows the context: tasks and threads with a copied context started inside belong to it, other tasks do
    not, and inside a nested scope only the inner one captures. Nothing that happens to the store reaches the app.

    Args:
        store: Where to; a file name, `sqlite:///file`, `postgresql://...` or a store.
        app: Name for the traces, in place of the graph's or agent's.
        redact: Takes a copy of each message and returns what may be stored; see `redaction.Redact`.
        redact_token_ids: Whether ids of redacted text are dropped too, since they hold the text.
        everywhere: Capture in the whole process, whatever the context, where no other scope is open. For servers:
            requests are not handled in the context that started the server.
        timeout: Seconds that leaving the block waits for the store at most.
        spool: Folder in which events wait for the store, so that they survive the process and any outage; see
            `toolorch_integrations.spool`.

    Raises:
        StoreError: The URL is not usable, or the database's driver is not installed.

    Example:
        >>> with capture("sqlite:///traces.db") as session:
        ...     agent.invoke({"messages": [("user", "What is 2 + 2?")]})
        >>> session.trace_ids
    """
    recorder = Recorder(store, app=app, redact=redact, redact_token_ids=redact_token_ids, spool=spool)
    return CaptureSession(recorder, everywhere, timeout)


def active_session() -> CaptureSession | None:
    """Return the session that captures here and now, or None."""
    session = _current.get()
    while session is not None and not session.is_open:
        session = session._outer
    if session is None and _everywhere:
        session = _everywhere[-1]
    return session


_current: ContextVar[CaptureSession | None] = ContextVar("toolorch_capture", default=None)
_everywhere: list[CaptureSession] = []
