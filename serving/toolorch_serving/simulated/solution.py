"""What a question is to the simulated specialists, and what solving one gives."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

_RESULTS = "\n\nResults so far:\n"
_TASK = "\n\nYour task: "


@dataclass(frozen=True, slots=True)
class Question:
    """What a specialist is asked, taken apart.

    Attributes:
        text: The request, or the task where the policy wrote one that can be understood by itself.
        results: What tools and other specialists have answered so far, one text each.
    """

    text: str
    results: tuple[str, ...] = ()

    @classmethod
    def parse(cls, prompt: str) -> Question:
        """Take a specialist's prompt (see `toolorch_integrations.prompt.specialist_messages`) apart."""
        prompt, _, task = prompt.partition(_TASK)
        request, _, listed = prompt.partition(_RESULTS)
        results = tuple(part.strip() for part in re.split(r"(?m)^\[[A-Za-z0-9_.-]+\] ", listed) if part.strip())
        return cls(" ".join(part for part in (request, task) if part).strip(), results)


@dataclass(frozen=True, slots=True)
class Solution:
    """A question that was understood.

    Attributes:
        domain: What skill it takes, such as `mathematics`.
        difficulty: 1 (easy) to 3 (hard).
        right: The right reply, its working included.
        wrong: A reply that errs as somebody would: a swapped operand, one off, the wrong line of a document.
    """

    domain: str
    difficulty: int
    right: str
    wrong: str


Family = Callable[[Question], Solution | None]
"""Solves the questions that it understands and returns None for all others."""

Steps = tuple[object, object, str]
"""The right value, the wrong value, and the working in words."""


def family(domain: str, difficulty: int, pattern: str) -> Callable[[Callable[[re.Match[str]], Steps]], Family]:
    """Make a family of questions out of a pattern and the function that solves what it matches."""
    compiled = re.compile(pattern, re.IGNORECASE | re.DOTALL)

    def wrap(solve: Callable[[re.Match[str]], Steps]) -> Family:
        def solved(question: Question) -> Solution | None:
            match = compiled.search(question.text)
            if match is None:
                return None
            try:
                right, wrong, working = solve(match)
            except (ArithmeticError, ValueError):
                return None
            return Solution(domain, difficulty, _reply(working, right), _reply(working, wrong))

        solved.__name__ = solve.__name__
        solved.__doc__ = solve.__doc__
        return solved

    return wrap


def number(value: object) -> str:
    """Write a value: whole numbers plainly, fractions with two decimals, anything else as it is."""
    if isinstance(value, Fraction | float):
        if value == int(value):
            return str(int(value))
        return f"{float(value):.2f}".rstrip("0").rstrip(".") if math.isfinite(value) else str(value)
    return str(value)


def _reply(working: str, value: object) -> str:
    return f"{working} The answer is {number(value)}."
