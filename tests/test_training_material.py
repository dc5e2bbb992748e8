"""What training is made of: exact ids, what is left out and counted, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.routing_world import (
    GOOD,
    REQUESTS,
    Runs,
    material,
    prompt_ids,
    rows_of,
    settings_of,
    stored,
    trace_of,
    two_turns,
)
from tests.tiny_policy import build
from toolorch_integrations.trace import Feedback, Reward
from toolorch_rl.training import TrainingError, TrainSettings, train
from toolorch_rl.training.checkpoints import checkpoints
from toolorch_rl.training.corpus import corpus_of, read_traces
from toolorch_rl.training.plan import Plan, TrainedOn
from toolorch_rl.training.tasks import is_held_back, task_name

pytestmark = pytest.mark.usefixtures("one_thread")


def test_supervised_rows_are_the_servers_ids(router: Path, router_store: str, tmp_path: Path) -> None:
    settings = settings_of(router, tmp_path / "out", router_store, method="sft", best=1.0)
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
    router: Path, router_runs: Runs, tmp_path: Path
) -> None:
    url = stored(tmp_path / "t.db", two_turns(router_runs))
    from toolorch_rl.training.preference_trainers import LabelledCollator, PairCollator

    pairs = material(settings_of(router, tmp_path / "a", url, method="dpo"))
    labelled = material(settings_of(router, tmp_path / "b", url, method="kto"))

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


def test_a_pair_on_one_decision_ends_where_the_runs_part(router: Path, router_runs: Runs, tmp_path: Path) -> None:
    url = stored(tmp_path / "t.db", two_turns(router_runs))

    made = material(settings_of(router, tmp_path / "a", url, method="dpo", pair_on="decision"))

    assert made.counts["pairs on one decision"] == made.counts["pairs"] > 0
    for pair in made.rows:
        text = router_runs.tokenizer.decode(pair["chosen_ids"]), router_runs.tokenizer.decode(pair["rejected_ids"])
        assert text == (f"{GOOD}<|im_end|>", "tokyo<|im_end|>")
        assert all(pair["chosen_mask"])


def test_inexact_runs_are_rendered_again_where_ids_are_not_needed(
    router: Path, router_runs: Runs, tmp_path: Path
) -> None:
    exact = two_turns(router_runs)[:1]
    inexact = trace_of("f" * 32, [(None, None, None)] * 2, [{"role": "user", "content": "find"}], ["answer", GOOD])
    inexact.rewards.append(Reward(inexact.id, {"outcome": 1.0}))
    url = stored(tmp_path / "t.db", [*exact, inexact])

    made = material(settings_of(router, tmp_path / "a", url, method="sft"))

    assert made.counts["runs rendered again"] == 1
    ids = {tuple(row["input_ids"]) for row in made.rows}
    assert len(ids) == 1  # the template renders what the server had seen
    with pytest.raises(TrainingError, match=r"1 of 2 traces can be used \(1 inexact\)"):
        material(settings_of(router, tmp_path / "b", url))


def test_bad_settings_name_the_field(router: Path, tmp_path: Path) -> None:
    for more, match in (
        ({"lora_rank": -1}, "lora_rank"),
        ({"feedback_scale": (1, 1)}, "feedback_scale"),
        ({"filters": ["quallity"]}, "filters: there is no filter 'quallity'; choose among format, output, quality"),
        ({"method": "ppo"}, "method"),
        ({"preset": "mine"}, "there is no preset 'mine'"),
        ({"colour": 1}, "colour"),
        ({"method": "kto", "micro_batch": 1}, "micro_batch"),
        ({"method": "online", "steps": None}, "steps"),
        ({"method": "online", "steps": 5, "credit": "call"}, "credit: online training judges whole runs"),
        ({"truncate": 1.1, "clip_high": 0.3}, "truncate"),
    ):
        with pytest.raises(TrainingError, match=match):
            settings_of(router, tmp_path, "t.db", **more)
    with pytest.raises(TrainingError, match="there is no folder"):
        train(settings_of(Path("/nowhere/policy"), tmp_path, "t.db"))
    with pytest.raises(TrainingError, match="report_to: there is nothing called 'abacus'"):
        train(settings_of(router, tmp_path / "r", "t.db", report_to=("abacus",)))


def test_clip_and_divergence_follow_the_preset_where_they_are_not_given(router: Path, tmp_path: Path) -> None:
    known = (("paper", (0.2, 0.2), 0), ("released_script", (0.2, 0.28), 1e-4), ("ours", (0.2, 0.28), 0))
    for name, clip, weight in known:
        online = settings_of(router, tmp_path, method="online", preset=name)
        assert (online.clip, online.kl_weight) == (clip, weight)
        assert settings_of(router, tmp_path, preset=name).clip == (1.0, float("inf"))
    given = settings_of(router, tmp_path, method="online", preset="released_script", clip_high=0.5, kl=0)
    assert (given.clip, given.kl_weight) == ((0.2, 0.5), 0)


def test_replay_leaves_out_tasks_whose_runs_earn_nearly_the_same(
    router: Path, router_runs: Runs, tmp_path: Path
) -> None:
    traces = router_runs.traces(6, requests=("find", "both"), good=lambda request, answer: request == "find")
    traces[-1].rewards[:] = [Reward(traces[-1].id, {"outcome": 1.0})]  # the other task's runs all solve it
    made = material(settings_of(router, tmp_path / "o", stored(tmp_path / "t.db", traces)))
    assert made.counts["runs"] == 6
    assert made.refused == {"the rewards of its group have a standard deviation under 0.1": 6}


def test_too_little_to_train_on_is_said_with_counts(router: Path, router_runs: Runs, tmp_path: Path) -> None:
    some = router_runs.traces(6, requests=("find",), good=lambda request, answer: True)
    for method in ("sft", "dpo", "kto", "replay"):
        for name, traces, match in (
            ("empty", [], "is empty: capture some runs first"),
            ("one", some[:1], None if method == "sft" else "1 of 1 trace|found no pair|good and bad|needs two"),
            ("equal", some, None if method == "sft" else "equal those of|found no pair|good and bad"),
        ):
            settings = settings_of(router, tmp_path / "o", stored(tmp_path / f"{name}.db", traces), method=method)
            if match is not None:
                with pytest.raises(TrainingError, match=match):
                    material(settings)
            else:
                assert material(settings).rows


def test_runs_that_cannot_be_learnt_from_are_left_out_and_counted(
    router: Path, router_runs: Runs, tmp_path: Path
) -> None:
    traces = router_runs.traces(6, requests=("find",))
    for trace in traces[:3]:
        trace.graph.nodes[-1].logprob_bytes = None
    traces[3].rewards.clear()
    url = stored(tmp_path / "t.db", traces)

    corpus = corpus_of(read_traces(settings_of(router, tmp_path, url)), settings_of(router, tmp_path, url))
    assert list(corpus.refused.values()) == [1]
    for trace in traces[4:]:
        trace.graph.nodes[-1].logprob_bytes = None
    with pytest.raises(TrainingError, match=r"0 of 6 traces can be used \(5 no log-probabilities; 1 no outcome"):
        material(settings_of(router, tmp_path / "o", stored(tmp_path / "u.db", traces)))


def test_runs_of_an_evaluation_are_held_out_unless_asked_for(router: Path, router_runs: Runs, tmp_path: Path) -> None:
    traces = router_runs.traces(6, requests=("find",))
    for trace in traces[:4]:
        trace.app = "evaluation"
    found = corpus_of(traces, settings_of(router, tmp_path))
    assert [run.trace.id for run in found.runs] == [trace.id for trace in traces[4:]]
    assert found.refused == {"held out: made by an evaluation (app 'evaluation')": 4}
    assert len(corpus_of(traces, settings_of(router, tmp_path, app="evaluation")).runs) == 6


def test_runs_of_an_evaluation_are_evidence_of_what_was_not_trained_on_them(
    router: Path, router_runs: Runs, tmp_path: Path
) -> None:
    traces = router_runs.traces(6, requests=("find",))
    for number, trace in enumerate(traces):
        trace.metadata["task"] = f"task {number % 3}"
        trace.app = "evaluation" if number % 3 else "shop"
    of_zero, of_one = traces[::3], traces[1::3]

    trained = TrainedOn((Plan("").of([*of_zero, *of_one], settings_of(router, tmp_path)),))

    assert trained.among(traces) == {trace.id for trace in of_zero}
    of_one[0].app = "shop"
    trained = TrainedOn((Plan("").of([*of_zero, *of_one], settings_of(router, tmp_path)),))
    assert trained.among(traces) == {trace.id for trace in [*of_zero, *of_one]}


def test_a_share_of_the_tasks_is_held_back_always_the_same_ones(
    router: Path, router_runs: Runs, router_store: str, tmp_path: Path
) -> None:
    names = [f"task {number}" for number in range(400)]
    quarter = {name for name in names if is_held_back(name, 0.25)}
    assert 70 < len(quarter) < 130
    assert quarter < {name for name in names if is_held_back(name, 0.5)}

    settings = settings_of(router, tmp_path / "o", router_store, held_back=0.5)
    traces = read_traces(settings)
    held = {trace.id for trace in traces if is_held_back(task_name(trace), 0.5)}
    corpus = corpus_of(traces, settings)
    assert 0 < len(held) < len(traces)
    assert {run.trace.id for run in corpus.runs} == {trace.id for trace in traces} - held
    assert corpus.refused == {"held back for an estimate (held_back)": len(held)}
    assert TrainedOn((Plan("").of(traces, settings),)).among(traces) == {run.trace.id for run in corpus.runs}


def test_feedback_stands_for_an_outcome(router: Path, router_runs: Runs, tmp_path: Path) -> None:
    traces = router_runs.traces(6, requests=("find",))
    for number, trace in enumerate(traces):
        trace.rewards.clear()
        trace.feedback.append(Feedback(trace.id, "user", float(number < 2)))

    made = material(settings_of(router, tmp_path / "o", stored(tmp_path / "t.db", traces), method="kto"))

    assert (made.counts["good"], made.counts["bad"]) == (2, 4)


def test_stars_need_their_scale(router: Path, router_runs: Runs, tmp_path: Path) -> None:
    traces = router_runs.traces(5, requests=("find",))
    for number, trace in enumerate(traces):
        trace.feedback.append(Feedback(trace.id, "user", 1.0 + number))

    for method in ("replay", "kto"):  # an outcome goes first for one, feedback for the other
        stars = settings_of(router, tmp_path / "o", method=method, feedback_scale=(1, 5), feedback_threshold=0.7)
        bare = settings_of(router, tmp_path / "o", method=method)
        refused = corpus_of(traces, bare).refused
        assert refused == (
            {"its feedback 'user' is off the scale 0 to 1 (feedback_scale)": 4} if method == "kto" else {}
        )
        assert not corpus_of(traces, stars).refused
    assert [run.solved for run in corpus_of(traces, stars).runs] == [False, False, False, True, True]
    for trace in traces:
        trace.rewards.clear()
    assert sum(corpus_of(traces, settings_of(router, tmp_path)).refused.values()) == 4


def test_rank_0_is_no_adapter_since_toml_has_no_null(router: Path, tmp_path: Path) -> None:
    file = tmp_path / "train.toml"
    file.write_text(f'policy = "{router}"\noutput = "out"\nlora_rank = 0\n')
    settings = TrainSettings.read(file)
    assert settings.lora_rank is None
    assert settings.rate == 1e-6


def test_runs_of_old_policies_are_left_out(router: Path, tmp_path: Path) -> None:
    traces = [
        trace
        for number in range(3)
        for trace in Runs(router, version=f"policy-{number}").traces(4, seed=10 * number, started=1e4 * (number + 1))
    ]
    url = stored(tmp_path / "t.db", traces)

    made = material(settings_of(router, tmp_path / "o", url, max_staleness=1))

    assert made.refused["its policy is more than 1 versions old"] == 16
    assert made.versions == ["policy-1", "policy-2"]


def test_a_tokenizer_that_does_not_match_is_refused_before_any_step(
    router: Path, router_store: str, tmp_path: Path
) -> None:
    other = build(tmp_path / "other", (), seed=1)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    plain = sorted((name for name in words if len(name) < 3), key=words.__getitem__)
    tokenizer["model"]["vocab"] |= dict(zip(plain, (words[name] for name in reversed(plain)), strict=True))
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(TrainingError, match=r"tokenizer does not match the traces' ids: \d+ of 48 replies"):
        train(settings_of(other, tmp_path / "out", router_store))
    assert not checkpoints(tmp_path / "out" / "checkpoints")
