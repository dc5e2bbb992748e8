"""`Sandbox`: runs Python programs that nobody has read."""

from __future__ import annotations

import asyncio
import marshal
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path, PurePosixPath

from toolorch_serving.sandbox.command import (
    FOLDER,
    find_bubblewrap,
    interpreter_arguments,
    rlimits,
    sandbox_command,
    unprivileged_user,
)
from toolorch_serving.sandbox.errors import SandboxBusyError, SandboxError, SandboxUnavailableError
from toolorch_serving.sandbox.limits import Limits
from toolorch_serving.sandbox.process import Job, run_job
from toolorch_serving.sandbox.result import SandboxResult
from toolorch_serving.sandbox.runtime import PACKAGES, Runtime, find_runtime, packages_folder, reachable
from toolorch_serving.sandbox.seccomp import filter_program, supported

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
        bubblewrap: str = "bwrap",
        run_unread_code_without_any_sandbox: bool = False,
    ) -> None:
        self.limits = limits or Limits()
        self.wait_seconds = wait_seconds
        self._packages = packages_folder(Path(packages)) if packages is not None else None
        self._at_once = at_once or os.cpu_count() or 1
        self._places = threading.BoundedSemaphore(self._at_once)
        self._command: list[str] | None = None
        try:
            self._prepare(bubblewrap)
        except SandboxUnavailableError as error:
            if not run_unread_code_without_any_sandbox:
                raise
            warnings.warn(f"Programs run without a sandbox, with all rights of this process. {error}", stacklevel=2)

    @property
    def confined(self) -> bool:
        """Whether programs run in a sandbox."""
        return self._command is not None

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
        stop, _other = os.pipe()
        try:
            return self._run(code, stdin, files or {}, limits or self.limits, stop)
        finally:
            os.close(stop)
            os.close(_other)

    async def arun(
        self, code: str, *, stdin: str = "", files: Mapping[str, bytes] | None = None, limits: Limits | None = None
    ) -> SandboxResult:
        """Do as `run`, from an event loop; a run that is cancelled is killed at once."""
        stop, tell = os.pipe()
        work = self._threads.submit(self._run_until, code, stdin, files or {}, limits or self.limits, stop)
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

    # --- inside ---

    def _prepare(self, bubblewrap: str) -> None:
        if sys.platform != "linux":
            raise SandboxUnavailableError(f"The sandbox needs Linux, and this is {sys.platform}: use a container.")
        if not supported():
            raise SandboxUnavailableError("The sandbox has no filter of system calls for this processor.")
        runtime: Runtime = find_runtime()
        path = find_bubblewrap(bubblewrap)
        if unprivileged_user():
            runtime = runtime.readable_by_all()
            if self._packages is not None and not reachable(self._packages):
                raise SandboxError(
                    f"packages: {self._packages} cannot be read by users without rights, as whom programs run when "
                    "this process is root's: put it elsewhere, or chmod o+rx the folders above it."
                )
        self._runtime, self._path = runtime, path
        self._command = sandbox_command(path, runtime, self._packages, self.limits)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(WAITING, thread_name_prefix="toolorch-sandbox")

    def _run_until(self, code: str, stdin: str, files: Mapping[str, bytes], limits: Limits, stop: int) -> SandboxResult:
        try:
            return self._run(code, stdin, files, limits, stop)
        finally:
            os.close(stop)

    def _run(self, code: str, stdin: str, files: Mapping[str, bytes], limits: Limits, stop: int) -> SandboxResult:
        _check_files(files)
        with self._place():
            if self._command is not None:
                return run_job(self._confined_job(code, stdin, files, limits), stop)
            with tempfile.TemporaryDirectory(prefix="toolorch-", ignore_cleanup_errors=True) as folder:
                return run_job(self._unconfined_job(code, stdin, files, limits, folder), stop)

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

    def _confined_job(self, code: str, stdin: str, files: Mapping[str, bytes], limits: Limits) -> Job:
        common = self._command
        if limits.disk != self.limits.disk or common is None:
            common = sandbox_command(self._path, self._runtime, self._packages, limits)

        def command(job: int, info: int, seccomp: int) -> list[str]:
            return [
                *(*common, "--info-fd", str(info), "--seccomp", str(seccomp)),
                *("--", self._runtime.interpreter, *interpreter_arguments(), str(job)),
            ]

        def payload(ready: int) -> bytes:
            path = [PACKAGES] if self._packages is not None else []
            return _payload(code, files, FOLDER, path, rlimits(limits, confined=True), ready)

        options: dict[str, object] = {**unprivileged_user(), "cwd": "/"}
        return Job(command, payload, stdin.encode(), limits, FOLDER, filter_program(), options, confined=True)

    def _unconfined_job(self, code: str, stdin: str, files: Mapping[str, bytes], limits: Limits, folder: str) -> Job:
        def command(job: int, info: int, seccomp: int) -> list[str]:
            return [sys.executable, *interpreter_arguments(), str(job)]

        def payload(ready: int) -> bytes:
            path = [str(self._packages)] if self._packages is not None else []
            return _payload(code, files, folder, path, rlimits(limits, confined=False), ready)

        return Job(command, payload, stdin.encode(), limits, folder, None, {"cwd": folder}, confined=False)


def _payload(
    code: str, files: Mapping[str, bytes], home: str, path: list[str], limits: dict[str, int], ready: int
) -> bytes:
    """Return a job as `child.py` reads it."""
    source = code.encode("utf-8", errors="replace")
    job = {"code": source, "files": dict(files), "home": home, "path": path, "limits": limits, "ready": ready}
    return marshal.dumps(job)


def _check_files(files: Mapping[str, bytes]) -> None:
    for name in files:
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
            raise SandboxError(f"files: {name!r} leads out of the program's folder: give a relative path.")
