"""`code_interpreter`: Python that a model has written, in a sandbox, told to the policy in clear words."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

from toolorch_integrations.entry import Tool
from toolorch_integrations.observation import cut
from toolorch_serving.sandbox import Limits, Reason, Sandbox, SandboxError, SandboxResult
from toolorch_serving.tools.errors import ToolError
from toolorch_serving.tools.tool_function import ToolFunction, text_parameters

NAME = "code_interpreter"
OUTPUT_CHARACTERS = 10_000
"""Characters of a program's output that the policy sees."""
ERROR_LINES = 12
"""Last lines of a program's error output that the policy sees."""
WARM = 2
"""Sandboxes that wait for a program, so that its start takes milliseconds."""

_NOTHING = "(nothing printed: print what you want to see)"


def code_interpreter(sandbox: Sandbox | None = None) -> ToolFunction:
    """Return the tool.

    Args:
        sandbox: Where programs run; None makes one with the usual limits at the first call, which fails with words
            that name what is missing where there can be none.
    """
    interpreter = _Interpreter(sandbox)
    entry = Tool(
        name=NAME,
        description="Runs a Python program in a fresh interpreter without network and returns what it prints.",
        parameters=text_parameters("code", "A whole Python program; it prints what is to be seen."),
        latency=0.2,
        capabilities=("code",),
        destructive=False,
        timeout=(sandbox.limits if sandbox else Limits()).seconds + 80,  # waiting for a place included
    )
    return ToolFunction(entry, interpreter.run, interpreter.arun)


class _Interpreter:
    def __init__(self, sandbox: Sandbox | None) -> None:
        self._sandbox = sandbox
        self._making = threading.Lock()

    def run(self, code: str) -> str:
        try:
            sandbox = self._made()
            return observed(sandbox.run(code), sandbox.limits)
        except SandboxError as error:
            raise _refusal(error) from error

    async def arun(self, code: str) -> str:
        try:
            sandbox = self._sandbox
            if sandbox is None:
                sandbox = await asyncio.to_thread(self._made)  # it may copy Python's library first
            return observed(await sandbox.arun(code), sandbox.limits)
        except SandboxError as error:
            raise _refusal(error) from error

    def _made(self) -> Sandbox:
        with self._making:
            if self._sandbox is None:
                self._sandbox = Sandbox(warm=WARM)
            return self._sandbox


def observed(result: SandboxResult, limits: Limits) -> str:
    """Return what the policy sees of a run: output, and where it went wrong why, with the last lines of its error."""
    output = cut(result.stdout.rstrip("\n"), OUTPUT_CHARACTERS)
    errors = "\n".join(result.stderr.rstrip("\n").splitlines()[-ERROR_LINES:])
    if result.ok:
        return "\n".join(part for part in (output, errors and f"Error output:\n{errors}") if part) or _NOTHING
    parts = [f"Error: the program {_why(result, limits)}."]
    if output:
        parts.append(f"Output before that:\n{output}")
    if errors and result.reason is not Reason.OUTPUT:
        parts.append(f"Last lines of its error output:\n{cut(errors, OUTPUT_CHARACTERS)}")
    return "\n".join(parts)


def _why(result: SandboxResult, limits: Limits) -> str:
    number = (result.exit_code or 0) - 128
    reasons: Mapping[Reason | None, str] = {
        None: f"failed with exit status {result.exit_code}",
        Reason.TIMEOUT: f"was stopped after {limits.seconds:g} s: it took too long. Compute less, or in another way",
        Reason.MEMORY: f"needed more than {_size(limits.memory)} of memory. Keep less at once",
        Reason.OUTPUT: f"printed more than {_size(limits.output)} and was stopped. Print results only",
        Reason.FILES: f"made more than {limits.files} files and was stopped",
        Reason.KILLED: "was killed" + (f" by signal {number}" if number > 0 else ""),
    }
    return reasons[result.reason]


def _size(count: int) -> str:
    return f"{count / 2**20:g} MiB" if count >= 2**20 else f"{count / 2**10:g} KiB"


def _refusal(error: SandboxError) -> ToolError:
    return ToolError(f"the program was not run: {error}")
