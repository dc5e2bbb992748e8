"""One run of a program: started, read, limited, and ended with all that it started."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from toolorch_serving.sandbox.command import explain
from toolorch_serving.sandbox.errors import SandboxError, SandboxUnavailableError
from toolorch_serving.sandbox.limits import Limits
from toolorch_serving.sandbox.result import Reason, SandboxResult
from toolorch_serving.sandbox.watch import INTERVAL, over

START_SECONDS = 30.0
"""Wall clock until a program must have begun: a machine under load is no reason to give up."""
_END_SECONDS = 10.0
_STDERR_OF_MEMORY = "MemoryError"
_CPU = 128 + signal.SIGXCPU


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be started.

    Attributes:
        command: Takes the numbers of the descriptors `job`, `info` and `seccomp`; returns the command.
        payload: Takes the number of the descriptor `ready`; returns what the program's first lines read.
        stdin: The program's standard input.
        limits: What it may use.
        folder: Where its files are, as a path inside.
        filter: The filter of system calls; None for none.
        options: Further options of `subprocess.Popen`.
        confined: Whether it has namespaces of its own.
    """

    command: Callable[[int, int, int], Sequence[str]]
    payload: Callable[[int], bytes]
    stdin: bytes
    limits: Limits
    folder: str
    filter: bytes | None
    options: dict[str, object]
    confined: bool


@dataclass(slots=True)
class _Stream:
    """An output of the program, kept up to a limit."""

    limit: int
    kept: bytearray = field(default_factory=bytearray)
    cut: bool = False

    def take(self, piece: bytes) -> None:
        room = self.limit - len(self.kept)
        self.cut = self.cut or len(piece) > room
        self.kept += piece[:room]

    def text(self) -> str:
        return self.kept.decode("utf-8", errors="replace")


def run_job(job: Job, stop: int) -> SandboxResult:
    """Run a program to its end or to a limit.

    Args:
        job: What to run.
        stop: A descriptor; when it becomes readable, the program is killed.

    Raises:
        SandboxUnavailableError: The sandbox could not be set up; the message has its words and the fix.
        SandboxError: The machine could not start a process.
    """
    with ExitStack() as stack:
        run = _Run(job, stack)
        try:
            run.start()
            run.follow(stop)
        finally:
            run.end()
        return run.result()


class _Run:
    def __init__(self, job: Job, stack: ExitStack) -> None:
        self.job = job
        self.stack = stack
        self.outputs = (_Stream(job.limits.output), _Stream(job.limits.output))
        self.reason: Reason | None = None
        self.began = time.monotonic()
        self.ready: float | None = None
        self.ended: float | None = None
        self.first: int | None = None  # process id of the sandbox's first process
        self.first_handle: int | None = None
        self.info = b""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; what is open in this one stays here, but for what is named."""
        self.ready_end, ready = self._pipe()
        self.info_end, info = self._pipe()
        payload = self._memory(self.job.payload(ready))
        passed = [payload, ready, info]
        seccomp = -1
        if self.job.filter is not None:
            seccomp = self._memory(self.job.filter)
            passed.append(seccomp)
        try:
            self.process = subprocess.Popen(  # type: ignore[call-overload]
                self.job.command(payload, info, seccomp),
                stdin=self._memory(self.job.stdin),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=passed,
                env={},
                start_new_session=True,
                **self.job.options,
            )
        except OSError as error:
            raise SandboxError(f"The sandbox cannot start a process: {error}.") from error
        for descriptor in (ready, info):
            os.close(descriptor)

    def follow(self, stop: int) -> None:
        """Read and watch until the program has ended or is over a limit."""
        process = self.process
        assert process is not None
        assert process.stdout is not None
        assert process.stderr is not None
        out, error = process.stdout.fileno(), process.stderr.fileno()
        with selectors.DefaultSelector() as selector:
            handle = os.pidfd_open(process.pid)
            self.stack.callback(os.close, handle)
            sources = {
                out: lambda: self._read(out, 0),
                error: lambda: self._read(error, 1),
                self.ready_end: self._is_ready,
                self.info_end: self._informed,
                handle: self._has_ended,
                stop: lambda: self._kill(Reason.KILLED),
            }
            for descriptor in sources:
                selector.register(descriptor, selectors.EVENT_READ)
            looked = self.began
            while self.reason is None:
                for key, _ in selector.select(INTERVAL):
                    if not sources[key.fd]():
                        selector.unregister(key.fd)
                reading = not selector.get_map().keys().isdisjoint((out, error))
                now = time.monotonic()
                if self.ended is not None and (not reading or now - self.ended > _END_SECONDS):
                    return
                if now - looked >= INTERVAL:
                    looked = now
                    self._look(now)

    def end(self) -> None:
        """Kill what is left, and wait until the sandbox's first process, and so all of them, are gone."""
        if self.process is None:
            return
        if self.job.confined:
            self._await_first()
            if self.first_handle is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.first_handle, signal.SIGKILL)
            self.process.kill()
        else:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(_END_SECONDS)
        if self.first_handle is not None:
            with selectors.DefaultSelector() as selector:
                selector.register(self.first_handle, selectors.EVENT_READ)
                selector.select(_END_SECONDS)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def result(self) -> SandboxResult:
        """Return what came of it."""
        assert self.process is not None
        out, error = (stream.text() for stream in self.outputs)
        code: int | None = self.process.returncode if self.ended is not None and self.reason is None else None
        now = time.monotonic()
        if self.ready is None and self.reason is not Reason.KILLED:
            raise SandboxUnavailableError(f"The sandbox could not be set up: {explain(error)}")
        if code is not None and code < 0:  # without a sandbox, signals are told apart
            code = 128 - code
        return SandboxResult(
            out,
            error,
            code,
            self.reason or _reason_of(code, error),
            seconds=(self.ended or now) - (self.ready or now),
            start_seconds=(self.ready or now) - self.began,
            stdout_cut=self.outputs[0].cut,
            stderr_cut=self.outputs[1].cut,
            confined=self.job.confined,
        )

    # --- what can happen; each returns whether its source goes on ---

    def _read(self, descriptor: int, index: int) -> bool:
        piece = os.read(descriptor, 2**16)
        self.outputs[index].take(piece)
        if self.outputs[index].cut:
            self._kill(Reason.OUTPUT)
        return bool(piece)

    def _is_ready(self) -> bool:
        if os.read(self.ready_end, 1):
            self.ready = time.monotonic()
        return False

    def _await_first(self) -> None:
        """Learn of the sandbox's first process where it is not known yet.

        bubblewrap's child waits for its parent before it arranges to die with it: killed before, the parent would
        leave it waiting for ever.
        """
        until = time.monotonic() + _END_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.info_end, selectors.EVENT_READ)
            while self.first is None and time.monotonic() < until:
                if selector.select(INTERVAL) and not self._informed():
                    return

    def _informed(self) -> bool:
        """Read bubblewrap's JSON, which it may write in pieces."""
        said = os.read(self.info_end, 2**16)
        self.info += said
        try:
            first: int = json.loads(self.info)["child-pid"]
        except ValueError:
            return bool(said)
        self.first = first
        with suppress(ProcessLookupError):
            self.first_handle = os.pidfd_open(first)
            self.stack.callback(os.close, self.first_handle)
        return False

    def _has_ended(self) -> bool:
        assert self.process is not None
        self.process.wait()
        self.ended = time.monotonic()
        return False

    def _look(self, now: float) -> None:
        limit, since = (START_SECONDS, self.began) if self.ready is None else (self.job.limits.seconds, self.ready)
        if now - since > limit and self.ended is None:
            self._kill(Reason.TIMEOUT)
        elif self.first is not None and self.ready is not None and self.ended is None:
            reason = over(self.first, self.job.limits, self.job.folder)
            if reason is not None:
                self._kill(reason)

    def _kill(self, reason: Reason) -> bool:
        self.reason = self.reason or reason
        return False

    def _pipe(self) -> tuple[int, int]:
        mine, theirs = os.pipe()
        self.stack.callback(os.close, mine)
        return mine, theirs

    def _memory(self, content: bytes) -> int:
        """Return a descriptor of a file in memory, at its beginning."""
        descriptor = os.memfd_create("toolorch")
        self.stack.callback(os.close, descriptor)
        with open(descriptor, "wb", closefd=False) as stream:
            stream.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor


def _reason_of(code: int | None, error: str) -> Reason | None:
    """Return why a program that ended was ended, as far as its exit status tells."""
    if code == _CPU:
        return Reason.TIMEOUT
    if code == 1 and (error.strip().splitlines() or [""])[-1].startswith(_STDERR_OF_MEMORY):
        return Reason.MEMORY
    return Reason.KILLED if code is not None and code > 128 else None
