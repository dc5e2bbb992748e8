"""Copying drills: short rows of random tokens said twice, from which a model learns to copy before it learns to work.

Copying a value out of a tool's result is what small policies learn last: long plateaus, then a jump. Random segments,
repeated in another order, bring the jump within minutes, since they can be predicted in no other way.
"""

from __future__ import annotations

import random

import numpy as np
from transformers import PreTrainedTokenizerFast

from toolorch_rl.recipe.rows import Group, Row


def copying_drill(tokenizer: PreTrainedTokenizerFast, rows: int, seed: int, segments: int = 8) -> Group:
    """Return rows of 2 to `segments` random segments of two to five tokens, each said again in another order."""
    draw = random.Random(f"drill {seed}")
    special = set(tokenizer.all_special_ids)
    usable = [token for token in range(256, len(tokenizer)) if token not in special]
    start = int(tokenizer.convert_tokens_to_ids("<|im_start|>"))  # type: ignore[arg-type]
    count = draw.randint(2, segments)
    made = []
    for _ in range(rows):
        parts = [[draw.choice(usable) for _ in range(draw.randint(2, 5))] for _ in range(count)]
        again = draw.sample(parts, count)
        ids = [token for part in [*parts, *again] for token in part]
        wrote = [False] * sum(map(len, parts)) + [index > 0 for part in again for index in range(len(part))]
        made.append(Row(np.array(ids, np.uint16), np.array(wrote)))
    return Group(np.array([start], np.uint16), tuple(made))


def lookup_drill(tokenizer: PreTrainedTokenizerFast, rows: int, seed: int, entries: int = 6) -> Group:
    """Return rows of JSON results whose entries are then asked for by name, in another order: ids by name, names by id.

    It is what a policy does with a tool's result, without anything around it.
    """
    draw = random.Random(f"lookup drill {seed}")
    special = set(tokenizer.all_special_ids)
    usable = [token for token in range(256, len(tokenizer)) if token not in special]
    start, end = (int(tokenizer.convert_tokens_to_ids(token)) for token in ("<|im_start|>", "<|im_end|>"))  # type: ignore[arg-type]
    opening, between, closing, ask, answer = (
        tokenizer.encode(text) for text in ('{"id": "', '", "name": "', '"}', '{"query": "', '", "order_id": "')
    )
    count = draw.randint(2, entries)
    made = []
    for _ in range(rows):
        found = [
            ([draw.choice(usable) for _ in range(draw.randint(1, 3))], [draw.choice(usable) for _ in range(2)])
            for _ in range(count)
        ]
        ids = [token for key, name in found for token in (*opening, *key, *between, *name, *closing)]
        wrote = [False] * len(ids)
        for key, name in draw.sample(found, count):
            told, sought = (name, key) if draw.random() < 0.6 else (key, name)
            ids += [*ask, *told, *answer, *sought, end]
            wrote += [False] * (len(ask) + len(told) + len(answer)) + [True] * (len(sought) + 1)
        made.append(Row(np.array(ids, np.uint16), np.array(wrote)))
    return Group(np.array([start], np.uint16), tuple(made))
