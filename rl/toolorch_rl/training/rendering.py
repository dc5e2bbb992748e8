"""Messages of runs without exact ids, as the tokenizer's template renders them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toolorch_integrations.events import Message
from toolorch_integrations.node import Node
from toolorch_integrations.trace import Trace
from toolorch_rl.rows import Rollout, Row
from toolorch_rl.training.errors import TrainingError

Ids = npt.NDArray[np.uint32]


def rendered_rollout(trace: Trace, tokenizer: Any) -> Rollout:
    """Return what the policy wrote in a run, after what it saw, in the template's tokens; no log-probabilities.

    Turns of a path whose renderings extend each other are one row; a template that drops earlier reasoning, say, gives
    a row for each turn.

    Raises:
        TrainingError: The template refuses the messages, or does not render a reply after its prompt.
    """
    rows: list[Row] = []
    done: set[int] = set()
    for path in trace.paths():
        row: Row | None = None
        for place, node in enumerate(path.nodes):
            if node.turn is None or not node.turn.is_policy or node.index in done:
                continue
            done.add(node.index)
            prompt, whole = _turn(path.messages[: place + 1], trace.tools(node), tokenizer)
            turn = _row(trace.id, node, prompt, whole)
            if row is not None and len(row) <= len(prompt) and np.array_equal(row.ids, whole[: len(row)]):
                turn.trained[: len(row)] = row.trained
                turn.nodes[: len(row)] = row.nodes
            elif row is not None:
                rows.append(row)
            row = turn
        if row is not None:
            rows.append(row)
    return Rollout(trace.id, tuple(rows), tuple(trace.policy_versions))


def _row(trace_id: str, node: Node, prompt: Ids, whole: Ids) -> Row:
    wrote = np.arange(len(whole)) >= len(prompt)
    return Row(
        trace_id=trace_id,
        leaf=node.index,
        ids=whole,
        trained=wrote,
        logprobs=np.full(len(whole), np.nan, np.float32),
        temperatures=np.ones(len(whole), np.float32),
        nodes=np.where(wrote, node.index, -1 if node.parent is None else node.parent).astype(np.int32),
    )


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
    return np.array(prompt, np.uint32), np.array(whole, np.uint32)


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
