"""Messages of runs without exact ids, as the tokenizer's template renders them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toolorch_integrations.events import Message
from toolorch_integrations.trace import Trace
from toolorch_rl.training.errors import TrainingError

Ids = npt.NDArray[np.int64]
Rendered = tuple[Ids, npt.NDArray[np.bool_]]
"""Ids, and which of them the policy wrote."""


def rendered_rows(trace: Trace, tokenizer: Any) -> list[Rendered]:
    """Return what the policy wrote in a run, with what it saw, in the template's tokens.

    Turns of a path whose renderings extend each other are one row; a template that drops earlier reasoning, say, gives
    a row for each turn.

    Raises:
        TrainingError: The template refuses the messages, or does not render a reply after its prompt.
    """
    rows: list[Rendered] = []
    done: set[int] = set()
    for path in trace.paths():
        row: Rendered | None = None
        for place, node in enumerate(path.nodes):
            if node.turn is None or not node.turn.is_policy or node.index in done:
                continue
            done.add(node.index)
            prompt, whole = _turn(path.messages[: place + 1], trace.tools(node), tokenizer)
            wrote = np.arange(len(whole)) >= len(prompt)
            if row is not None and len(row[0]) <= len(prompt) and np.array_equal(row[0], whole[: len(row[0])]):
                wrote[: len(row[1])] = row[1]
            elif row is not None:
                rows.append(row)
            row = whole, wrote
        if row is not None:
            rows.append(row)
    return rows


def _turn(messages: Sequence[Message], tools: Any, tokenizer: Any) -> tuple[Ids, Ids]:
    """Return the ids of a turn's prompt, and of the prompt with the reply up to its end-of-turn token."""
    plain = [_readable(message) for message in messages]
    try:
        prompt = tokenizer.apply_chat_template(plain[:-1], tools=tools, add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(plain, tools=tools, return_dict=False)
    except Exception as error:  # templates raise what they like
        raise TrainingError(f"the chat template refuses its messages ({type(error).__name__})") from error
    if whole[: len(prompt)] != prompt:
        raise TrainingError("the chat template does not render a reply after its prompt")
    ends = [place for place in range(len(prompt), len(whole)) if whole[place] == tokenizer.eos_token_id]
    if ends:
        del whole[ends[-1] + 1 :]
    return np.array(prompt, np.int64), np.array(whole, np.int64)


def _readable(message: Message) -> dict[str, Any]:
    """Return a message as templates expect it: arguments as objects, and a text even beside tool calls."""
    changed = dict(message)
    changed["content"] = message.get("content") or ""
    if message.get("tool_calls"):
        changed["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _parsed(call["function"].get("arguments"))}}
            for call in message["tool_calls"]
        ]
    return changed


def _parsed(arguments: Any) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments
