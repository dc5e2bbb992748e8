"""Reading a policy's reply: whether it is a step at all."""

from __future__ import annotations

TOOL_CALL_MARKS = ("<tool_call>", "</tool_call>")
"""Text that a server leaves in the content when it could not parse a call (hermes format)."""


UNREADABLE_CALL = "the call could not be read"


def problem_of(text: str, *, calls: int, broken_calls: int) -> str | None:
    """Say why a reply is neither a usable call nor an answer; None when it is one.

    A server that does not stream leaves a malformed call in the content, one that streams passes the broken
    arguments on: both are the same fault.

    Args:
        text: The reply's content.
        calls: How many calls could be read.
        broken_calls: How many could not.
    """
    if calls:
        return None
    if broken_calls or any(mark in text for mark in TOOL_CALL_MARKS):
        return UNREADABLE_CALL
    if not text.strip():
        return "the reply was empty"
    return None
