"""The gate: what passes, stays or waits, and intervals that may be watched as runs come in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from toolorch_integrations.versions import tries
from toolorch_rl.estimate import LoggedRuns, Outcome, estimate
from toolorch_serving.promotion import (
    CanaryPlan,
    Change,
    Criteria,
    Evidence,
    Gate,
    LiveRun,
    Margin,
    PromotionError,
    Proof,
    Stage,
    StageProof,
    Verdict,
    of_canary,
)
from toolorch_serving.promotion.evidence import of_estimate
from toolorch_serving.promotion.sequential import confidence_sequence, scores

GOOD = {
    "reward": Change(0.1, 0.05, 0.15, 0.6),
    "solved": Change(0.02, -0.01, 0.05, 0.8),
    "dollars": Change(-0.001, -0.002, 0.0, 0.01),
}


def evidence(stage: Stage = Stage.EVALUATION, waiting: str = "", **changes: Change) -> Evidence:
    return Evidence(stage, {**GOOD, **changes}, waiting=waiting)


def test_better_on_the_goal_and_no_worse_elsewhere_passes():
    decision = Gate().judge(evidence())
    assert decision.verdict is Verdict.PASS
    assert decision.reason == "evaluation: reward +0.1 [+0.05, +0.15]"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"reward": Change(0.01, -0.02, 0.04)}, "reward is not shown to be better"),
        ({"reward": Change(-0.1, -0.2, -0.05)}, "reward is no better"),
        ({"reward": Change(note="too few runs")}, "which cannot be told (too few runs)"),
        ({"solved": Change(-0.1, -0.15, -0.05, 0.8)}, "solved is worse"),
        ({"solved": Change(0.0, -0.1, 0.1, 0.8)}, "solved is not shown to be no worse than 0.03"),
        ({"dollars": Change(0.01, 0.005, 0.015, 0.01)}, "dollars is worse"),
        ({"seconds": Change(note="not known")}, "seconds is not shown to be no worse"),
    ],
)
def test_what_is_not_shown_stays_and_says_why(changes: dict[str, Change], reason: str):
    decision = Gate().judge(evidence(**changes))
    assert decision.verdict is Verdict.STAY
    assert reason in decision.reason


def test_a_goal_that_was_not_measured_stays():
    changes = {name: change for name, change in GOOD.items() if name != "reward"}
    assert "was not measured" in Gate().judge(Evidence(Stage.CANARY, changes)).reason


def test_an_estimate_need_not_prove_what_is_protected_but_must_not_refute_it():
    wide = Change(0.0, -0.3, 0.3, 0.8)
    assert Gate().judge(evidence(Stage.ESTIMATE, solved=wide)).verdict is Verdict.PASS
    worse = Change(-0.2, -0.3, -0.1, 0.8)
    assert Gate().judge(evidence(Stage.ESTIMATE, solved=worse)).verdict is Verdict.STAY


def test_an_estimate_on_what_the_candidate_was_trained_on_shows_nothing():
    random = np.random.default_rng(0)
    second = random.random(400) < 0.5
    ratios = np.where(second, np.log(1.6), np.log(0.4))[:, None]
    outcomes = {"reward": Outcome(second + random.normal(0, 0.1, 400))}
    logged = LoggedRuns(tuple(map(str, range(400))), np.arange(400, dtype=np.intp), ratios, outcomes)
    report = estimate(logged, skipped={"of tasks that the new policy was trained on": 9})
    assert Gate().judge(of_estimate(report)).verdict is Verdict.PASS

    decision = Gate().judge(of_estimate(replace(report, trained_on=3)))
    assert decision.verdict is Verdict.STAY
    assert "3 of 400 runs are of tasks that the candidate was trained on" in decision.reason

    few = LoggedRuns(logged.runs[:5], logged.groups[:5], ratios[:5], {"reward": Outcome(outcomes["reward"].values[:5])})
    decision = Gate().judge(of_estimate(estimate(few, skipped=report.skipped)))
    assert decision.verdict is Verdict.STAY
    assert "5 runs are too few" in decision.reason
    assert "left out: 9 of tasks that the new policy was trained on" in decision.reason


def test_a_canary_waits_for_what_is_open_and_never_for_a_regression():
    unclear = {"reward": Change(0.1, -0.1, 0.3, 0.6)}
    assert Gate().judge(evidence(Stage.CANARY, "more runs come", **unclear)).verdict is Verdict.WAIT
    broken = {**unclear, "solved": Change(-0.2, -0.3, -0.1, 0.8)}
    assert Gate().judge(evidence(Stage.CANARY, "more runs come", **broken)).verdict is Verdict.STAY
    assert Gate().judge(evidence(Stage.CANARY, "", **unclear)).verdict is Verdict.STAY


def test_margins_and_proofs_are_the_callers():
    dearer = {"dollars": Change(0.002, 0.001, 0.003, 0.01)}
    assert Gate().judge(evidence(**dearer)).verdict is Verdict.STAY
    loose = Criteria(protected={"dollars": Margin(relative=0.5)})
    assert Gate(loose).judge(evidence(**dearer)).verdict is Verdict.PASS
    lax = Criteria(proofs={Stage.EVALUATION: StageProof(goal=Proof.NOT_REFUTED, protected=Proof.NOT_REFUTED)})
    assert Gate(lax).judge(evidence(reward=Change(0.0, -0.1, 0.1))).verdict is Verdict.PASS


def test_a_confidence_sequence_holds_at_every_look():
    missed = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        treated = random.random(1_500) < 0.2
        values = np.where(treated, 0.6, 0.5) + random.normal(0, 0.4, 1_500)
        found = scores(values, treated, 0.2)
        looks = [confidence_sequence(found[:number], 1_000) for number in range(200, 1_501, 50)]
        missed += any(not low <= 0.1 <= high for _, low, high in looks)
    assert missed <= 5


def test_a_score_does_not_know_its_own_run():
    values, treated = np.array([1.0, 0.0, 1.0, 1.0]), np.array([True, False, True, False])
    changed = values.copy()
    changed[3] = 9.0
    assert scores(values, treated, 0.5)[:3].tolist() == scores(changed, treated, 0.5)[:3].tolist()


def live(
    number: int, candidate: float, other: float, share: float = 0.5, seed: int = 0, per_key: int = 1
) -> list[LiveRun]:
    random = np.random.default_rng(seed)
    found = []
    for place in range(number):
        key = f"k{place // per_key}"
        ours = tries(key, "v2", share)
        solved = float(random.random() < (candidate if ours else other))
        found.append(LiveRun(key, ours, {"reward": solved, "solved": solved, "dollars": 0.01}))
    return found


def test_too_few_conversations_say_nothing_whatever_they_say():
    found = of_canary(live(40, 1.0, 0.0), CanaryPlan(0.5, least=30), Criteria(), 1.0)
    assert found.changes["reward"].low is None
    assert found.waiting
    assert Gate().judge(found).verdict is Verdict.WAIT


def test_runs_of_one_conversation_count_as_one():
    plan = CanaryPlan(0.5, least=30, planned=400)
    apart = of_canary(live(800, 0.9, 0.5), plan, Criteria(), 1.0).changes["reward"]
    together = of_canary(live(800, 0.9, 0.5, per_key=8), plan, Criteria(), 1.0)
    assert sum(together.counts[name] for name in ("candidate", "incumbent")) == 100
    change = together.changes["reward"]
    assert None not in (apart.low, apart.high, change.low, change.high)
    assert change.high - change.low > apart.high - apart.low  # type: ignore[operator]


def test_a_canary_ends_by_its_bounds():
    plan = CanaryPlan(0.5, least=30, planned=100, most=200, patience=60.0)
    assert of_canary(live(199, 0.5, 0.5), plan, Criteria(), 1.0).waiting
    assert not of_canary(live(200, 0.5, 0.5), plan, Criteria(), 1.0).waiting
    assert not of_canary(live(40, 0.5, 0.5), plan, Criteria(), 60.0).waiting


def test_what_no_run_did_is_rare_and_not_impossible():
    quiet = [replace(run, outcomes={**run.outcomes, "destructive_calls": 0.0}) for run in live(100, 0.9, 0.5)]
    change = of_canary(quiet, CanaryPlan(0.5, least=30), Criteria(), 1.0).changes["destructive_calls"]
    assert change.high is not None
    assert change.high > 0.05


@pytest.mark.parametrize("values", [{"share": 0.0}, {"share": 1.0}, {"least": 1}, {"most": 10}, {"patience": 0.0}])
def test_a_plan_that_cannot_work_is_refused(values: dict[str, Any]):
    with pytest.raises(PromotionError, match="canary"):
        CanaryPlan(**values)
