"""An orchestrator that the gateway serves, whichever framework it is made with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, get_args

from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import AnyEntry
from toolorch_integrations.progress import ProgressType
from toolorch_integrations.run_options import RunOptions
from toolorch_serving.gateway.run_request import RunRequest, check
from toolorch_serving.gateway.run_stream import Outcome, RunStream
from toolorch_serving.gateway.threads import Threads

__all__ = ["PROGRESS", "FaceRunner", "Outcome", "RunRequest", "RunStream", "Runner"]

PROGRESS = frozenset(get_args(ProgressType))
"""Types of progress events; an app's own events on the same stream are left alone."""


class Runner(Protocol):
    """An orchestrator that the gateway serves.

    Attributes:
        name: By which clients ask for it.
        options: What its runs go by where a request says nothing.
    """

    name: str
    options: RunOptions

    def catalog(self) -> Sequence[AnyEntry]:
        """Return what it may call."""

    def run(self, request: RunRequest) -> RunStream:
        """Begin a run; to be called on the event loop.

        Raises:
            GatewayError: The request cannot be served; nothing has begun.
        """


class FaceRunner(ABC):
    """What the runners of both frameworks share.

    Attributes:
        remembers: Whether the orchestrator itself keeps what was said, wherever its conversations go on.

    Args:
        name: By which clients ask for it.
        threads: The conversations of the gateway.
        catalog: What it may call.
        options: What its runs go by where a request says nothing.
    """

    remembers = False

    def __init__(self, name: str, threads: Threads, catalog: Catalog, options: RunOptions) -> None:
        self.name = name
        self.options = options
        self._threads = threads
        self._catalog = catalog

    def catalog(self) -> Sequence[AnyEntry]:
        """Return what it may call."""
        return list(self._catalog)

    def run(self, request: RunRequest) -> RunStream:
        """Begin a run.

        Raises:
            GatewayError: The request cannot be served; nothing has begun.
        """
        if request.decisions is None:
            check(request, self._catalog, self.options.catalog, self.context(request), self.name)
        told = any(message["role"] == "assistant" for message in request.messages)
        thread = self._threads.take(
            request.thread_id, request.owner, self.name, request.decisions, may_begin=told or self.remembers
        )
        return RunStream(self.drive, self._threads, thread, request)

    def context(self, request: RunRequest) -> dict[str, Any]:
        """Return the context of a run, as both frameworks take it: a client may narrow limits and catalogue only."""
        own = self.options
        given = {
            "preferences": request.preferences,
            "budget": None if request.budget is None else request.budget.within(own.budget),
            "catalog": None if request.changes is None else request.changes.within(own.catalog),
        }
        return {key: value for key, value in given.items() if value is not None}

    @abstractmethod
    async def drive(self, stream: RunStream) -> Outcome:
        """Run in the framework, and put progress on the stream.

        An exception leaves the conversation as it was before the run.
        """
