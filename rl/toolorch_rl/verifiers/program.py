"""A program of the task's author decides, in a child process with limits.

The program is trusted as the task is; the answer is only data that it reads. The limits hold back a program that
loops or grows, and are no sandbox: the child may use the network and read files.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from toolorch_rl.verifiers.verdict import Verdict, VerifierError, answer_of, shortened

_OUTPUT = 65_536
"""Bytes of the program's output that are read."""

# Runs in the child, before the program: `preexec_fn` could deadlock where the parent has threads.
_START = """
import json, resource, runpy, sys
limits = json.loads(sys.argv[1])
for name, value in (("RLIMIT_CPU", limits["cpu_seconds"]), ("RLIMIT_AS", limits["memory_bytes"]),
                    ("RLIMIT_FSIZE", limits["file_bytes"]), ("RLIMIT_CORE", 0)):
    resource.setrlimit(getattr(resource, name), (value, value))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True, slots=True)
class ProgramLimits:
    """What a checking program may use."""

    seconds: float = 10.0
    """Wall clock; then it and all that it has started are killed."""
    cpu_seconds: int = 10
    memory_bytes: int = 1 << 30
    """Address space."""
    file_bytes: int = 10 << 20
    """Size of a file that it writes, its output included."""


@dataclass(frozen=True, slots=True)
class ProgramVerifier:
    """Runs Python source. It reads one JSON object, `{"reference": ..., "answer": ...}`, from its standard input.

    Its last line of output is JSON: `{"score": 0.5, "passed": false, "reason": "..."}` (`passed` defaults to score 1,
    `reason` to nothing), or only `true` or `false`. It runs isolated from the parent's environment variables and
    user site packages, in an empty folder.

    Attributes:
        source: The program.
        limits: What it may use.
    """

    source: str
    limits: ProgramLimits = field(default_factory=ProgramLimits)

    def verify(self, reference: Any, outcome: Any) -> Verdict:
        """Judge an answer; the reference is any JSON value that the program knows.

        A program that fails, or takes more than its limits, has judged nothing: that is an error, and not a wrong
        answer.

        Raises:
            VerifierError: The program failed, was killed, or printed no verdict.
        """
        try:
            item = json.dumps({"reference": reference, "answer": answer_of(outcome)})
        except (TypeError, ValueError) as error:
            raise VerifierError(f"reference {shortened(reference)} is not JSON: {error}") from error
        with tempfile.TemporaryDirectory(prefix="toolorch-checker-") as folder:
            return self._run(Path(folder), item)

    def _run(self, folder: Path, item: str) -> Verdict:
        program = folder / "checker.py"
        program.write_text(self.source, encoding="utf-8")
        work = folder / "work"
        work.mkdir()
        command = [sys.executable, "-I", "-c", _START, json.dumps(asdict(self.limits)), str(program)]
        with (
            (folder / "in").open("w+b") as given,
            (folder / "out").open("w+b") as out,
            (folder / "err").open("w+b") as err,
        ):
            given.write(item.encode())
            given.seek(0)
            child = subprocess.Popen(
                command,
                stdin=given,
                stdout=out,
                stderr=err,
                cwd=work,
                env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                start_new_session=True,
            )
            try:
                code = child.wait(self.limits.seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                with contextlib.suppress(ProcessLookupError):  # nobody of its session is left
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            if code is None:
                raise VerifierError(f"the checking program was killed after {self.limits.seconds:g} s")
            if code:
                why = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                raise VerifierError(f"the checking program failed ({why}): {_tail(err)[-500:].strip()}")
            return _verdict(_tail(out))


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _OUTPUT))
    return file.read().decode(errors="replace")


def _verdict(output: str) -> Verdict:
    lines = output.strip().splitlines()
    problem = VerifierError(
        'the checking program must end with a line {"score": ..., "reason": ...}, true or false; '
        f"it ended with {shortened(lines[-1]) if lines else 'nothing'}"
    )
    try:
        found = json.loads(lines[-1])
        if isinstance(found, bool):
            return Verdict(float(found), found, "the checking program says so")
        score = float(found["score"])
        passed = found.get("passed", score == 1)
        reason = str(found.get("reason", "the checking program gave no reason"))
    except (LookupError, TypeError, ValueError, AttributeError):
        raise problem from None
    if not 0 <= score <= 1 or not isinstance(passed, bool):
        raise problem
    return Verdict(score, passed, reason)
