"""The simulated specialists as a service: a child process on loopback."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import httpx

from toolorch_integrations.entry import Specialist
from toolorch_integrations.errors import ToolorchError
from toolorch_serving.simulated.specialists import SimulatedSpecialist

DEFAULT = "toolorch_serving.simulated.specialists:SPECIALISTS"
"""Who answers unless told otherwise."""

_START_SECONDS = 60.0


class SimulatedSpecialists:
    """The shop's specialists, or others, served by a child process while the context is open.

    Args:
        port: Port on 127.0.0.1; 0 takes a free one.
        seed: Decides which answers go wrong.
        latency_scale: Factor on everybody's latency; 0 answers at once.
        specialists: Where the child process finds who answers, as `module:name`.

    Example:
        with SimulatedSpecialists() as simulated:
            agent = create_orchestrator(policy, tools, specialists=simulated.catalog())
    """

    def __init__(self, port: int = 0, *, seed: int = 0, latency_scale: float = 1.0, specialists: str = DEFAULT) -> None:
        self._arguments = [f"--port={port}", f"--seed={seed}", f"--latency-scale={latency_scale}"]
        self._arguments.append(f"--specialists={specialists}")
        self._specialists: Sequence[SimulatedSpecialist] = pkgutil.resolve_name(specialists)
        self._process: subprocess.Popen[str] | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """Base URL, `/v1` included."""
        if not self._url:
            raise ToolorchError("The simulated specialists are not running: enter the context first.")
        return self._url

    def catalog(self, names: Sequence[str] | None = None) -> list[Specialist]:
        """Return the catalogue's entries, all or those of `names`."""
        return [
            specialist.entry(self.url) for specialist in self._specialists if names is None or specialist.name in names
        ]

    def start(self) -> Self:
        """Start the server and wait until it answers.

        Raises:
            ToolorchError: It ended, or does not answer within a minute.
        """
        command = [sys.executable, "-m", "toolorch_serving.simulated", *self._arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        bound = self._process.stdout.readline().strip()  # the child prints its URL once the socket is bound
        if not bound:
            raise ToolorchError(f"The simulated specialists ended at once (status {self._process.wait()}).")
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{bound}/health", timeout=5).raise_for_status()
            except httpx.HTTPError:
                time.sleep(0.02)
            else:
                self._url = f"{bound}/v1"
                return self
        self.stop()
        raise ToolorchError(f"The simulated specialists do not answer at {bound}.")

    def stop(self) -> None:
        """End the server."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
        self._process, self._url = None, ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
