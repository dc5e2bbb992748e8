"""Rows and packing beside TRL's own, and a training step over packed rows beside a row a turn and padded rows.

    OMP_NUM_THREADS=1 python benchmarks/packing.py            # all; a few minutes
    OMP_NUM_THREADS=1 python benchmarks/packing.py --no-steps # seconds

A group is 8 runs of 10 turns over one 2,000-token prompt; a turn samples about 150 tokens and reads about 400. All is
measured in one run on the same rows, the best of a few tries each, with the bars that the project sets itself:

* rows: at least 17 M tokens/s a core; TRL's `_chain_to_sequences` beside it;
* packer: at least 10 M tokens/s a core; TRL's `TreeRow` beside it;
* tokens forwarded: at least 8 times fewer than a row a turn;
* wall time of a training step (forward and backward of a small Qwen3): at least 5 times less than a row a turn, each
  row forwarded alone and causally by the same code, and at least 1.2 times less than the forward of TRL's
  `GRPOTrainer` over padded merged rows. All three give the same gradient, which is checked.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from trl.experimental.async_grpo.async_rollout_worker import TurnRecord, _chain_to_sequences
from trl.experimental.async_grpo.packing import TreeRow
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from toolorch_integrations.events import PolicyCalled, TraceStatus
from toolorch_integrations.trace import Trace
from toolorch_rl.examples import examples_of
from toolorch_rl.packing import PackedRows, logprobs_of, pack, set_attention, terms_of
from toolorch_rl.rows import Example
from toolorch_rl.trace_rows import rollouts_of

VOCABULARY = 4096
Turn = tuple[list[int], list[int]]
"""Prompt ids and sampled ids."""


def group(runs: int, turns: int, prompt: int, sampled: int, observed: int, seed: int = 0) -> list[list[Turn]]:
    """Return the turns of runs of one task: lengths vary by half, and each turn's prompt goes on from the last."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, VOCABULARY, prompt).tolist()

    def some(number: int) -> list[int]:
        return rng.integers(0, VOCABULARY, rng.integers(number // 2, number + number // 2 + 1)).tolist()

    made = []
    for _ in range(runs):
        held, run = first, []
        for _ in range(turns):
            said = some(sampled)
            run.append((held, said))
            held = held + said + some(observed)
        made.append(run)
    return made


def trace_of(name: str, run: list[Turn]) -> Trace:
    """Return a run as it is captured."""
    trace = Trace(id=name, status=TraceStatus.ANSWERED)
    messages = [{"role": "user", "content": "task"}]
    for place, (prompt, said) in enumerate(run):
        reply = {"role": "assistant", "content": f"step {place}"}
        logprobs = np.full(len(said), -1.0, np.float32)
        trace.graph.add_policy_call(PolicyCalled(name, messages, reply, prompt, said, logprobs, model="v1"))
        messages = [*messages, reply, {"role": "tool", "content": f"result {place}", "tool_call_id": str(place)}]
    return trace


def best(work: Callable[[], Any], tries: int = 7) -> tuple[float, Any]:
    """Return the least processor seconds that some work took, and what it gave."""
    seconds, result = np.inf, None
    for _ in range(tries):
        begun = time.process_time()
        result = work()
        seconds = min(seconds, time.process_time() - begun)
    return float(seconds), result


def line(what: str, ours: float, theirs: float, unit: str, peer: str) -> None:
    """Print a figure beside a peer's."""
    print(f"{what:<28}{ours:>10.2f} {unit:<12} {peer} {theirs:.2f}: {ours / theirs:.2f} times as fast")


def measure_rows(groups: list[list[list[Turn]]], label: str) -> list[Example]:
    """Time the reading of rows, and return them as examples."""
    runs = [run for one in groups for run in one]
    traces = [trace_of(str(number), run) for number, run in enumerate(runs)]
    seconds, read = best(lambda: rollouts_of(traces, vocabulary=VOCABULARY))
    assert not read.refused, read.report()
    ones = [1.0] * (1 + max(len(said) for run in runs for _, said in run))
    records = [[TurnRecord(prompt, said, ones[: len(said)]) for prompt, said in run] for run in runs]
    theirs, sequences = best(lambda: [_chain_to_sequences(run, "r", 0)[0] for run in records], 3)
    tokens = sum(len(row) for rollout in read.rollouts for row in rollout.rows)
    assert tokens == sum(len(one.input_ids) for some in sequences for one in some)
    line(f"rows, {label}", tokens / seconds / 1e6, tokens / theirs / 1e6, "M tokens/s", "TRL's")
    advantages = {rollout.trace_id: float(number % 3) - 1.0 for number, rollout in enumerate(read.rollouts)}
    return examples_of(read.rollouts, advantages)


def measure_packer(examples: list[Example], label: str, budget: int | None) -> None:
    """Time the making of tries and their terms."""
    ids = [example.row.ids for example in examples]

    def ours() -> list[PackedRows]:
        tries = pack(ids, budget)
        for trie in tries:
            terms_of(trie, examples)
        return tries

    seconds, tries = best(ours)
    samples = [
        {
            "input_ids": torch.as_tensor(example.row.ids.astype(np.int64)),
            "completion_mask": torch.as_tensor(example.row.trained.astype(np.int64)),
            "old_log_probs": torch.as_tensor(np.nan_to_num(example.row.logprobs)),
            "advantage": 1.0,
            "group_id": 0,
        }
        for example in examples
    ]

    def trl() -> int:
        total, at = 0, TreeRow()
        for sample in samples:
            if budget is not None and at.samples and not at.fits(sample, budget):
                total, at = total + len(at.pack()["input_ids"]), TreeRow()
            at.add(sample)
        return total + len(at.pack()["input_ids"])

    theirs, their_tokens = best(trl, 2)
    tokens = sum(map(len, ids))
    line(f"packer, {label}", tokens / seconds / 1e6, tokens / theirs / 1e6, "M tokens/s", "TRL's")
    forwarded = sum(map(len, tries))
    print(f"{'':<28}{tokens / forwarded:>10.2f} times fewer tokens; TRL's {tokens / their_tokens:.2f}")


def measure_tokens(runs: list[list[Turn]], examples: list[Example]) -> None:
    """Count what each way forwards."""
    a_turn = sum(len(prompt) + len(said) for run in runs for prompt, said in run)
    merged = sum(len(example.row) for example in examples)
    trie = len(pack([example.row.ids for example in examples])[0])
    print(
        f"forwarded tokens: a row a turn {a_turn:,}, merged {merged:,}, trie {trie:,}: {a_turn / trie:.1f} times fewer"
    )


def loss_of(logprobs: torch.Tensor, advantages: Any, weights: Any) -> torch.Tensor:
    """Return the plain policy gradient, whose terms are rows' tokens."""
    return -(torch.as_tensor(advantages) * torch.as_tensor(weights) * logprobs).sum()


def step_packed(model: Any, examples: list[Example], budget: int | None, attention: str | None) -> None:
    """One step over tries, or over rows by themselves (`padded`, a budget of 1)."""
    model.zero_grad()
    for trie in pack([example.row.ids for example in examples], budget):
        terms = terms_of(trie, examples)
        scores = logprobs_of(model, trie, terms, entropy=True, attention=attention)
        loss_of(scores.logprobs, terms.advantages, terms.weights).backward()


def step_padded(model: Any, examples: list[Example], prompt: int, rows: int) -> None:
    """One step as TRL's GRPO takes it: merged rows padded to the longest of the group, `rows` at a time."""
    model.zero_grad()
    width = max(len(example.row) for example in examples)
    trainer = SimpleNamespace(accelerator=SimpleNamespace(autocast=contextlib.nullcontext))
    for batch in itertools.batched(examples, rows) if hasattr(itertools, "batched") else _batched(examples, rows):
        padded = {name: np.zeros((len(batch), width), np.float32) for name in ("mask", "advantages", "weights")}
        ids = np.zeros((len(batch), width), np.int64)
        for place, example in enumerate(batch):
            number = len(example.row)
            ids[place, :number] = example.row.ids
            padded["mask"][place, :number] = 1
            padded["advantages"][place, :number] = example.advantages
            padded["weights"][place, :number] = example.weights
        logprobs, _, _ = GRPOTrainer._get_per_token_logps_and_entropies.__wrapped__(  # without its profiler
            trainer,
            model,
            torch.as_tensor(ids),
            torch.as_tensor(padded["mask"].astype(np.int64)),
            width - prompt,
            compute_entropy=True,
        )
        loss_of(logprobs, padded["advantages"][:, prompt:], padded["weights"][:, prompt:]).backward()


def _batched(values: list[Any], number: int) -> list[list[Any]]:
    return [values[start : start + number] for start in range(0, len(values), number)]


def measure_steps(runs: list[list[Turn]], examples: list[Example], layers: int, hidden: int, tries: int) -> None:
    """Time a training step each way, and check that all give one gradient.

    Processor seconds stand beside the wall's: on one thread they are the same on a quiet machine, and they are the
    figure to go by on a busy one.
    """
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        head_dim=32,
        max_position_embeddings=32_768,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).float()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    print(f"steps of a Qwen3 of {model.num_parameters() / 1e6:.1f} M parameters, {torch.get_num_threads()} thread(s)")
    turns = _examples_by_turn(runs, examples)
    ways: dict[str, Callable[[], None]] = {
        "trie": lambda: step_packed(model, examples, None, None),
        "padded, as TRL's GRPO": lambda: step_padded(model, examples, len(runs[0][0][0]), 2),
        "a row a turn": lambda: step_packed(model, turns, 1, "padded"),
    }
    taken: dict[str, tuple[float, float]] = {}
    slopes = {}
    for name, work in ways.items():
        if name == "trie":
            set_attention(model, "chunked")
        else:
            model.set_attn_implementation("sdpa")
        begun = time.perf_counter()
        busy, _ = best(work, tries)
        taken[name] = (time.perf_counter() - begun) / tries, busy
        slopes[name] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        apart = float((slopes[name] - slopes["trie"]).norm() / slopes["trie"].norm())
        wall, busy = (mine / its for mine, its in zip(taken[name], taken["trie"], strict=True))
        figures = f"{taken[name][0]:>8.2f} s, {wall:.2f} times the trie's; processor {taken[name][1]:.2f} s, {busy:.2f}"
        print(f"  {name:<24}{figures} times; gradient apart {apart:.1e}", flush=True)
        assert apart < 1e-3, "the ways do not compute the same"


def _examples_by_turn(runs: list[list[Turn]], examples: list[Example]) -> list[Example]:
    """Return the same examples with a row a turn, which trains what that turn sampled."""
    made = []
    for run, example in zip(runs, examples, strict=True):
        for prompt, said in run:
            stop = len(prompt) + len(said)
            row = example.row
            cut = type(row)(
                row.trace_id,
                row.leaf,
                row.ids[:stop],
                row.trained[:stop] & (np.arange(stop) >= len(prompt)),
                row.logprobs[:stop],
                row.temperatures[:stop],
                row.nodes[:stop],
            )
            made.append(Example(cut, example.advantages[:stop] * cut.trained, example.weights[:stop] * cut.trained))
    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-steps", action="store_true", help="leave out the training steps, which take minutes")
    parser.add_argument("--tries", type=int, default=1, help="how often each step is taken; the best counts")
    parser.add_argument("--shorter", type=int, default=1, help="take the steps on a group so many times shorter")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=128)
    options = parser.parse_args()
    runs = group(8, 10, 2000, 150, 400)
    examples = measure_rows([runs], "8 runs of 10 turns")
    many = measure_rows([group(8, 1, 400, 60, 1, seed) for seed in range(64)], "512 runs of one turn")
    measure_packer(examples, "8 runs of 10 turns", None)
    measure_packer(examples, "the same in 16,384", 16_384)
    measure_packer(many, "512 runs in 16,384", 16_384)
    measure_tokens(runs, examples)
    if not options.no_steps:
        if options.shorter > 1:
            runs = group(8, 10, *(number // options.shorter for number in (2000, 150, 400)))
            examples = measure_rows([runs], f"{options.shorter} times shorter")
            measure_tokens(runs, examples)
        measure_steps(runs, examples, options.layers, options.hidden, options.tries)


if __name__ == "__main__":
    main()
