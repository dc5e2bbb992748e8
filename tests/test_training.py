"""Training on captured runs: what each method learns, that ids are exact, and what stops it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.routing_world import REQUESTS, Runs, build_router, probabilities, prompt_ids, stored, trace_of
from tests.tiny_policy import build
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.store import TraceStore
from toolorch_integrations.trace import Feedback, Reward, Trace
from toolorch_rl.rows import Example
from toolorch_rl.trace_rows import rollouts_of
from toolorch_rl.training import StepSource, TrainingError, TrainSettings, train
from toolorch_rl.training.baseline import leave_one_out
from toolorch_rl.training.checkpoints import MARK, checkpoints
from toolorch_rl.training.corpus import corpus_of, read_traces
from toolorch_rl.training.loss import LossSettings, Tokens, policy_loss
from toolorch_rl.training.material import material_of

GOOD = "query"


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So small a model gains nothing from a second thread; and nothing is asked of a hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return build_router(tmp_path_factory.mktemp("router"))


@pytest.fixture(scope="module")
def runs(policy: Path) -> Runs:
    return Runs(policy)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, runs: Runs) -> str:
    return stored(tmp_path_factory.mktemp("store") / "traces.db", runs.traces(12))


def settings_of(policy: Path, output: Path, store: str = "", **more: Any) -> TrainSettings:
    given = {"policy": str(policy), "output": output, "store": store, "steps": 10, "batch": 48, "learning_rate": 1e-3}
    return TrainSettings.of({**given, **more})


def material(settings: TrainSettings) -> Any:
    from toolorch_rl.training.trainers import policy_parts

    _, tokenizer, config = policy_parts(settings)
    return material_of(read_traces(settings), settings, tokenizer, config)


def share(found: dict[str, float]) -> float:
    """How much of what goes to any of the names goes to the rewarded one."""
    return found[GOOD] / sum(found.values())


# What each method learns


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("replay", {"learning_rate": 2e-3}),
        ("replay", {"lora_rank": None, "kl": 0.01, "entropy": 0.001}),
        ("sft", {"best": 1.0}),
        ("dpo", {"batch": 16}),
        ("kto", {"batch": 16, "micro_batch": 8, "lora_rank": None, "learning_rate": 3e-4}),
    ],
)
def test_training_makes_the_rewarded_answer_likelier(
    policy: Path, store: str, tmp_path: Path, method: str, more: dict[str, Any]
) -> None:
    out = tmp_path / "out"

    result = train(settings_of(policy, out, store, method=method, **more))

    adapter = more.get("lora_rank", 16) is not None
    after = probabilities(policy, out) if adapter else probabilities(out)
    assert share(probabilities(policy)) < 0.3
    assert share(after) > 0.5
    card = json.loads((out / "toolorch.json").read_text())
    assert card["method"] == method
    assert card["counts"]["traces"] == 48
    assert card["policy_versions"] == ["policy-1"]
    assert (out / "chat_template.jinja").is_file()
    assert result.metrics["steps"] == 10


def test_replay_compares_single_runs_with_a_fitted_baseline(policy: Path, runs: Runs, tmp_path: Path) -> None:
    traces = runs.traces(12)
    for number, trace in enumerate(traces):
        trace.metadata["task"] = f"task {number}"  # each was made once
    url = stored(tmp_path / "t.db", traces)

    result = train(settings_of(policy, tmp_path / "out", url, learning_rate=2e-3))

    assert result.counts["single runs"] == len(traces)
    assert share(probabilities(policy, tmp_path / "out")) > 0.4


def test_the_first_step_of_replay_finds_the_probabilities_that_were_captured(
    policy: Path, tmp_path: Path, store: str
) -> None:
    out = tmp_path / "out"
    train(settings_of(policy, out, store, steps=2))

    first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])

    assert first["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert first["ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert first["staleness"] == 0.0


def test_ratios_are_of_the_temperature_that_sampled(policy: Path, tmp_path: Path) -> None:
    url = stored(tmp_path / "t.db", Runs(policy, temperature=0.7).traces(8))
    out = tmp_path / "out"
    train(settings_of(policy, out, url, steps=1))

    first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])

    assert first["ratio_max"] == pytest.approx(1.0, abs=1e-4)


def test_an_adapter_goes_on_being_trained(policy: Path, tmp_path: Path, store: str) -> None:
    train(settings_of(policy, tmp_path / "one", store, steps=4))
    before = share(probabilities(policy, tmp_path / "one"))

    train(settings_of(tmp_path / "one", tmp_path / "two", store, steps=6, kl=0.01))

    assert share(probabilities(policy, tmp_path / "two")) > before
    assert not (tmp_path / "two" / "ref").exists()


# Exact ids


def test_supervised_rows_are_the_servers_ids(policy: Path, store: str, tmp_path: Path) -> None:
    settings = settings_of(policy, tmp_path / "out", store, method="sft", best=1.0)
    from toolorch_rl.training.trainers import arguments_of, policy_parts, trainer_of

    base, tokenizer, _ = policy_parts(settings)
    made = material(settings)
    trainer = trainer_of(settings, made, arguments_of(settings), base, tokenizer)

    batch = next(iter(trainer.get_train_dataloader()))

    answer = tokenizer.encode(f"{GOOD}<|im_end|>")
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        row = ids[mask.bool()].tolist()
        assert row[: -len(answer)] in [prompt_ids(tokenizer, request) for request in REQUESTS]
        assert labels[labels != -100].tolist() == answer == row[-len(answer) :]


def test_pairs_and_labelled_runs_are_the_servers_ids_and_train_only_what_the_policy_wrote(
    policy: Path, runs: Runs, tmp_path: Path
) -> None:
    url = stored(tmp_path / "t.db", two_turns(runs))
    from toolorch_rl.training.preference_trainers import LabelledCollator, PairCollator

    pairs = material(settings_of(policy, tmp_path / "a", url, method="dpo"))
    labelled = material(settings_of(policy, tmp_path / "b", url, method="kto"))

    rows = {tuple(row.ids.tolist()): row.trained for row in rows_of(url)}
    batch = PairCollator(pad_token_id=0)(pairs.rows)
    assert len(batch["input_ids"]) == 2 * pairs.counts["pairs"]
    batches = [(batch, "input_ids", "attention_mask", "completion_mask")]
    other = LabelledCollator(pad_token_id=0)(labelled.rows)
    batches.append((other, "input_ids", "attention_mask", "completion_mask"))
    for found, names, seen, wrote in batches:
        for ids, mask, trained in zip(found[names], found[seen], found[wrote], strict=True):
            known = rows[tuple(ids[mask.bool()].tolist())]
            assert trained[mask.bool()].bool().tolist() == known.tolist()
            assert 0 < known.sum() < len(known)
    assert other["label"].tolist() == [entry["label"] for entry in labelled.rows]


def test_a_pair_on_one_decision_ends_where_the_runs_part(policy: Path, runs: Runs, tmp_path: Path) -> None:
    url = stored(tmp_path / "t.db", two_turns(runs))

    made = material(settings_of(policy, tmp_path / "a", url, method="dpo", pair_on="decision"))

    assert made.counts["pairs on one decision"] == made.counts["pairs"] > 0
    for pair in made.rows:
        text = runs.tokenizer.decode(pair["chosen_ids"]), runs.tokenizer.decode(pair["rejected_ids"])
        assert text == (f"{GOOD}<|im_end|>", "tokyo<|im_end|>")
        assert all(pair["chosen_mask"])


def test_inexact_runs_are_rendered_again_where_ids_are_not_needed(policy: Path, runs: Runs, tmp_path: Path) -> None:
    exact = two_turns(runs)[:1]
    inexact = trace_of("f" * 32, [(None, None, None)] * 2, [{"role": "user", "content": "find"}], ["answer", GOOD])
    inexact.rewards.append(Reward(inexact.id, {"outcome": 1.0}))
    url = stored(tmp_path / "t.db", [*exact, inexact])

    made = material(settings_of(policy, tmp_path / "a", url, method="sft"))

    assert made.counts["runs rendered again"] == 1
    ids = {tuple(row["input_ids"]) for row in made.rows}
    assert len(ids) == 1  # the template renders what the server had seen
    with pytest.raises(TrainingError, match=r"1 of 2 traces can be used \(1 inexact\)"):
        material(settings_of(policy, tmp_path / "b", url))


def two_turns(runs: Runs) -> list[Trace]:
    """Runs of one task that wrote the same first answer and then another; the rewarded one said `GOOD`."""
    tokenizer = runs.tokenizer
    found = []
    for number, (second, outcome) in enumerate([(GOOD, 1.0), ("tokyo", 0.0), ("tokyo", 0.0)]):
        prompt = prompt_ids(tokenizer, "find")
        first = tokenizer.encode("answer<|im_end|>")
        between = tokenizer.encode("\n<|im_start|>user\ngo on<|im_end|>\n<|im_start|>assistant\n")
        last = tokenizer.encode(f"{second}<|im_end|>")
        calls = [(prompt, first, [-0.5] * len(first)), ([*prompt, *first, *between], last, [-0.5] * len(last))]
        user = [{"role": "user", "content": "find"}]
        trace = trace_of(f"{number:032x}", calls, user, ["answer", second], started=1000.0 + number)
        trace.rewards.append(Reward(trace.id, {"outcome": outcome}))
        found.append(trace)
    return found


def rows_of(url: str) -> list[Any]:
    with TraceStore.open(url) as store:
        return [row for rollout in rollouts_of(store.full_traces()).rollouts for row in rollout.rows]


# The policy gradient


def test_the_gradient_is_that_of_truncated_importance_weights_and_stops_at_the_clip() -> None:
    behaviour = torch.tensor([-1.0, -1.0, -5.0, -1.0, -1.0])
    logprobs = torch.tensor([-1.0, -0.5, -1.0, -3.0, -0.2], requires_grad=True)
    advantages = torch.tensor([2.0, 1.0, 1.0, -1.0, -1.0])
    weights = torch.full((5,), 0.2)
    tokens = Tokens(logprobs, behaviour, advantages, weights, torch.zeros(5))

    loss, sums = policy_loss(tokens, LossSettings(clip_low=0.5, clip_high=9.0, truncate=10.0))
    loss.backward()

    ratio = (logprobs.detach() - behaviour).exp()
    slope = torch.tensor([ratio[0], ratio[1], 0.0, 0.0, ratio[4]])  # the third is over the clip, the fourth under it
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, -weights * advantages * slope)
    assert float(sums["clipped"]) == pytest.approx(0.4)
    assert float(sums["truncated"]) == pytest.approx(0.2)

    logprobs.grad = None
    policy_loss(tokens, LossSettings(clip_low=1.0, clip_high=float("inf"), truncate=10.0))[0].backward()
    torch.testing.assert_close(logprobs.grad, -weights * advantages * ratio.clamp(max=10.0))


def test_each_rollout_weighs_the_same_however_long_it_is(policy: Path, runs: Runs, tmp_path: Path) -> None:
    traces = [*two_turns(runs), *runs.traces(4, seed=99, requests=("both",))]
    for number, trace in enumerate(traces[3:]):
        trace.rewards[0].values["outcome"] = float(number < 2)
    made = material(settings_of(policy, tmp_path / "a", stored(tmp_path / "t.db", traces), batch=99))

    examples = made.source.next_batch(0, "policy-1")

    sums: dict[str, float] = {}
    for example in examples:
        sums[example.row.trace_id] = sums.get(example.row.trace_id, 0.0) + float(example.weights.sum())
    assert set(sums) == {trace.id for trace in traces}
    assert all(total == pytest.approx(1.0) for total in sums.values())


def test_a_source_gives_each_run_once_a_pass_and_goes_by_the_step(policy: Path, store: str, tmp_path: Path) -> None:
    settings = settings_of(policy, tmp_path / "a", store, batch=10)
    one, other = material(settings).source, material(settings).source

    given = [[example.row.trace_id for example in one.next_batch(step, "")] for step in range(24)]

    passes = np.array([name for batch in given for name in batch]).reshape(5, 48)
    assert all(len(set(turn)) == 48 for turn in passes)
    assert list(passes[0]) != list(passes[1])
    assert [example.row.trace_id for example in other.next_batch(17, "")] == given[17]


def test_leave_one_out_is_what_a_ridge_without_the_run_predicts() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(400, 3))
    rewards = features @ np.array([1.0, -2.0, 0.0]) + 3 + draw.normal(size=400) * 0.1

    expected = leave_one_out(features, rewards)

    assert np.abs(expected - rewards).mean() < 0.2
    changed = rewards.copy()
    changed[7] += 5.0
    # Its own reward is not in it; only the scale of the penalty may have changed.
    assert leave_one_out(features, changed)[7] == pytest.approx(expected[7], abs=0.02)


def test_a_call_is_charged_to_the_turns_that_could_help_it(policy: Path, runs: Runs, tmp_path: Path) -> None:
    from toolorch_integrations.ledger import Call, CallKind
    from toolorch_integrations.trace import TraceCall

    traces = two_turns(runs)
    for trace, dollars in zip(traces, (1.0, 0.6, 0.2), strict=True):
        trace.rewards[0].values["outcome"] = 1.0
        first = next(node.index for node in trace.graph.nodes if node.sampled)
        trace.calls.append(TraceCall(0, Call(CallKind.TOOL, "search", dollars=dollars), first, started=1000.5))
    url = stored(tmp_path / "t.db", traces)
    wanted = {"preferences": Preferences(cost=1.0), "batch": 3}

    by_run = material(settings_of(policy, tmp_path / "a", url, **wanted)).source.next_batch(0, "")
    by_call = material(settings_of(policy, tmp_path / "b", url, credit="call", **wanted)).source.next_batch(0, "")

    gained = []
    for trace in traces:
        whole, split = (next(e for e in batch if e.row.trace_id == trace.id) for batch in (by_run, by_call))
        trained = split.row.trained
        turns = np.unique(split.row.nodes[trained])
        early, late = [split.advantages[(split.row.nodes == node) & trained][0] for node in turns]
        assert early == pytest.approx(whole.advantages[trained][0])  # it made the call
        gained.append(late - early)  # it could not help it
    # Each in proportion to its dollars, that of the run with an advantage of 0 too.
    assert np.allclose(gained, gained[0] * np.array([1.0, 0.6, 0.2]), rtol=1e-4)
    assert gained[0] > 0


def test_a_live_source_hears_of_each_step_and_names_the_policy(policy: Path, store: str, tmp_path: Path) -> None:
    replayed = material(settings_of(policy, tmp_path / "a", store)).source

    class Live(StepSource):
        def __init__(self) -> None:
            self.asked: list[tuple[int, str]] = []
            self.trained: list[int] = []

        def next_batch(self, step: int, policy_version: str) -> list[Example]:
            self.asked.append((step, policy_version))
            return [] if step == 3 else replayed.next_batch(step, policy_version)

        def after_step(self, step: int, model: torch.nn.Module) -> str | None:
            self.trained.append(step)
            return f"{policy_name}-v{step + 1}" if step != 1 else None

        def metrics(self) -> dict[str, float]:
            return {"reward": 0.5}

    policy_name = policy.name
    live = Live()
    result = train(settings_of(policy, tmp_path / "out", method="online", steps=9), source=live)

    assert live.asked == [
        (0, policy_name),
        (1, f"{policy_name}-v1"),
        (2, f"{policy_name}-v1"),
        (3, f"{policy_name}-v3"),
    ]
    assert live.trained == [0, 1, 2]
    assert result.metrics["reward"] == 0.5


# Bad input


def test_bad_settings_name_the_field(policy: Path, tmp_path: Path) -> None:
    for more, match in (
        ({"lora_rank": 0}, "lora_rank"),
        ({"method": "ppo"}, "method"),
        ({"preset": "mine"}, "there is no preset 'mine'"),
        ({"colour": 1}, "colour"),
        ({"method": "kto", "micro_batch": 1}, "micro_batch"),
        ({"method": "online", "steps": None}, "steps"),
        ({"truncate": 1.1, "clip_high": 0.3}, "truncate"),
    ):
        with pytest.raises(TrainingError, match=match):
            settings_of(policy, tmp_path, "t.db", **more)
    with pytest.raises(TrainingError, match="there is no folder"):
        train(settings_of(Path("/nowhere/policy"), tmp_path, "t.db"))
    with pytest.raises(TrainingError, match="report_to: there is nothing called 'abacus'"):
        train(settings_of(policy, tmp_path / "r", "t.db", report_to=("abacus",)))


def test_too_little_to_train_on_is_said_with_counts(policy: Path, runs: Runs, tmp_path: Path) -> None:
    some = runs.traces(6, requests=("find",), good=lambda request, answer: True)
    for method in ("sft", "dpo", "kto", "replay"):
        for name, traces, match in (
            ("empty", [], "is empty: capture some runs first"),
            ("one", some[:1], None if method == "sft" else "1 of 1 trace|found no pair|good and bad|needs two"),
            ("equal", some, None if method == "sft" else "equal those of|found no pair|good and bad"),
        ):
            settings = settings_of(policy, tmp_path / "o", stored(tmp_path / f"{name}.db", traces), method=method)
            if match is not None:
                with pytest.raises(TrainingError, match=match):
                    material(settings)
            else:
                assert material(settings).rows


def test_runs_that_cannot_be_learnt_from_are_left_out_and_counted(policy: Path, runs: Runs, tmp_path: Path) -> None:
    traces = runs.traces(6, requests=("find",))
    for trace in traces[:3]:
        trace.graph.nodes[-1].logprob_bytes = None
    traces[3].rewards.clear()
    url = stored(tmp_path / "t.db", traces)

    corpus = corpus_of(read_traces(settings_of(policy, tmp_path, url)), settings_of(policy, tmp_path, url))
    assert list(corpus.refused.values()) == [1]
    for trace in traces[4:]:
        trace.graph.nodes[-1].logprob_bytes = None
    with pytest.raises(TrainingError, match=r"0 of 6 traces can be used \(5 no log-probabilities; 1 no outcome"):
        material(settings_of(policy, tmp_path / "o", stored(tmp_path / "u.db", traces)))


def test_feedback_stands_for_an_outcome(policy: Path, runs: Runs, tmp_path: Path) -> None:
    traces = runs.traces(6, requests=("find",))
    for number, trace in enumerate(traces):
        trace.rewards.clear()
        trace.feedback.append(Feedback(trace.id, "user", float(number < 2)))

    made = material(settings_of(policy, tmp_path / "o", stored(tmp_path / "t.db", traces), method="kto"))

    assert (made.counts["good"], made.counts["bad"]) == (2, 4)


def test_runs_of_old_policies_are_left_out(policy: Path, tmp_path: Path) -> None:
    traces = [
        trace
        for number in range(3)
        for trace in Runs(policy, version=f"policy-{number}").traces(4, seed=10 * number, started=1e4 * (number + 1))
    ]
    url = stored(tmp_path / "t.db", traces)

    made = material(settings_of(policy, tmp_path / "o", url, max_staleness=1))

    assert made.refused["its policy is more than 1 versions old"] == 16
    assert made.versions == ["policy-1", "policy-2"]


def test_a_tokenizer_that_does_not_match_is_refused_before_any_step(policy: Path, store: str, tmp_path: Path) -> None:
    other = build(tmp_path / "other", (), seed=1)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    plain = sorted((name for name in words if len(name) < 3), key=words.__getitem__)
    tokenizer["model"]["vocab"] |= dict(zip(plain, (words[name] for name in reversed(plain)), strict=True))
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(TrainingError, match=r"tokenizer does not match the traces' ids: \d+ of 48 replies"):
        train(settings_of(other, tmp_path / "out", store))
    assert not checkpoints(tmp_path / "out" / "checkpoints")


# Faults


def test_no_number_stops_before_the_step_and_names_it(policy: Path, store: str, tmp_path: Path) -> None:
    good = material(settings_of(policy, tmp_path / "a", store)).source

    class Poisoned(StepSource):
        def next_batch(self, step: int, policy_version: str) -> list[Example]:
            examples = good.next_batch(step, policy_version)
            if step == 3:
                examples[0].advantages[:] = np.nan
            return examples

    out = tmp_path / "out"
    with pytest.raises(TrainingError, match=r"the loss of step 4 is nan; the last whole checkpoint is .*checkpoint-2"):
        train(settings_of(policy, out, method="online", save_every=2), source=Poisoned())
    weights = load_file(checkpoints(out / "checkpoints")[-1] / "adapter_model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_full_disk_leaves_the_last_checkpoint(
    policy: Path, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    original = Trainer._save_rng_state
    out = tmp_path / "out"

    def full(self: Any, folder: str) -> None:
        if folder.endswith("checkpoint-4"):
            raise OSError(28, "No space left on device")
        original(self, folder)

    monkeypatch.setattr(Trainer, "_save_rng_state", full)
    with pytest.raises(TrainingError, match=r"checkpoint-4 cannot be saved: the disk .* full; the last .*checkpoint-2"):
        train(settings_of(policy, out, store, save_every=2))
    assert [path.name for path in (out / "checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]

    monkeypatch.undo()
    assert train(settings_of(policy, out, store, save_every=2)).metrics["steps"] == 10


@pytest.mark.parametrize("method", ["replay", "sft", "dpo"])
def test_a_run_goes_on_as_if_it_had_not_been_stopped(policy: Path, store: str, tmp_path: Path, method: str) -> None:
    more = {"method": method, "save_every": 3, "batch": 8, "steps": 9, "best": 1.0, "lora_dropout": 0.1, "keep": 3}
    whole, stopped = (settings_of(policy, tmp_path / name, store, **more) for name in ("whole", "stopped"))
    train(whole)
    shutil.copytree(whole.output, stopped.output)
    for name in ("toolorch.json", "adapter_model.safetensors"):
        (stopped.output / name).unlink()
    for name in ("checkpoint-9", "checkpoint-6"):
        shutil.rmtree(stopped.output / "checkpoints" / name)

    assert train(stopped).metrics["steps"] == 9

    _assert_same_weights(whole.output, stopped.output)


def _assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_killed_run_goes_on_as_if_nothing_had_been(policy: Path, store: str, tmp_path: Path) -> None:
    more = {"save_every": 3, "batch": 8, "steps": 12, "lora_dropout": 0.1}
    whole = settings_of(policy, tmp_path / "whole", store, **more)
    killed = settings_of(policy, tmp_path / "killed", store, **more)
    train(whole)
    _train_until_killed(killed, tmp_path)
    below = tmp_path / "killed" / "checkpoints"
    left = checkpoints(below)
    assert left
    assert not (tmp_path / "killed" / "toolorch.json").exists()
    half = below / "checkpoint-11"  # newer than all that are whole
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    with TraceStore.open(store) as opened:
        assert opened.stats().traces == 48

    train(killed)

    assert not half.exists()
    _assert_same_weights(whole.output, killed.output)


def _train_until_killed(settings: TrainSettings, folder: Path) -> None:
    """Train in another process, and kill it once it has a checkpoint and has gone on from that."""
    file = folder / "settings.json"
    file.write_text(settings.model_dump_json())
    slow = (
        "import time, toolorch_rl.training.progress as p\n"
        "said = p.Progress.on_log\n"
        "def on_log(self, args, state, control, logs=None, **more):\n"
        "    said(self, args, state, control, logs, **more)\n"
        "    time.sleep(0.3 if state.global_step > 6 else 0)\n"
        "p.Progress.on_log = on_log\n"
        "from toolorch_rl.training.__main__ import main\n"
        f"main([{str(file)!r}])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", slow], stderr=subprocess.DEVNULL, env=_environment())
    metrics = settings.output / "metrics.jsonl"
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and metrics.read_text().count("\n") >= 8:
            break
        time.sleep(0.05)
    assert process.poll() is None, "the run ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_a_folder_with_another_run_in_it_is_left_alone(policy: Path, store: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(settings_of(policy, out, store, steps=2))
    with pytest.raises(TrainingError, match="holds a trained policy"):
        train(settings_of(policy, out, store, steps=2))
    (out / "toolorch.json").unlink()
    with pytest.raises(TrainingError, match="other settings"):
        train(settings_of(policy, out, store, steps=3))

    assert train(settings_of(policy, out, store, steps=3, restart=True)).metrics["steps"] == 3
    assert (checkpoints(out / "checkpoints")[-1] / MARK).is_file()


# Several processes


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_train_as_one_does(policy: Path, store: str, tmp_path: Path, kind: str) -> None:
    values = {"steps": 3, "batch": 24, "learning_rate": 1e-3, "kl": 0.05, "lora_rank": None}
    alone = settings_of(policy, tmp_path / "one", store, **values)
    train(alone)
    together = alone.model_copy(update={"output": tmp_path / "two"})
    file = tmp_path / "settings.json"
    file.write_text(together.model_dump_json())

    done = subprocess.run(
        [*_launch(kind, tmp_path), str(file)], env=_environment(), capture_output=True, text=True, timeout=200
    )

    assert done.returncode == 0, done.stderr[-3000:]
    last = tmp_path / "two" / "checkpoints" / "checkpoint-3"
    assert len(list(last.glob("rng_state_*.pth"))) == 2
    assert (last / "pytorch_model_fsdp.bin").exists() == (kind == "fsdp2")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    start = load_file(policy / "model.safetensors")
    moved = max(float((one[name] - start[name]).abs().max()) for name in one)
    apart = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert moved > 1e-3
    assert apart < 0.02 * moved


def _launch(kind: str, folder: Path) -> list[str]:
    """Return the command that starts two processes, with the configuration that users get but for GPUs."""
    root = Path(__file__).parents[1] / "rl" / "accelerate"
    if kind == "ddp":
        config, program = root / "cpu_two_processes.yaml", ["-m", "toolorch_rl.training"]
    else:
        text = (root / "fsdp2.yaml").read_text().replace("num_processes: 8", "num_processes: 2\nmain_process_port: 0")
        config = folder / "fsdp2.yaml"
        config.write_text(text.replace("mixed_precision: bf16", 'mixed_precision: "no"'))
        program = [str(Path(__file__).with_name("shard_on_cpu.py"))]
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), *program]


# The command line


def test_the_command_trains_and_says_what_it_left_out(policy: Path, runs: Runs, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from toolorch_integrations.cli import app

    traces = runs.traces(4)
    traces[0].rewards.clear()
    url = stored(tmp_path / "t.db", traces)
    out = tmp_path / "out"
    arguments = ["train", "--policy", str(policy), "--output", str(out), "--store", url, "--steps", "2"]

    done = CliRunner().invoke(app, [*arguments, "--lora-rank", "4", "--set", "truncate=3", "--batch", "4"])

    assert done.exit_code == 0, done.output
    assert "left out: 1 no outcome" in done.output
    assert "trained 2 steps" in done.output
    card = json.loads((out / "toolorch.json").read_text())
    assert card["settings"]["lora_rank"] == 4
    assert card["settings"]["truncate"] == 3.0
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert "error: output:" in again.output
