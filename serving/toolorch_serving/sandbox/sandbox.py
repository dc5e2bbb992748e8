"""`Sandbox`: runs Python programs that nobody has read."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from toolorch_serving.sandbox.command import find_bubblewrap, unprivileged_user
from toolorch_serving.sandbox.errors import SandboxBusyError, SandboxError, SandboxUnavailableError
from toolorch_serving.sandbox.job import Launch, Program, confined_launch, unconfined_launch
from toolorch_serving.sandbox.limits import Limits
from toolorch_serving.sandbox.pool import WarmPool
from toolorch_serving.sandbox.process import SandboxProcess
from toolorch_serving.sandbox.result import SandboxResult
from toolorch_serving.sandbox.runtime import find_runtime, packages_folder, reachable
from toolorch_serving.sandbox.seccomp import supported

UNCONFINED = "run_unread_code_without_any_sandbox"
"""Name of the argument, and of the setting, that lets programs run where no sandbox can be had."""


WAITING = 256
"""Runs that event loops may have begun and that wait for a place, each in a thread; further ones wait for these."""


class Sandbox:
    r"""Runs Python programs under bubblewrap: no network, a read-only system, private files, and limits on everything.

    A program sees Python's standard library, `packages`, and an empty folder of its own, which is gone afterwards; no
    other file of the machine, no environment variable, no process. Whatever it starts is killed at its end.

    Args:
        limits: What a program may use.
        packages: A virtual environment or folder of modules that programs may import, of this version of Python.
        at_once: Programs at once; further ones wait. None takes one for each processor.
        wait_seconds: Seconds that a program waits for its place.
        warm: Sandboxes that are started beforehand, about 10 MB each; a program starts about ten times as fast in one.
        bubblewrap: Its program, by name or path.
        run_unread_code_without_any_sandbox: Where no sandbox can be had, run programs all the same, with limits of
            time and memory but with all rights of this process. A warning says so. Otherwise they are refused.

    Raises:
        SandboxUnavailableError: There is no sandbox on this machine.
        SandboxError: `packages` cannot be used.

    Example:
        >>> Sandbox().run("print(sum([0, 1, 1, 2, 3, 5, 8, 13, 21, 34]))").stdout  # doctest: +SKIP
        '88\n'
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        packages: str | Path | None = None,
        at_once: int | None = None,
        wait_seconds: float = 60.0,
        warm: int = 0,
        bubblewrap: str = "bwrap",
        run_unread_code_without_any_sandbox: bool = False,
    ) -> None:
        self.limits = limits or Limits()
        self.wait_seconds = wait_seconds
        self._packages = packages_folder(Path(packages)) if packages is not None else None
        self._at_once = at_once or os.cpu_count() or 1
        self._places = threading.BoundedSemaphore(self._at_once)
        self._launch: Launch | None = None
        self._pool: WarmPool | None = None
        try:
            self._launch = self._prepare(bubblewrap)
        except SandboxUnavailableError as error:
            if not run_unread_code_without_any_sandbox:
                raise
            warnings.warn(f"Programs run without a sandbox, with all rights of this process. {error}", stacklevel=2)
        if warm and self._launch is not None:
            self._pool = WarmPool(self._launch, warm)

    @property
    def confined(self) -> bool:
        """Whether programs run in a sandbox."""
        return self._launch is not None

    def run(
        self, code: str, *, stdin: str = "", files: Mapping[str, bytes] | None = None, limits: Limits | None = None
    ) -> SandboxResult:
        """Run a program and wait for its end.

        Args:
            code: Python source.
            stdin: Its standard input.
            files: Contents by relative path, put into its folder before it starts.
            limits: Other limits than the sandbox's.

        Raises:
            SandboxBusyError: No place came free in time.
            SandboxUnavailableError: The sandbox could not be set up.
            SandboxError: A file's path leads out of the folder, or the machine could not start a process.
        """
        program = Program(code, stdin, files or {}, limits or self.limits)
        stop, other = os.pipe()
        try:
            return self._run(program, stop)
        finally:
            os.close(stop)
            os.close(other)

    async def arun(
        self, code: str, *, stdin: str = "", files: Mapping[str, bytes] | None = None, limits: Limits | None = None
    ) -> SandboxResult:
        """Do as `run`, from an event loop; a run that is cancelled is killed at once."""
        program = Program(code, stdin, files or {}, limits or self.limits)
        stop, tell = os.pipe()
        work = self._threads.submit(self._run_until, program, stop)
        try:
            return await asyncio.shield(asyncio.wrap_future(work))
        except asyncio.CancelledError:
            if work.cancel():  # it had not begun
                os.close(stop)
            with suppress(BrokenPipeError):  # it has just ended
                os.write(tell, b"1")
            raise
        finally:
            os.close(tell)

    def check(self) -> None:
        """See that a program can be run.

        Raises:
            SandboxUnavailableError: It cannot; the message says what is missing.
        """
        self.run("pass")

    def close(self) -> None:
        """End the sandboxes that wait for a program; later runs start their own."""
        if self._pool is not None:
            self._pool.close()

    # --- inside ---

    def _prepare(self, bubblewrap: str) -> Launch:
        if sys.platform != "linux":
            raise SandboxUnavailableError(f"The sandbox needs Linux, and this is {sys.platform}: use a container.")
        if not supported():
            raise SandboxUnavailableError("The sandbox has no filter of system calls for this processor.")
        self._bubblewrap, self._runtime = find_bubblewrap(bubblewrap), find_runtime()
        if unprivileged_user():
            self._runtime = self._runtime.readable_by_all()
            if self._packages is not None and not reachable(self._packages):
                raise SandboxError(
                    f"packages: {self._packages} cannot be read by users without rights, as whom programs run when "
                    "this process is root's: put it elsewhere, or chmod o+rx the folders above it."
                )
        return confined_launch(self._bubblewrap, self._runtime, self._packages, self.limits.disk)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(WAITING, thread_name_prefix="toolorch-sandbox")

    def _run_until(self, program: Program, stop: int) -> SandboxResult:
        try:
            return self._run(program, stop)
        finally:
            os.close(stop)

    def _run(self, program: Program, stop: int) -> SandboxResult:
        with self._place():
            if self._launch is None:
                with tempfile.TemporaryDirectory(prefix="toolorch-", ignore_cleanup_errors=True) as folder:
                    return SandboxProcess(unconfined_launch(self._packages, folder)).run(program, stop)
            disk = program.limits.disk
            if disk != self.limits.disk:
                launch = confined_launch(self._bubblewrap, self._runtime, self._packages, disk)
                return SandboxProcess(launch).run(program, stop)
            started = time.monotonic()
            waiting = self._pool.take() if self._pool is not None else None
            process = waiting or SandboxProcess(self._launch)
            return process.run(program, stop, started)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(timeout=self.wait_seconds):
            raise SandboxBusyError(
                f"All {self._at_once} places of the sandbox were taken for {self.wait_seconds:g} s: allow more with "
                "`at_once`, or ask for less."
            )
        try:
            yield
        finally:
            self._places.release()
