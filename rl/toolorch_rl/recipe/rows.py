"""Rendered runs as token rows: a system prompt that many runs share, and what comes after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

Ids = np.ndarray[Any, np.dtype[np.uint16]]
Marks = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class Row:
    """One run after its system prompt.

    Attributes:
        ids: Token ids, `uint16`.
        wrote: For each token whether the policy wrote it.
    """

    ids: Ids
    wrote: Marks


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that share a system prompt.

    Attributes:
        prefix: The prompt's token ids; at least one.
        rows: The runs.
    """

    prefix: Ids
    rows: tuple[Row, ...]


def render(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Mapping[str, Any]],
    written: Sequence[bool],
    tools: Sequence[Mapping[str, Any]],
) -> tuple[Ids, Row]:
    """Return a run's system prompt and its row, tokenised as a chat endpoint renders it.

    Args:
        tokenizer: With a prefix-preserving chat template.
        messages: The run; the first is the system message.
        written: For each message whether the policy wrote it.
        tools: Tool schemas; none where they were withheld.
    """
    rendered: Any = (list(messages), list(tools) or None)
    ids: Any = tokenizer.apply_chat_template(rendered[0], tools=rendered[1], return_dict=False)
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>"))
    starts = [index for index, token in enumerate(ids) if token == start]
    ends = [index for index, token in enumerate(ids) if token == end]
    if len(starts) != len(messages) or len(ends) != len(messages):
        raise ValueError(f"the template renders {len(starts)} turns of {len(messages)} messages")
    wrote = np.zeros(len(ids), bool)
    heading = len(tokenizer.encode("<|im_start|>assistant\n"))
    for first, last, policy in zip(starts, ends, written, strict=True):
        if policy:
            wrote[first + heading : last + 1] = True
    cut = starts[1]
    return np.array(ids[:cut], np.uint16), Row(np.array(ids[cut:], np.uint16), wrote[cut:])


def render_group(
    tokenizer: PreTrainedTokenizerFast,
    system: str,
    tools: Sequence[Mapping[str, Any]],
    runs: Sequence[tuple[Sequence[Mapping[str, Any]], Sequence[bool]]],
) -> Group:
    """Return runs that share a system message, tokenised as a chat endpoint renders them; the prompt is rendered once.

    Args:
        tokenizer: With a prefix-preserving chat template.
        system: The system message.
        tools: Tool schemas.
        runs: Of each the messages after the system message, and for each message whether the policy wrote it.
    """
    template: Any = tokenizer.apply_chat_template
    prefix = template([{"role": "system", "content": system}], tools=list(tools) or None, tokenize=False)
    texts = [template(list(messages), tokenize=False) for messages, _ in runs]
    encoded: Any = tokenizer([prefix, *texts], add_special_tokens=False)["input_ids"]
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>"))
    heading = len(tokenizer.encode("<|im_start|>assistant\n"))
    rows = []
    for ids, (messages, written) in zip(encoded[1:], runs, strict=True):
        starts = [index for index, token in enumerate(ids) if token == start]
        ends = [index for index, token in enumerate(ids) if token == end]
        if len(starts) != len(messages) or len(ends) != len(messages):
            raise ValueError(f"the template renders {len(starts)} turns of {len(messages)} messages")
        wrote = np.zeros(len(ids), bool)
        for first, last, policy in zip(starts, ends, written, strict=True):
            if policy:
                wrote[first + heading : last + 1] = True
        rows.append(Row(np.array(ids, np.uint16), wrote))
    return Group(np.array(encoded[0], np.uint16), tuple(rows))


def save_groups(file: Path, groups: Sequence[Group]) -> None:
    """Write groups to an `.npz` file."""
    rows = [row for group in groups for row in group.rows]
    part = file.with_suffix(".part.npz")
    np.savez(
        part,
        prefixes=np.concatenate([group.prefix for group in groups]),
        prefix_sizes=np.array([len(group.prefix) for group in groups]),
        group_sizes=np.array([len(group.rows) for group in groups]),
        ids=np.concatenate([row.ids for row in rows]),
        wrote=np.concatenate([row.wrote for row in rows]),
        row_sizes=np.array([len(row.ids) for row in rows]),
    )
    part.replace(file)


def load_groups(file: Path) -> list[Group]:
    """Read what `save_groups` wrote."""
    with np.load(file) as held:
        data = {name: held[name] for name in held.files}
    cuts = np.cumsum(data["row_sizes"])[:-1]
    ids, wrote = np.split(data["ids"], cuts), np.split(data["wrote"], cuts)
    rows = iter([Row(*pair) for pair in zip(ids, wrote, strict=True)])
    prefixes = np.split(data["prefixes"], np.cumsum(data["prefix_sizes"])[:-1])
    return [
        Group(prefix, tuple(next(rows) for _ in range(size)))
        for prefix, size in zip(prefixes, data["group_sizes"], strict=True)
    ]
