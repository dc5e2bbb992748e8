"""A sandbox to be started, and a program to be given to it."""

from __future__ import annotations

import marshal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from toolorch_serving.sandbox.command import (
    FOLDER,
    interpreter_arguments,
    rlimits,
    sandbox_command,
    unprivileged_user,
)
from toolorch_serving.sandbox.errors import SandboxError
from toolorch_serving.sandbox.limits import Limits
from toolorch_serving.sandbox.runtime import PACKAGES, Runtime
from toolorch_serving.sandbox.seccomp import filter_program


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Numbers of what a sandbox inherits.

    Attributes:
        job: File in memory that holds the program.
        go: Pipe that says when it is complete.
        ready: Pipe on which the program's first lines say that all limits are set.
        info: Pipe for what bubblewrap says of the process.
        seccomp: File in memory with the filter of system calls.
    """

    job: int
    go: int
    ready: int
    info: int
    seccomp: int


@dataclass(frozen=True, slots=True)
class Launch:
    """How a sandbox is started.

    Attributes:
        command: Returns its command.
        options: Further options of `subprocess.Popen`.
        folder: Where its files are, as a path inside.
        path: Further folders of modules, inside.
        filter: The filter of system calls; empty for none.
        confined: Whether it has namespaces of its own.
    """

    command: Callable[[Descriptors], Sequence[str]]
    options: Mapping[str, Any]
    folder: str
    path: tuple[str, ...]
    filter: bytes
    confined: bool


@dataclass(frozen=True, slots=True)
class Program:
    """A program with its surroundings.

    Attributes:
        code: Python source.
        stdin: Its standard input.
        files: Contents by relative path, put into its folder before it starts.
        limits: What it may use.

    Raises:
        SandboxError: A file's path leads out of the folder.
    """

    code: str
    stdin: str
    files: Mapping[str, bytes]
    limits: Limits

    def __post_init__(self) -> None:
        for name in self.files:
            path = PurePosixPath(name)
            if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
                raise SandboxError(f"files: {name!r} leads out of the program's folder: give a relative path.")

    def payload(self, launch: Launch) -> bytes:
        """Return the job as `child.py` reads it."""
        job = {
            "code": self.code.encode("utf-8", errors="replace"),
            "files": dict(self.files),
            "home": launch.folder,
            "path": list(launch.path),
            "limits": rlimits(self.limits, confined=launch.confined),
        }
        return marshal.dumps(job)


def confined_launch(bubblewrap: str, runtime: Runtime, packages: Path | None, disk: int) -> Launch:
    """Return the start of a sandbox whose files take at most `disk` bytes."""
    common = sandbox_command(bubblewrap, runtime, packages, disk)

    def command(inherited: Descriptors) -> list[str]:
        return [
            *(*common, "--info-fd", str(inherited.info), "--seccomp", str(inherited.seccomp)),
            *("--", runtime.interpreter, *_arguments(inherited)),
        ]

    path = (PACKAGES,) if packages is not None else ()
    return Launch(command, {**unprivileged_user(), "cwd": "/"}, FOLDER, path, filter_program(), confined=True)


def unconfined_launch(packages: Path | None, folder: str) -> Launch:
    """Return the start of an ordinary process in a folder."""

    def command(inherited: Descriptors) -> list[str]:
        return [sys.executable, *_arguments(inherited)]

    path = (str(packages),) if packages is not None else ()
    return Launch(command, {"cwd": folder}, folder, path, b"", confined=False)


def _arguments(inherited: Descriptors) -> list[str]:
    return [*interpreter_arguments(), *map(str, (inherited.job, inherited.go, inherited.ready))]
