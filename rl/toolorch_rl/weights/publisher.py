"""What every way of publishing weights has in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from toolorch_rl.weights.control import ServerControl
from toolorch_rl.weights.probe import ProbeResult, Reference


@dataclass(frozen=True, slots=True)
class Published:
    """A version that is being served.

    Attributes:
        version: The version, v12 for instance.
        name: What traces call it: the policy's name, a hyphen and the version.
        model: Model name to ask the server for.
        seconds: How long the swap took, without the probe.
        probe: What the probe found.
        dropped: Names of versions that are no longer served.
    """

    version: str
    name: str
    model: str
    seconds: float
    probe: ProbeResult
    dropped: tuple[str, ...] = ()


class Connected:
    """What holds connections to a server until it is closed, by hand or at the end of a `with` block."""

    _server: ServerControl

    def close(self) -> None:
        """Close the connections; the server goes on with what it has."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Publisher(Protocol):
    """Brings new versions of a policy into a running server."""

    @property
    def current(self) -> str:
        """Name of the version that was published last, and passed its probe; the policy's own name before that."""

    def publish(self, version: str, folder: str | Path, *, reference: Reference | None = None) -> Published:
        """Serve a version.

        Args:
            version: Short and new: letters, digits, dots, underscores and hyphens.
            folder: Where its weights or its adapter are; the server has to see the same folder.
            reference: The log-probabilities that the trainer's model computes (`model_logprobs`); by default the
                folder is loaded for them.

        Raises:
            ProbeError: The server does not answer with these weights; `current` stays what it was.
            WeightsError: They cannot be swapped in.
        """
