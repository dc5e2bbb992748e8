"""The embedded engine's running batch: whoever joins and leaves, each row is what the model alone would make of it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from toolorch_serving.embedded.batch import Batch
from toolorch_serving.embedded.key_values import KeyValues, Layers
from toolorch_serving.embedded.policy_model import PolicyModel


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
    )
    return Qwen3ForCausalLM(config).eval()


@torch.inference_mode()
def alone(model: Qwen3ForCausalLM, ids: Sequence[int]) -> torch.Tensor:
    """Return the logits after a text, by a forward pass of its own."""
    logits: torch.Tensor = model(input_ids=torch.tensor([list(ids)])).logits[0, -1]
    return logits


@pytest.mark.parametrize("seed", range(4))
def test_rows_join_grow_and_leave_without_touching_each_other(model: Qwen3ForCausalLM, seed: int):
    draw = random.Random(seed)
    batch = Batch(PolicyModel(model))
    rows: list[list[int]] = []
    grown = 0
    for step in range(160):  # buffers grow by 64 columns and by 8 rows
        while len(rows) < 12 and (not rows or draw.random() < 0.3):
            rows.append([draw.randrange(64) for _ in range(draw.choice((1, 3, 20, 90)))])
            logits = batch.join(rows[-1])
            torch.testing.assert_close(logits, alone(model, rows[-1]), atol=1e-4, rtol=1e-4)
        tokens = [draw.randrange(64) for _ in rows]
        for row, token in zip(rows, tokens, strict=True):
            row.append(token)
        found = batch.step(tokens)
        assert batch.lengths == [len(row) for row in rows]
        for place in draw.sample(range(len(rows)), min(2, len(rows))):
            torch.testing.assert_close(found[place], alone(model, rows[place]), atol=1e-4, rtol=1e-4)
        grown = max(grown, *map(len, rows))
        gone = [place for place in range(len(rows)) if draw.random() < (0.02 if step < 120 else 0.3)]
        rows = [rows[before] for before in batch.leave(gone)]
    assert grown > 128


def test_a_row_that_leaves_is_where_a_next_turn_begins(model: Qwen3ForCausalLM):
    batch = Batch(PolicyModel(model))
    batch.join([1, 2, 3, 4, 5, 6])
    batch.join([7, 8])
    batch.step([9, 10])
    kept = batch.row(1)
    assert [keys.shape[2] for keys, _ in kept] == [3, 3]
    assert batch.leave([1]) == [0]
    logits = batch.join([7, 8, 10, 11], prefix=kept)
    torch.testing.assert_close(logits, alone(model, [7, 8, 10, 11]), atol=1e-4, rtol=1e-4)


def layers(value: float, length: int) -> Layers:
    return [(torch.full((1, 1, length, 2), value), torch.full((1, 1, length, 2), -value))]


def test_the_last_rows_take_the_places_of_those_that_leave():
    held = KeyValues()
    for number in range(5):
        held.add(layers(float(number), number + 1))
    assert held.remove([0, 2]) == [4, 1, 3]
    assert held.lengths == [5, 2, 4]
    assert [float(held.row(place)[0][0].mean()) for place in range(3)] == [4.0, 1.0, 3.0]
    assert held.width == 5
    assert held.remove([0, 1, 2]) == []
    held.add(layers(7.0, 300))
    assert held.lengths == [300]
    assert float(held.row(0)[0][1].mean()) == -7.0
