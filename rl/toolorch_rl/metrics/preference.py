"""The preference score of ToolOrchestra: equations 5 and 6 of arXiv 2511.21689.

They stand in its appendix on the calculation of rewards for the preference-aware benchmark.
For an example e, M_s is the feature vector of the policy's run and M_0 that of the starting checkpoint's:

    M~[k] = M_s[k] / max(1, M_0[k])    for the tools and the outcome        (equation 5)
    M~[k] = M_0[k] / max(1, M_s[k])    for cost and latency
    R(e)  = M~ . P if the run solved the task, else 0                       (equation 6)

and a benchmark's score is the sum of R(e). The paper defines cost and latency features as -dollars and -seconds. Put
into equation 5 with these signs, max(1, M_s[k]) is always 1 and what the policy spends does not count at all. So M[k]
is read as what was spent: half the cost doubles the term. The 1 makes the score depend on units; the paper does not
name them, but reports cents and minutes, and these are the defaults here.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolorch_integrations.preferences import Preferences
from toolorch_rl.metrics.estimates import Estimate, bootstrap
from toolorch_rl.rewards.features import RewardError, RunFeatures


def preference_score(
    runs: Sequence[RunFeatures],
    baselines: Sequence[RunFeatures],
    preferences: Sequence[Preferences],
    *,
    dollar_unit: float = 0.01,
    second_unit: float = 60.0,
) -> tuple[list[float], Estimate]:
    """Return R(e) of each example, and their mean; the paper's score is the sum.

    Args:
        runs: The policy's run of each example.
        baselines: The starting policy's run of the same example, in the same order.
        preferences: The caller's preferences of each example.
        dollar_unit: Dollars that count as 1.
        second_unit: Seconds that count as 1.

    Raises:
        RewardError: The three do not go together, a unit is not positive, or dollars or seconds that a preference
            weighs are not known; the message names the run.
    """
    if not len(runs) == len(baselines) == len(preferences):
        raise RewardError(
            f"{len(runs)} runs, {len(baselines)} baselines and {len(preferences)} preferences do not go together"
        )
    if dollar_unit <= 0 or second_unit <= 0:
        raise RewardError(f"units must be positive, got {dollar_unit} dollars and {second_unit} seconds")
    scores = []
    for run, base, wanted in zip(runs, baselines, preferences, strict=True):
        score = sum(
            weight * run.calls.get(name, 0) / max(1, base.calls.get(name, 0)) for name, weight in wanted.tools.items()
        )
        score += wanted.quality * run.solved / max(1, base.solved)
        for name, weight, unit in (("dollars", wanted.cost, dollar_unit), ("seconds", wanted.latency, second_unit)):
            if weight:
                score += weight * _spent(base, name) / unit / max(1.0, _spent(run, name) / unit)
        scores.append(float(score) if run.solved else 0.0)
    return scores, bootstrap(scores)


def _spent(run: RunFeatures, name: str) -> float:
    value: float | None = getattr(run, name)
    if value is None:
        raise RewardError(f"the preferences weigh {name}, and those of run {run.run} are not known")
    return value
