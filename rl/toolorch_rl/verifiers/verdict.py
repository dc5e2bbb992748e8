"""What a verifier is, and what it says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from toolorch_integrations.errors import ToolorchError
from toolorch_integrations.trace import Trace


class VerifierError(ToolorchError, ValueError):
    """A verifier cannot judge an item: the reference or the answer is not what it takes. The message names it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier found."""

    score: float
    """From 0 to 1; between them where part of the work was done."""
    passed: bool
    """Whether the task counts as solved."""
    reason: str
    """In words, for people."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """JSON-safe facts behind the verdict; each verifier says which."""

    def __bool__(self) -> bool:
        # Where a verdict may be missing, `if verdict` would take a No for none; without this, a No for a Yes.
        raise TypeError("a verdict is neither true nor false: ask for its `passed`")


class Verifier(Protocol):
    """Judges one outcome against a task's reference. Verifiers keep no state between items but what they spend."""

    def verify(self, reference: Any, outcome: Any) -> Verdict:
        """Judge an answer (a text) or a trace.

        Raises:
            VerifierError: The reference or the outcome cannot be judged.
        """
        ...


@dataclass(frozen=True, slots=True)
class Checked:
    """An item of a batch: a verdict, or why there is none."""

    item: str
    verdict: Verdict | None
    error: str = ""


def verify_all(verifier: Verifier, items: Iterable[tuple[str, Any, Any]], *, workers: int = 1) -> list[Checked]:
    """Judge many items; one that cannot be judged says so, and the rest goes on.

    Args:
        verifier: Who judges.
        items: Name, reference and outcome of each.
        workers: Threads: more than one pays for verifiers that wait for a server or a child process.

    Returns:
        One for each item, in their order.
    """

    def check(item: tuple[str, Any, Any]) -> Checked:
        name, reference, outcome = item
        try:
            return Checked(name, verifier.verify(reference, outcome))
        except ToolorchError as error:
            return Checked(name, None, f"{name}: {error}")

    if workers <= 1:
        return [check(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(check, items))


def answer_of(outcome: Any) -> str:
    """Return the answer in an outcome: a text is one itself, a trace has one.

    Raises:
        VerifierError: It is neither.
    """
    if isinstance(outcome, str):
        return outcome
    if isinstance(outcome, Trace):
        return outcome.answer
    raise VerifierError(f"outcome must be an answer (a text) or a trace, got {type(outcome).__name__}")


def shortened(text: Any, limit: int = 120) -> str:
    """Return a value as a reason quotes it."""
    shown = repr(text)
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


NO_ANSWER = Verdict(0.0, False, "there is no answer")
"""Of an empty answer."""
