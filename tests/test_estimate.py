"""Off-policy estimates: right where it can be computed, honest where the log cannot tell."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.policy_world import base_policy, moved, realised, run
from tests.routing_world import NAMES, REQUESTS, Runs, logprobs_of, prompt_ids, stored
from tests.tiny_policy import build_adapter
from toolorch_integrations.trace import Trace
from toolorch_rl.estimate import EstimateError, LoggedRuns, Outcome, estimate, run_ratios, weigh
from toolorch_rl.estimate.estimators import doubly_robust, outcome_model, per_decision, self_normalised
from toolorch_rl.estimate.intervals import ratio_interval, student_quantile, wilson_interval
from toolorch_rl.estimate.logged import numbered, padded
from toolorch_rl.estimate.outcomes import outcomes_of
from toolorch_rl.estimate.traces import estimate_traces
from toolorch_rl.rewards import features_of
from toolorch_rl.rows import Rollout, Row
from toolorch_rl.training import TrainingError
from toolorch_rl.training.plan import Plan, TrainedOn
from toolorch_rl.training.settings import TrainSettings
from toolorch_rl.training.tasks import task_name


def bandit(number: int = 400, *, seed: int = 0, old: float = 0.5, new: float = 0.7, **more: Any) -> LoggedRuns:
    """Runs of one decision between two: the second earns 1 on average, the first 0."""
    random = np.random.default_rng(seed)
    second = random.random(number) < old
    ratios = np.where(second, np.log(new / old), np.log((1 - new) / (1 - old)))
    values = second + random.normal(0, 0.3, number)
    arguments: dict[str, Any] = {
        "runs": tuple(map(str, range(number))),
        "groups": np.arange(number, dtype=np.intp),
        "log_ratios": ratios[:, None],
        "outcomes": {"reward": Outcome(values)},
    }
    return LoggedRuns(**(arguments | more))


def row(ids: list[int], trained: list[int], logprobs: list[float], nodes: list[int]) -> Row:
    mask = np.isin(np.arange(len(ids)), trained)
    full = np.full(len(ids), np.nan, np.float32)
    full[mask] = logprobs
    ones = np.ones(len(ids), np.float32)
    return Row("t", nodes[-1], np.array(ids, np.uint32), mask, full, ones, np.array(nodes, np.int32))


# --- intervals


@pytest.mark.parametrize(
    ("degrees", "wanted"), [(4, 2.776), (10, 2.228), (30, 2.042), (1e6, 1.960)]
)  # from printed tables
def test_student_quantiles_are_those_of_the_tables(degrees: float, wanted: float):
    assert student_quantile(0.975, degrees) == pytest.approx(wanted, abs=2e-3)


@hypothesis_settings(max_examples=25)
@given(st.lists(st.floats(-5, 5), min_size=5, max_size=40).filter(lambda xs: np.ptp(xs) > 1e-3), st.floats(0.1, 10))
def test_an_interval_holds_its_ratio_and_scales(values: list[float], scale: float):
    parts, wholes = np.array(values), np.ones(len(values))
    low, high = ratio_interval(parts, wholes, (-100.0, 100.0), len(values) - 1)
    assert low <= parts.mean() <= high
    scaled = ratio_interval(parts * scale, wholes, (-100.0 * scale, 100.0 * scale), len(values) - 1)
    assert scaled == pytest.approx((low * scale, high * scale), rel=1e-3, abs=1e-4)


def test_a_mean_of_normal_values_has_about_students_interval():
    values = np.random.default_rng(0).normal(3, 1, 200)
    low, high = ratio_interval(values, np.ones(200), (-10.0, 10.0), 199)
    half = student_quantile(0.975, 199) * values.std(ddof=1) / np.sqrt(200)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_skewed_values_have_a_skewed_interval():
    values = np.random.default_rng(1).lognormal(0, 1.5, 60)
    low, high = ratio_interval(values, np.ones(60), (0.0, 1e3), 59)
    assert high - values.mean() > 1.3 * (values.mean() - low)


def test_wilson_never_collapses():
    low, high = wilson_interval(1.0, 20)
    assert 0.75 < low < 1.0
    assert high == 1.0


# --- weights


def test_equal_policies_weigh_every_run_the_same():
    weights = weigh(np.zeros((10, 3)), np.arange(10, dtype=np.intp))
    assert weights.final.tolist() == [1.0] * 10
    assert (weights.effective_runs, weights.truncated, weights.missing) == (10.0, 0.0, 0.0)


def test_large_weights_are_truncated_and_what_that_hides_is_said():
    ratios = np.zeros((100, 1))
    ratios[0] = np.log(50.0)
    weights = weigh(ratios, np.arange(100, dtype=np.intp))
    assert weights.final.max() == pytest.approx(weights.limit)
    assert weights.limit == 10.0
    assert weights.truncated == 0.01
    assert weights.missing == pytest.approx(1 - (99 + 10) / (99 + 50))


def test_a_policy_whose_runs_are_not_in_the_log_is_missing():
    weights = weigh(np.full((200, 1), -9.0), np.arange(200, dtype=np.intp))
    assert weights.missing > 0.99


def test_ratios_of_any_size_stay_numbers():
    weights = weigh(np.array([[900.0], [-900.0], [-np.inf], [0.0]]), np.arange(4, dtype=np.intp))
    assert np.isfinite(weights.final).all()
    assert weights.missing == pytest.approx(1.0)


# --- estimators


def test_all_estimators_agree_with_the_mean_for_the_policy_that_was_logged():
    logged = run(
        base_policy(np.random.default_rng(0)), base_policy(np.random.default_rng(0)), 300, 3, np.random.default_rng(1)
    )
    weights = weigh(np.zeros_like(logged.log_ratios), logged.groups)
    dollars = logged.outcomes["dollars"]
    assert dollars.steps is not None
    found = [
        self_normalised(weights, dollars.values),
        doubly_robust(weights, dollars.values, logged.features, logged.groups),
        per_decision(weights, dollars.steps),
    ]
    assert [entry.value for entry in found] == pytest.approx([float(dollars.values.mean())] * 3)


def test_a_known_value_is_found():
    found = estimate(bandit(4_000)).metrics["reward"]
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(0.7, abs=0.03)
    assert found.verdict == "better"
    assert found.by_method["self-normalised"] == pytest.approx(0.7, abs=0.03)


def test_the_outcome_model_does_not_see_the_task_it_is_used_on():
    random = np.random.default_rng(0)
    features, groups = random.normal(0, 1, (100, 2)), np.repeat(np.arange(50), 2)
    values = features[:, 0] + random.normal(0, 0.1, 100)
    model = outcome_model(np.ones(100), values, features, groups)
    assert np.corrcoef(model, values)[0, 1] > 0.9
    changed = values.copy()
    changed[groups == 7] = values.max()
    assert outcome_model(np.ones(100), changed, features, groups)[groups == 7].tolist() == model[groups == 7].tolist()


def test_a_good_model_makes_the_interval_narrower():
    random = np.random.default_rng(3)
    easy = random.normal(0, 1, 500)
    logged = bandit(500, features=easy[:, None])
    values = logged.outcomes["reward"].values + 2 * easy
    weights = weigh(logged.log_ratios, logged.groups)
    widths = []
    for entry in (
        self_normalised(weights, values),
        doubly_robust(weights, values, logged.features, logged.groups),
    ):
        low, high = entry.interval(logged.groups, 400, (-10.0, 10.0))
        widths.append(high - low)
    # What the log's own sample of tasks leaves open stays; what the weights add to it goes.
    assert widths[1] < 0.97 * widths[0]


def test_the_95_per_cent_interval_holds_the_truth_in_90_per_cent_of_40_logs():
    random = np.random.default_rng(5)
    old = base_policy(random)
    new = moved(old, 0.4, random)
    truth = realised(new, 0)
    held = {"reward": 0, "dollars": 0}
    for seed in range(40):
        logged = run(old, new, 150, 2, np.random.default_rng([seed, 9]))
        report = estimate(replace(logged, outcomes={name: logged.outcomes[name] for name in held}))
        for name, entry in report.metrics.items():
            assert entry.estimate is not None
            held[name] += entry.estimate.low <= truth[name] <= entry.estimate.high
    assert min(held.values()) >= 36, held


# --- what cannot be said


def test_too_few_runs_cannot_say():
    found = estimate(bandit(8)).metrics["reward"]
    assert (found.verdict, found.estimate) == ("cannot say", None)
    assert "8 runs are too few" in found.reason


def test_a_log_of_few_tasks_speaks_of_these_tasks_only():
    report = estimate(bandit(400, groups=np.arange(400) % 3))
    assert (report.groups, report.scope) == (3, "these tasks")
    assert report.metrics["reward"].estimate is not None
    assert estimate(bandit(400)).scope == "tasks like these"


def test_bad_overlap_cannot_say():
    found = estimate(bandit(300, old=0.02, new=0.98, seed=4)).metrics["reward"]
    assert found.verdict == "cannot say"
    assert "overlap is bad" in found.reason or "is worth" in found.reason


def test_rewards_that_are_all_equal_cannot_say():
    found = estimate(bandit(outcomes={"reward": Outcome(np.full(400, 0.5))})).metrics["reward"]
    assert found.verdict == "cannot say"
    assert "all runs have the same value" in found.reason


def test_a_log_in_which_all_is_solved_does_not_promise_that_all_will_be():
    found = estimate(bandit(60, outcomes={"solved": Outcome(np.ones(60), bounds=(0.0, 1.0))})).metrics["solved"]
    assert found.estimate is not None
    assert found.estimate.low < 0.96
    assert found.verdict == "no clear change"


def test_a_metric_that_is_seldom_known_cannot_say_and_the_others_can():
    seldom = np.where(np.arange(400) < 100, 1.0, np.nan)
    logged = bandit()
    logged = replace(logged, outcomes={**logged.outcomes, "dollars": Outcome(seldom)})
    report = estimate(logged)
    assert "known of 100 of 400 runs" in report.metrics["dollars"].reason
    assert report.metrics["reward"].estimate is not None


def test_nothing_to_estimate_from_is_an_error_with_the_reasons():
    empty = LoggedRuns((), np.zeros(0, np.intp), np.zeros((0, 1)), {})
    with pytest.raises(EstimateError, match="no runs to estimate from; left out: 3 greedy"):
        estimate(empty, skipped={"greedy": 3})
    with pytest.raises(EstimateError, match="outcomes is empty"):
        estimate(bandit(outcomes={}))


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(EstimateError, match="groups"):
        bandit(groups=np.zeros(3, np.intp))
    with pytest.raises(EstimateError, match="steps"):
        bandit(outcomes={"dollars": Outcome(np.ones(400), np.ones((400, 2)))})


# --- rows to ratios


def test_ratios_are_added_up_decision_by_decision():
    first = row([1, 2, 3, 4, 5, 6], [2, 3, 5], [-1.0, -2.0, -3.0], [0, 0, 1, 1, 2, 3])
    found = run_ratios(Rollout("t", (first,), ("v1",)), lambda _: np.full(6, -1.5, np.float32))
    assert found.nodes.tolist() == [1, 3]
    assert found.log_ratios.tolist() == [-0.5 + 0.5, 1.5]


def test_a_token_that_two_rows_hold_counts_once():
    first = row([1, 2, 3], [1, 2], [-1.0, -1.0], [0, 1, 1])
    second = row([1, 2, 9, 4], [3], [-1.0], [0, 1, 2, 3])
    found = run_ratios(Rollout("t", (first, second), ("v1",)), lambda one: np.full(len(one), -2.0, np.float32))
    assert found.log_ratios.tolist() == [-2.0, -1.0]


@pytest.mark.parametrize(
    ("logprobs", "new", "message"),
    [
        ([-1.0, np.nan], [0.0] * 3, "1 sampled tokens have no behaviour log-probability"),
        ([-1.0, -1.0], [0.0, np.nan, 0.0], "NaN or infinity"),
        ([-1.0, -1.0], [0.0], "log-probabilities for 3 tokens"),
    ],
)
def test_log_probabilities_that_are_missing_are_named(logprobs: list[float], new: list[float], message: str):
    rollout = Rollout("run-7", (row([1, 2, 3], [1, 2], logprobs, [0, 1, 1]),), ("v1",))
    with pytest.raises(EstimateError, match=message) as caught:
        run_ratios(rollout, lambda _: np.array(new, np.float32))
    assert "run-7" in str(caught.value)


def test_a_reply_that_the_new_policy_never_gives_weighs_nothing():
    rollout = Rollout("t", (row([1, 2], [1], [-1.0], [0, 1]),), ("v1",))
    found = run_ratios(rollout, lambda _: np.array([0.0, -np.inf], np.float32))
    assert found.log_ratios.tolist() == [-np.inf]
    assert weigh(padded([found.log_ratios, [0.0]]), numbered(["a", "b"])).final.tolist() == [0.0, 1.0]


# --- captured traces and a real policy


@pytest.fixture(scope="module")
def traces(router: Path) -> list[Trace]:
    return Runs(router).traces(60)


def settings(**values: Any) -> TrainSettings:
    return TrainSettings.of({"policy": "new", "output": "out", **values})


def test_the_logging_policy_itself_is_estimated_at_its_own_mean(router: Path, traces: list[Trace], tmp_path: Path):
    store = stored(tmp_path / "traces.db", traces)
    result = toolorch(store, "--policy", str(router), "--format", "json")
    report = json.loads(result.stdout)
    assert report["runs"] == 240
    assert report["effective_runs"] == pytest.approx(240, rel=1e-3)  # one model, two ways of reading it
    solved = report["metrics"]["solved"]
    assert solved["estimate"]["value"] == pytest.approx(solved["logged"], abs=1e-3)
    assert solved["verdict"] in ("no clear change", "better", "worse")
    assert abs(solved["difference"]["value"]) < 1e-3
    assert [share["version"] for share in report["versions"]] == ["policy-1"]
    table = toolorch(store, "--policy", str(router)).output
    assert "solved" in table
    assert "policy-1: 240 runs" in table


def test_an_adapter_is_estimated_on_its_base(router: Path, traces: list[Trace], tmp_path: Path):
    store = stored(tmp_path / "traces.db", traces)
    adapter = build_adapter(tmp_path / "adapter", router)
    report = json.loads(toolorch(store, "--policy", str(adapter), "--base", str(router), "--format", "json").stdout)
    assert report["runs"] == 240
    assert report["effective_runs"] < 239.9  # a policy that differs by some per cent, not by rounding


def test_a_sharper_policy_is_estimated_at_what_it_would_solve(router: Path, traces: list[Trace]):
    """The new policy is the old one with the answer `query` twice as likely: its value can be computed."""
    runs = Runs(router)
    token = runs.tokenizer.encode("query")[0]
    truth, before = [], []
    for request in REQUESTS:
        prompt = prompt_ids(runs.tokenizer, request)
        p = float(logprobs_of(runs.model, prompt, runs.tokenizer.encode("query<|im_end|>")).sum().exp())
        before.append(p)
        truth.append(2 * p / (1 + p))

    def doubled(rows: Any) -> list[np.ndarray]:
        found = []
        for one, request in zip(rows, [r for r in REQUESTS for _ in range(60)], strict=True):
            p = before[REQUESTS.index(request)]
            new = one.logprobs.copy()
            first = int(np.flatnonzero(one.trained)[0])
            new[first] += np.log((2 if one.ids[first] == token else 1) / (1 + p))
            found.append(new)
        return found

    found = estimate_traces(traces, doubled, settings()).metrics["solved"]
    assert found.estimate is not None
    assert found.estimate.low <= float(np.mean(truth)) <= found.estimate.high
    assert found.verdict == "better"
    assert len(NAMES) == 4


def test_an_empty_store_one_trace_and_missing_logprobs_say_what_to_do(
    router: Path, traces: list[Trace], tmp_path: Path
):
    empty = stored(tmp_path / "empty.db", [])
    assert "is empty: capture some runs first" in flat(toolorch(empty, "--policy", str(router), code=1))
    one = stored(tmp_path / "one.db", traces[:1])
    assert "1 runs are too few" in flat(toolorch(one, "--policy", str(router)))
    with pytest.raises(EstimateError, match="none of 0 traces can be used: the store is empty"):
        estimate_traces([], lambda rows: [], settings())


def test_runs_of_tasks_that_the_policy_was_trained_on_are_left_out_and_counted(
    router: Path, traces: list[Trace], tmp_path: Path
):
    folder = tmp_path / "trained"
    shutil.copytree(router, folder)
    some = [*traces[:20], *traces[60:80]]  # of two tasks
    store = stored(tmp_path / "traces.db", some)
    assert "trained on" not in flat(toolorch(store, "--policy", str(folder)))
    plan = Plan("", tasks=[task_name(some[0])], traces=["a run that is no longer there"])
    plan.write(folder)
    assert "left out: 20 of tasks that the new policy was trained on" in flat(toolorch(store, "--policy", str(folder)))
    assert "20 of these runs are of tasks" in flat(toolorch(store, "--policy", str(folder), "--all-runs"))
    (folder / "plan.json").write_text(json.dumps({"settings": "", "traces": [some[0].id]}))  # of an older release
    assert TrainedOn.read(folder).among(some) == {trace.id for trace in some[:20]}

    plan.of(some, settings()).write(folder)
    said = flat(toolorch(store, "--policy", str(folder), code=1))
    assert "none of 40 traces can be used: 40 of tasks that the new policy was trained on" in said
    assert "held_back" in said


def test_what_a_policy_was_trained_from_counts(traces: list[Trace], tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, policy, trace in ((first, "hub/model", traces[0]), (second, str(first), traces[60])):
        folder.mkdir()
        Plan("", policy, tasks=[task_name(trace)], traces=[trace.id]).write(folder)
    assert TrainedOn.read(first).among(traces) == {trace.id for trace in traces[:60]}
    assert TrainedOn.read(second).among(traces) == {trace.id for trace in traces[:120]}
    Plan("", str(second), tasks=[]).write(first)  # trained from each other
    assert TrainedOn.read(second).among(traces) == {trace.id for trace in traces[60:120]}
    (first / "plan.json").write_text('{"tasks": [')
    with pytest.raises(TrainingError, match=r"nobody can tell what .*first was trained on"):
        TrainedOn.read(second)


def test_traces_that_cannot_be_used_are_counted(traces: list[Trace]):
    def same(rows: Any) -> list[np.ndarray]:
        return [one.logprobs for one in rows]

    mixed = [Trace(id="bare", request="x", rewards=[]), *traces[:40]]
    mixed[0].status = traces[0].status
    report = estimate_traces(mixed, same, settings())
    assert report.runs == 40
    assert report.metrics["reward"].logged > 0  # type: ignore[operator]
    assert sum(report.skipped.values()) == 1
    assert "no outcome" in next(iter(report.skipped))


def test_a_policy_that_does_not_load_or_fit_is_refused(traces: list[Trace], tmp_path: Path):
    store = stored(tmp_path / "traces.db", traces[:20])
    result = toolorch(store, "--policy", str(tmp_path / "nothing"), code=1)
    assert "cannot be loaded" in flat(result)


def test_bad_options_name_the_fix(tmp_path: Path):
    store = stored(tmp_path / "traces.db", [])
    assert "are no preferences" in flat(toolorch(store, "--policy", "x", "--preferences", "cost=a lot", code=2))
    assert "preset" in flat(toolorch(store, "--policy", "x", "--preset", "mine", code=1))


def test_costs_are_weighed_by_the_decisions_before_them_only(traces: list[Trace]):
    found = outcomes_of(traces[0], features_of(traces[0]), 0.25)
    assert found["reward"] == 0.25
    assert found["format_errors"] == found["destructive_calls"] == 0.0
    weights = weigh(np.array([[0.0, np.log(2.0)], [0.0, np.log(0.5)]] * 20), np.arange(40, dtype=np.intp))
    first_only = per_decision(weights, np.array([[1.0, 0.0], [3.0, 0.0]] * 20))
    assert first_only.value == 2.0  # the second decision's ratio changes nothing about the first one's cost
    second_only = per_decision(weights, np.array([[0.0, 1.0], [0.0, 3.0]] * 20))
    assert second_only.value == pytest.approx((2 * 1 + 0.5 * 3) / 2.5)


def toolorch(store: str, *arguments: str, code: int = 0) -> Any:
    from toolorch_integrations.cli import app

    result = CliRunner(env={"TOOLORCH_STORE": store, "COLUMNS": "200"}).invoke(app, ["estimate", *arguments])
    assert result.exit_code == code, result.output
    return result


def flat(result: Any) -> str:
    return " ".join(result.output.replace("│", " ").split())
