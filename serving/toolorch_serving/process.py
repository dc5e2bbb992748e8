"""A policy server as a child process: start it, wait until it answers, watch it, end it with all that it started."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import httpx

from toolorch_integrations.errors import ToolorchError
from toolorch_serving import guard
from toolorch_serving.waiting import WaitingLine

_TAIL = 25
"""Lines of the log that an error shows."""


class PolicyServerError(ToolorchError):
    """A policy server cannot start, or has ended; the message says why and what to do."""


class ServerProcess(ABC):
    """Base of the policy servers. A context manager, plain or asynchronous, that is serving while it is open.

    Attributes:
        name: Name under which the policy is served.
        host: Address that the server listens on.
        port: Its port; known once started.
        log_path: File that everything the server prints goes to.
    """

    engine: ClassVar[str]
    """vllm or embedded."""

    def __init__(
        self,
        model: str,
        *,
        name: str | None,
        host: str,
        port: int,
        startup_timeout: float,
        log_path: str | Path | None,
        progress: bool,
    ) -> None:
        self.model = str(model)
        if self.model.startswith(("/", ".", "~")) and not Path(self.model).expanduser().is_dir():
            raise PolicyServerError(f"there is no folder {self.model}: give the folder of a policy, or its hub name")
        self.name = name or default_name(self.model)
        self.host = host
        self.port = port
        self.log_path = Path(log_path) if log_path else _new_log(self.engine)
        self._startup_timeout = startup_timeout
        self._progress = progress
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base URL for OpenAI clients, ending in /v1."""
        return f"{self.root_url}/v1"

    @property
    def root_url(self) -> str:
        """The server's URL without a path."""
        host = "127.0.0.1" if self.host in {"0.0.0.0", ""} else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.poll() is None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that serves on `self.port`."""

    def environment(self) -> dict[str, str]:
        """Return what the command's environment has beyond this process's own."""
        return {}

    def advice(self, log: str) -> str | None:
        """Return what to do about a cause of failure that is known from `log`, or None."""
        return _advice(log, self.port)

    def start(self) -> Self:
        """Start the server and return once it answers.

        Raises:
            PolicyServerError: The server cannot start, ended, or took longer than the startup timeout.
        """
        if self.running:
            return self
        self.port = self.port or free_port(self.host)
        if not _bindable(self.host, self.port):
            raise PolicyServerError(f"port {self.port} on {self.host} is taken: give another port, or 0 for a free one")
        command, environment = self.command(), {**os.environ, **self.environment()}
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self.log_path.write_bytes(b"")
        self._process = subprocess.Popen(
            [sys.executable, "-S", str(Path(guard.__file__)), str(self.log_path), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            # A Ctrl-C in the terminal is for us; we then end the server in order.
            start_new_session=True,
        )
        try:
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server and all of its processes. May be called again."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=guard.GRACE + 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def check(self) -> None:
        """Raise if the server has ended.

        Raises:
            PolicyServerError: It has; the message shows the end of its log.
        """
        if not self.running:
            raise self._failure("ended")

    def wait(self) -> None:
        """Return when the server is stopped; raise if it ends by itself.

        Raises:
            PolicyServerError: The server ended; the message shows the end of its log.
        """
        while (process := self._process) is not None:
            try:
                process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
            if self._process is not None:
                raise self._failure("ended")

    def serve(self) -> None:
        """Start, and serve until SIGINT or SIGTERM. For a main program: call it from the main thread."""
        with self.until_signalled():
            self.wait()

    @contextmanager
    def until_signalled(self) -> Iterator[Self]:
        """Start, and leave the block at SIGINT or SIGTERM with the server stopped (main thread only)."""
        numbers = (signal.SIGINT, signal.SIGTERM)

        def end(*_: object) -> None:
            # A second signal while the server is being stopped must not leave it half stopped.
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)
            raise KeyboardInterrupt

        before = {number: signal.signal(number, end) for number in numbers}
        try:
            with self:
                yield self
        except KeyboardInterrupt:
            pass
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + self._startup_timeout
        title = f"{self.engine}: starting {self.name} on {self.root_url}"
        with httpx.Client(timeout=2, trust_env=False) as client, WaitingLine(title, self._progress) as line:
            while time.monotonic() < deadline:
                if not self.running:
                    raise self._failure("ended before it answered")
                try:
                    if client.get(f"{self.root_url}/health").status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                line.show(self._last_line())
                time.sleep(0.1)
        raise self._failure(f"did not answer within {self._startup_timeout:g} s")

    def _last_line(self) -> str:
        with self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - 4096))
            lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _failure(self, what: str) -> PolicyServerError:
        log = self.log_path.read_text(errors="replace")
        tail = "\n".join(f"  | {line}" for line in log.rstrip().split("\n")[-_TAIL:])
        advice = self.advice(log)
        return PolicyServerError(
            f"the {self.engine} server for {self.model} {what}."
            + (f"\nWhat to do: {advice}" if advice else "")
            + f"\nEnd of its log ({self.log_path}):\n{tail}"
        )


def default_name(model: str) -> str:
    """Return the name under which a model is served unless told otherwise: the folder's own name, or the hub name."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def free_port(host: str) -> int:
    """Return a port that nobody listens on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _bindable(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _new_log(engine: str) -> Path:
    handle, path = tempfile.mkstemp(prefix=f"toolorch-{engine}-", suffix=".log")
    os.close(handle)
    return Path(path)


def _advice(log: str, port: int) -> str | None:
    text = log.lower()
    if "address already in use" in text:
        return f"port {port} is taken: give another port, or 0 for a free one"
    if any(sign in text for sign in ("out of memory", "cannot allocate memory", "outofmemoryerror", "signal sigkill")):
        return "memory ran out: lower max_model_len, use a smaller dtype or model, or free memory"
    return None
