"""The words in which a failed call reaches the policy: the same in every face, short, and saying what to do next."""

from __future__ import annotations

import json
from typing import Any

from toolorch_integrations.budget import Limit

MAX_CHARACTERS = 20_000
"""Length at which a tool's result is cut before the policy sees it."""


def failed(name: str, error: BaseException | str) -> str:
    """Say that a tool raised or an endpoint gave no answer."""
    reason = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return f"Error: {name} failed: {cut(reason, 500)}. Try other arguments or another tool."


def timed_out(name: str, seconds: float) -> str:
    """Say that a call was given up."""
    return f"Error: {name} did not answer within {seconds:g} s. Try another tool."


def unknown(name: str, names: tuple[str, ...]) -> str:
    """Say that the policy called something that is not there."""
    return f"Error: there is no tool {name!r}. Choose one of: {', '.join(names)}."


def malformed(name: str, reason: str) -> str:
    """Say that the arguments of a call cannot be used."""
    return f"Error: the call of {name or 'a tool'} is not valid: {cut(reason, 500)}. Correct the arguments."


def no_step(reason: str) -> str:
    """Say that a reply of the policy is neither a usable call nor an answer."""
    return f"Error: {reason}. Call a tool with valid JSON arguments, or answer."


def refused(name: str, reason: str = "") -> str:
    """Say that a person refused a destructive call."""
    return f"The user refused the call of {name}{': ' + reason if reason else ''}. Do not repeat it."


EDITED = "A person has changed this call before it was made. Do not repeat the first one."
"""Begins the observation of such a call; LangChain's middleware adds the rest in the words of `edited`."""
_RESPONSE = "Tool response:\n"


def edited(name: str, arguments: Any, text: str) -> str:
    """Say what was called in place of what the policy wrote, and what came of it."""
    head = f"{EDITED} Executed instead: {name} with arguments {json.dumps(arguments, default=str)}."
    return f"{head}\n\n{_RESPONSE}{text}" if text else head


def unedited(text: str) -> str:
    """Return what came of a call without the words on its change, which are not for the user."""
    return text.partition(_RESPONSE)[2] if text.startswith(EDITED) and _RESPONSE in text else text


def over_budget(name: str, limit: Limit) -> str:
    """Say that a call was not made because a limit was reached."""
    return f"Error: {name} was not called: the budget of {limit.value} is used up. Answer now."


def budget_answer(limit: Limit, results: list[tuple[str, str]]) -> str:
    """Return the answer of a run that ended before the policy gave one: what it has, and why it stops."""
    head = f"The budget of {limit.value} ended before the work was done."
    useful = [f"{name}: {cut(text, 2000)}" for name, text in results if text and not text.startswith("Error:")]
    return f"{head} So far:\n" + "\n".join(useful) if useful else f"{head} There is no result yet."


def cut(text: str, limit: int = MAX_CHARACTERS) -> str:
    """Shorten a text to about `limit` characters, keeping both ends and saying how much is gone."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... [{len(text) - 2 * half} characters left out] ...\n{text[-half:]}"
