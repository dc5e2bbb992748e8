"""One run of a program: started, read, limited, and ended with all that it started."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from toolorch_serving.sandbox.command import explain
from toolorch_serving.sandbox.descriptors import OpenDescriptors, fill
from toolorch_serving.sandbox.errors import SandboxError, SandboxUnavailableError
from toolorch_serving.sandbox.job import Descriptors, Launch, Program
from toolorch_serving.sandbox.output import OutputStream, reason_of
from toolorch_serving.sandbox.result import Reason, SandboxResult
from toolorch_serving.sandbox.watch import INTERVAL, over

START_SECONDS = 30.0
"""Wall clock until a program must have begun: a machine under load is no reason to give up."""
_END_SECONDS = 10.0


class SandboxProcess:
    """A started sandbox that waits for a program, runs it, and is gone.

    The thread that makes it must live as long as it does: with the thread the sandbox dies, so that a host that is
    killed leaves none behind.

    Args:
        launch: How it is started.

    Raises:
        SandboxError: The machine could not start a process.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.reason: Reason | None = None
        self.began = time.monotonic()
        self.ready: float | None = None
        self.ended: float | None = None
        self.first: int | None = None  # process id of the sandbox's first process
        self.first_handle: int | None = None
        self.info = b""
        self.exit_code: int | None = None
        self.descriptors = OpenDescriptors()
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self._start()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise SandboxError(f"The sandbox cannot start a process: {error}.") from error
            raise

    def run(self, program: Program, stop: int, began: float | None = None) -> SandboxResult:
        """Run a program to its end or to a limit; the sandbox is gone afterwards.

        Args:
            program: What to run.
            stop: A descriptor; when it becomes readable, the program is killed.
            began: When the program was given, by `time.monotonic`; None takes the sandbox's own start.

        Raises:
            SandboxUnavailableError: The sandbox could not be set up; the message has its words and the fix.
        """
        try:
            self.began = self.began if began is None else began
            self.limits = program.limits
            self.outputs = (OutputStream(self.limits.output), OutputStream(self.limits.output))
            fill(self.stdin, program.stdin.encode("utf-8", errors="replace"))
            fill(self.job, program.payload(self.launch))
            with suppress(BrokenPipeError):  # it has failed: its words are read below
                os.write(self.go, b"1")
            self._follow(stop)
        finally:
            self.close()
        return self._result()

    @property
    def alive(self) -> bool:
        """Whether it still waits for a program, or runs one."""
        return self.process is not None and self.process.poll() is None

    def close(self) -> None:
        """Kill what is left, and wait until the sandbox's first process, and so all of them, are gone."""
        process, self.process = self.process, None
        try:
            if process is not None:
                self._kill_all(process)
        finally:
            self.descriptors.close_all()

    def _start(self) -> None:
        """Start the process; what is open in this one stays here, but for what is named."""
        self.ready_end, ready = self.descriptors.pipe()
        self.info_end, info = self.descriptors.pipe()
        go, self.go = self.descriptors.pipe()
        self.stdin, self.job, seccomp = self.descriptors.memory(), self.descriptors.memory(), self.descriptors.memory()
        fill(seccomp, self.launch.filter)
        inherited = Descriptors(job=self.job, go=go, ready=ready, info=info, seccomp=seccomp)
        self.process = subprocess.Popen(
            self.launch.command(inherited),
            stdin=self.stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(self.job, go, ready, info, seccomp),
            env={},
            start_new_session=True,
            **self.launch.options,
        )
        self.descriptors.close(go, ready, info)

    def _follow(self, stop: int) -> None:
        """Read and watch until the program has ended or is over a limit."""
        process = self.process
        assert process is not None
        assert process.stdout is not None
        assert process.stderr is not None
        out, error = process.stdout.fileno(), process.stderr.fileno()
        with selectors.DefaultSelector() as selector:
            handle = self.descriptors.process(process.pid)
            sources: dict[int, Callable[[], bool]] = {
                out: partial(self._read, out, 0),
                error: partial(self._read, error, 1),
                self.ready_end: self._is_ready,
                self.info_end: self._informed,
                handle: self._has_ended,
                stop: partial(self._kill, Reason.KILLED),
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

    def _kill_all(self, process: subprocess.Popen[bytes]) -> None:
        if self.launch.confined:
            self._await_first()
            if self.first_handle is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.first_handle, signal.SIGKILL)
            process.kill()
        else:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        try:
            self.exit_code = process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise SandboxError(f"The sandbox's process {process.pid} does not end, though it was killed.") from error
        if self.first_handle is not None:
            with selectors.DefaultSelector() as selector:
                selector.register(self.first_handle, selectors.EVENT_READ)
                selector.select(_END_SECONDS)
            with suppress(ChildProcessError):  # it is this process's child where that is a container's first
                os.waitid(os.P_PIDFD, self.first_handle, os.WEXITED | os.WNOHANG)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()

    def _result(self) -> SandboxResult:
        out, error = (stream.text() for stream in self.outputs)
        code: int | None = self.exit_code if self.ended is not None and self.reason is None else None
        now = time.monotonic()
        if self.ready is None and self.reason is not Reason.KILLED:
            late = f"it did not start within {START_SECONDS:g} s" if self.reason is Reason.TIMEOUT else ""
            raise SandboxUnavailableError(f"The sandbox could not be set up: {late or explain(error)}")
        if code is not None and code < 0:  # without a sandbox, signals are told apart
            code = 128 - code
        return SandboxResult(
            out,
            error,
            code,
            self.reason or reason_of(code, error),
            seconds=(self.ended or now) - (self.ready or now),
            start_seconds=(self.ready or now) - self.began,
            stdout_cut=self.outputs[0].cut,
            stderr_cut=self.outputs[1].cut,
            confined=self.launch.confined,
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
            self.first_handle = self.descriptors.process(first)
        return False

    def _has_ended(self) -> bool:
        assert self.process is not None
        self.process.wait()
        self.ended = time.monotonic()
        return False

    def _look(self, now: float) -> None:
        limit, since = (START_SECONDS, self.began) if self.ready is None else (self.limits.seconds, self.ready)
        if now - since > limit and self.ended is None:
            self._kill(Reason.TIMEOUT)
        elif self.first is not None and self.ready is not None and self.ended is None:
            reason = over(self.first, self.limits, self.launch.folder)
            if reason is not None:
                self._kill(reason)

    def _kill(self, reason: Reason) -> bool:
        self.reason = self.reason or reason
        return False
