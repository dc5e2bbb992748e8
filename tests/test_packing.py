"""Rows in prefix tries: the trie gives the rows back, and a model reads them as if each stood alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from toolorch_rl.packing import PackingError, logprobs_of, pack, set_attention, support, terms_of
from toolorch_rl.packing.cpu_kernel import CpuKernel
from toolorch_rl.packing.plan import TreePlan, block_pattern
from toolorch_rl.rows import Example, Row

VOCABULARY = 61

few_tokens = st.lists(st.integers(0, 2), min_size=1, max_size=9)
row_lists = st.lists(few_tokens, min_size=1, max_size=12)


def ids_of(tokens: list[int]) -> npt.NDArray[np.uint32]:
    return np.array(tokens, np.uint32)


def row(ids: npt.NDArray[np.uint32], trained: npt.NDArray[np.bool_], temperature: float = 1.0, name: str = "t") -> Row:
    number = len(ids)
    logprobs = np.where(trained, -1.0, np.nan).astype(np.float32)
    return Row(name, 0, ids, trained, logprobs, np.full(number, temperature, np.float32), np.zeros(number, np.int32))


def branching_rows(number: int = 9, seed: int = 0, longest: int = 300) -> list[Row]:
    """Rows that branch off each other at any place; the last has the ids of another and trains what that does not."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for place in range(number):
        begun = rows[rng.integers(len(rows))].ids if rows else rng.integers(0, VOCABULARY, 60).astype(np.uint32)
        tail = rng.integers(0, VOCABULARY, rng.integers(1, longest)).astype(np.uint32)
        ids = np.concatenate([begun[: rng.integers(5, 61)], tail])
        rows.append(row(ids, rng.random(len(ids)) < 0.5, (1.0, 0.7)[place % 2], str(place)))
    return [*rows, row(rows[3].ids, ~rows[3].trained, 0.7, "same ids")]


# --- the trie


@given(row_lists, st.one_of(st.none(), st.integers(1, 20)))
def test_the_tries_give_back_every_row(lists, budget):
    rows = [ids_of(tokens) for tokens in lists]
    tries = pack(rows, budget)
    assert sorted(number for trie in tries for number in trie.rows) == list(range(len(rows)))
    for trie in tries:
        for place, number in enumerate(trie.rows):
            index = trie.row_index(place)
            assert trie.ids[index].tolist() == lists[number]
            assert trie.positions[index].tolist() == list(range(len(index)))


@given(row_lists)
def test_a_trie_holds_each_distinct_prefix_once(lists):
    (trie,) = pack([ids_of(tokens) for tokens in lists])
    prefixes = {tuple(tokens[: stop + 1]) for tokens in lists for stop in range(len(tokens))}
    assert len(trie) == len(prefixes)


@given(row_lists, st.one_of(st.none(), st.integers(1, 6)))
def test_a_token_sees_its_own_prefix_and_nothing_else(lists, window):
    (trie,) = pack([ids_of(tokens) for tokens in lists])
    seen = np.zeros((len(trie), len(trie)), bool)
    for place in range(len(trie.rows)):
        index = trie.row_index(place)
        for at, token in enumerate(index):
            seen[token, index[0 if window is None else max(at + 1 - window, 0) : at + 1]] = True
    plan = TreePlan(trie, torch.device("cpu"))
    assert np.array_equal(plan.dense(window)[0, 0].numpy(), seen)


@given(row_lists, st.one_of(st.none(), st.integers(1, 6)), st.integers(1, 5))
def test_the_blocks_of_the_flex_mask_are_those_that_are_seen(lists, window, size):
    (trie,) = pack([ids_of(tokens) for tokens in lists])
    dense = TreePlan(trie, torch.device("cpu")).dense(window)[0, 0].numpy()
    some, every = block_pattern(trie, window, size)
    for query in range(some.shape[0]):
        for key in range(some.shape[1]):
            block = dense[query * size : (query + 1) * size, key * size : (key + 1) * size]
            assert some[query, key] or not block.any()
            assert not every[query, key] or (block.all() and some[query, key])


@pytest.mark.parametrize("window", [None, 40])
def test_the_flex_mask_is_the_dense_one(window):
    plan = TreePlan(pack([one.ids for one in branching_rows()])[0], torch.device("cpu"))
    blocks, seen = plan.blocks(window).to_dense()[0, 0].bool(), _blocks(plan.dense(window)[0, 0])
    assert (blocks | ~seen).all()
    assert blocks.sum() < (1.5 if window else 1.01) * seen.sum(), "few blocks are looked at for nothing"
    mask = plan.blocks(window).mask_mod
    every = torch.arange(len(plan.packed))
    assert torch.equal(mask(0, 0, every[:, None], every[None]), plan.dense(window)[0, 0])


def _blocks(mask: torch.Tensor, size: int = 128) -> torch.Tensor:
    number = -(-len(mask) // size)
    padded = torch.zeros(number * size, number * size, dtype=torch.bool)
    padded[: len(mask), : len(mask)] = mask
    return padded.view(number, size, number, size).any(3).any(1)


@settings(max_examples=50)
@given(row_lists, st.integers(1, 20))
def test_no_cut_forwards_fewer_tokens(lists, budget):
    rows = sorted(lists)
    tries = pack([ids_of(tokens) for tokens in rows], budget)
    assert all(len(trie) <= budget or len(trie.rows) == 1 for trie in tries)

    def size(part: list[list[int]]) -> int:
        return len({tuple(tokens[: stop + 1]) for tokens in part for stop in range(len(tokens))})

    best = [0]
    for stop in range(1, len(rows) + 1):
        parts = [(start, size(rows[start:stop])) for start in range(stop)]
        best.append(min(best[start] + n for start, n in parts if n <= budget or start == stop - 1))
    # Of as many tokens the fewest tries: one token more or less weighs as much as a trie.
    assert sum(map(len, tries)) + len(tries) <= best[-1] + len(rows)
    assert sum(map(len, tries)) >= best[-1]


def test_a_budget_keeps_together_what_begins_alike():
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, 9, (3, 50), np.uint32)
    rows = [np.concatenate([prompts[place % 3], rng.integers(0, 9, 10, np.uint32)]) for place in range(12)]
    tries = pack(rows, 100)
    assert sorted(sorted(number % 3 for number in trie.rows) for trie in tries) == [[0] * 4, [1] * 4, [2] * 4]


def test_a_row_over_the_budget_is_a_trie_of_its_own():
    long = np.arange(50, dtype=np.uint32)
    tries = pack([long, long[:10], long[5:9]], 20)
    assert [trie.rows for trie in tries if len(trie) > 20] == [(0,)]


@pytest.mark.parametrize(
    ("rows", "budget", "message"),
    [
        ([], None, "no rows"),
        ([ids_of([1]), ids_of([])], None, "row 1 is empty"),
        ([np.array([1, 2])], None, "must be uint32"),
        ([ids_of([1])], 0, "budget is 0"),
    ],
)
def test_what_cannot_be_packed_is_refused(rows, budget, message):
    with pytest.raises(PackingError, match=message):
        pack(rows, budget)


# --- terms


def test_two_samples_of_one_token_are_two_terms():
    ids = ids_of([5, 6, 7])
    sampled = np.array([False, False, True])
    ones = np.ones(3, np.float32)
    examples = [
        Example(row(ids, sampled, 1.0, name), ones * a, sampled * ones / 2) for name, a in (("a", 2), ("b", -1))
    ]
    (trie,) = pack([ids, ids])
    terms = terms_of(trie, examples)
    assert len(trie) == 3
    assert terms.sources.tolist() == [1, 1]
    assert terms.labels.tolist() == [7, 7]
    assert sorted(terms.advantages.tolist()) == [-1.0, 2.0]
    assert terms.weights.tolist() == [0.5, 0.5]


# --- models

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
SLIDING = {"use_sliding_window": True, "sliding_window": 30, "max_window_layers": 1}
MODELS: dict[str, Any] = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=True)),
    "qwen3 with windows in some layers": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, **SLIDING)),
    "mistral with a window": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=24)),
    "gpt-oss with sinks": lambda: GptOssForCausalLM(GptOssConfig(**SHAPE, **EXPERTS, sliding_window=24)),
    "gemma2 with capped scores": lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, sliding_window=24)),
}
RECURRENT = ["conv", "full_attention"]


def made(name: str) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]().float()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def alone(model: Any, rows: list[Row]) -> list[torch.Tensor]:
    """Return log-probabilities of trained tokens from one plain forward a row."""
    found = []
    for one in rows:
        logits = model(input_ids=torch.as_tensor(one.ids.astype(np.int64))[None], use_cache=False).logits[0].float()
        at = np.flatnonzero(one.trained[1:]) + 1
        scaled = logits[at - 1] / torch.as_tensor(one.temperatures[at])[:, None]
        found.append(scaled.log_softmax(-1)[torch.arange(len(at)), torch.as_tensor(one.ids[at].astype(np.int64))])
    return found


def packed(model: Any, rows: list[Row], budget: int | None = None, **options: Any) -> list[torch.Tensor]:
    found: dict[int, torch.Tensor] = {}
    for trie in pack([one.ids for one in rows], budget):
        terms = terms_of(trie, rows)
        logprobs = logprobs_of(model, trie, terms, **options).logprobs
        found |= {number: logprobs[torch.as_tensor(terms.rows == number)] for number in trie.rows}
    return [found[number] for number in range(len(rows))]


def gradients(model: Any, logprobs: list[torch.Tensor]) -> list[torch.Tensor]:
    values = torch.cat(logprobs)
    weights = torch.randn(len(values), generator=torch.Generator().manual_seed(1)) / len(values)
    found = torch.autograd.grad((values * weights).sum(), list(model.parameters()), allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


def assert_equal(model: Any, rows: list[Row], **options: Any) -> None:
    attention = options.pop("set", None)
    expected = alone(model, rows)
    slopes = gradients(model, expected)
    if attention is not None:
        set_attention(model, attention)
    got = packed(model, rows, **options)
    torch.testing.assert_close(torch.cat(got), torch.cat(expected), atol=1e-5, rtol=0)
    for one, other in zip(gradients(model, got), slopes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("budget", [None, 700])
@pytest.mark.parametrize("attention", ["chunked", "dense", "padded"])
@pytest.mark.parametrize("name", MODELS)
def test_packed_rows_are_read_as_if_each_stood_alone(name, attention, budget):
    # A limit of a few logits makes the output head work in pieces, made anew in the backward pass.
    assert_equal(made(name), branching_rows(), set=attention, budget=budget, logits=VOCABULARY * 100)


@settings(max_examples=15)
@given(row_lists, st.integers(0, 99))
def test_any_rows_are_read_as_if_each_stood_alone(lists, seed):
    rng = np.random.default_rng(seed)
    rows = [row(ids_of(tokens), rng.random(len(tokens)) < 0.7) for tokens in lists]
    if any(one.trained[1:].any() for one in rows):
        assert_equal(made("qwen3"), rows, set="chunked")


def test_chunks_are_forwarded_again_where_the_cpu_kernel_does_not_serve(monkeypatch):
    monkeypatch.setattr(CpuKernel, "of", classmethod(lambda cls, query, value: None))
    assert_equal(made("qwen3 with windows in some layers"), branching_rows(), set="chunked")


def test_mixed_precision_is_near_single_precision():
    model, rows = made("qwen3"), branching_rows()
    expected = torch.cat(alone(model, rows))
    set_attention(model)
    with torch.autocast("cpu", torch.bfloat16):
        got = torch.cat(packed(model, rows))
    assert got.dtype == torch.float32
    assert (got - expected).abs().mean() < 0.05
    slopes = torch.autograd.grad(got.mean(), list(model.parameters()))
    assert all(slope.isfinite().all() for slope in slopes)


def test_a_model_that_is_set_up_still_reads_unpacked_rows():
    model = made("gpt-oss with sinks")
    ids = torch.randint(0, VOCABULARY, (2, 40))
    mask = torch.ones_like(ids)
    mask[1, 30:] = 0
    before = model(input_ids=ids, attention_mask=mask).logits
    set_attention(model, "chunked")
    after = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(after[0], before[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(after[1, :30], before[1, :30], atol=1e-5, rtol=0)


def test_gradient_checkpointing_changes_nothing():
    model = made("qwen3").train()
    rows = branching_rows()
    expected = alone(model, rows)
    slopes = gradients(model, expected)
    set_attention(model, "chunked")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for one, other in zip(gradients(model, packed(model, rows)), slopes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_adapters_are_read_and_trained():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(made("qwen3"), LoraConfig(target_modules="all-linear", init_lora_weights=False))
    rows = branching_rows(5)
    expected = torch.cat(alone(model, rows))
    set_attention(model)
    got = torch.cat(packed(model, rows))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    got.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "lora_B" in n)


class Wrapped(torch.nn.Module):
    """As DistributedDataParallel: holds the model, and must see the forward."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module
        self.forwards = 0

    def forward(self, *args: Any, **options: Any) -> Any:
        self.forwards += 1
        return self.module(*args, **options)


@pytest.mark.parametrize("attention", ["chunked", "padded"])
def test_a_wrapper_sees_the_forward(attention):
    model = made("qwen3")
    rows = branching_rows(5)
    expected = torch.cat(alone(model, rows))
    set_attention(model, attention)
    wrapped = Wrapped(model)
    got = torch.cat(packed(wrapped, rows, attention=attention))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert wrapped.forwards


def test_entropies_are_those_of_the_tempered_distributions():
    model = made("qwen3")
    one = branching_rows(1 + 3)[1]
    set_attention(model)
    (trie,) = pack([one.ids])
    terms = terms_of(trie, [one])
    entropies = logprobs_of(model, trie, terms, entropy=True, logits=VOCABULARY * 10).entropies
    logits = model(input_ids=torch.as_tensor(one.ids.astype(np.int64))[None]).logits[0, terms.sources] / 0.7
    torch.testing.assert_close(entropies, torch.distributions.Categorical(logits=logits).entropy())


def test_a_recurrent_model_reads_every_row_by_itself_and_says_why():
    torch.manual_seed(0)
    model = Lfm2ForCausalLM(Lfm2Config(**SHAPE, layer_types=RECURRENT)).float()
    found = support(model)
    assert not found.shares
    assert "conv layers carry a state" in found.reason
    assert set_attention(model) == "padded"
    assert_equal(model, branching_rows())
    with pytest.raises(PackingError, match=r"conv layers carry a state.*supports padded"):
        set_attention(model, "chunked")


def test_a_model_that_goes_by_distance_in_memory_is_not_packed():
    config = FalconConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, alibi=True)
    assert not support(FalconForCausalLM(config)).shares


def test_flex_attention_is_for_gpus():
    with pytest.raises(PackingError, match="no backward pass"):
        set_attention(made("qwen3"), "flex")


def test_rows_of_another_vocabulary_are_refused():
    model = made("qwen3")
    set_attention(model)
    foreign = row(ids_of([1, 2, VOCABULARY]), np.array([False, True, True]))
    with pytest.raises(PackingError, match=f"token id {VOCABULARY} is outside the model's {VOCABULARY}"):
        packed(model, [foreign])


def test_a_temperature_of_zero_is_refused():
    model = made("qwen3")
    with pytest.raises(PackingError, match="temperature is 0"):
        packed(model, [row(ids_of([1, 2]), np.array([False, True]), 0.0)])


def test_attention_that_cannot_read_tries_is_refused():
    model = made("qwen3")
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(PackingError, match="call set_attention"):
        packed(model, [row(ids_of([1, 2]), np.array([False, True]))])
