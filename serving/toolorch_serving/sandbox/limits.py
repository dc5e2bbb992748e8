"""What a program in the sandbox may use."""

from __future__ import annotations

from dataclasses import dataclass, fields

from toolorch_serving.sandbox.errors import SandboxError

KIB, MIB = 2**10, 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: Wall clock, from the program's first line.
        cpu_seconds: Processor seconds of each process, rounded up.
        memory: Bytes of address space of each process, and of resident memory of all together.
        processes: Processes and threads at once.
        disk: Bytes of all its files.
        file_bytes: Bytes of one file.
        files: Files and folders that it may have.
        open_files: Open files of each process.
        output: Bytes of standard output, and as many of standard error. A program that writes more is ended.

    Raises:
        SandboxError: A limit is not above zero.
    """

    seconds: float = 10.0
    cpu_seconds: float = 10.0
    memory: int = 512 * MIB
    processes: int = 32
    disk: int = 64 * MIB
    file_bytes: int = 32 * MIB
    files: int = 10_000
    open_files: int = 64
    output: int = 256 * KIB

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 2**62:
                raise SandboxError(f"limits.{field.name} is {value!r}: give a number above zero.")
