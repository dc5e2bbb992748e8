"""The world of `benchmarks/routing_redrawn.py`: a team of specialists for each request."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks.routing_report import dominated, summed_up
from examples.routing.app import routing_app
from examples.routing.measure import Worth, baselines, best_rewards, policy_arm, rewards, worth
from examples.routing.redrawn import EVERYTHING, SKILLS, names, prices, redrawn_tasks, team
from examples.routing.redrawn_policy import CHOICES, able, least, reply, verdict
from examples.routing.redrawn_reading import consistent, parts_of
from examples.routing.requests import SETTINGS, RoutingTask
from tests.doubles import chat_policy
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_rl.evaluation.arms import HEADROOM, named
from toolorch_rl.metrics.estimates import Estimate
from toolorch_rl.rollouts import RolloutError


@pytest.fixture(scope="module")
def held_out() -> list[RoutingTask]:
    return redrawn_tasks(160, "held out", unseen=True)


def seen(tasks: list[RoutingTask]) -> tuple[set[str], set[float]]:
    """Return names and prices of all specialists of some tasks."""
    specialists = [one for task in tasks for one in task.team.specialists]
    return {one.name for one in specialists}, {one.price.input for one in specialists}


def test_the_test_shows_names_and_prices_that_training_does_not(held_out: list[RoutingTask]):
    called, shown = seen(redrawn_tasks(160, "capture 0"))
    new_names, new_prices = seen(held_out)
    assert not called & new_names
    assert not shown & new_prices
    assert called <= set(names(False))
    assert new_names <= set(names(True))
    assert shown <= set(prices(0.1, 20, False))
    assert new_prices <= set(prices(0.1, 20, True))


def test_the_same_seed_draws_the_same_teams():
    one, other = (redrawn_tasks(20, "a") for _ in range(2))
    assert [task.team.specialists for task in one] == [task.team.specialists for task in other]
    assert seen(redrawn_tasks(20, "b")) != seen(one)


def test_somebody_in_each_team_is_good_at_each_kind():
    for number in range(50):
        made = team(random.Random(number))
        strong = [one for one in made.specialists if one.description == EVERYTHING]
        assert all(set(one.skill) == set(SKILLS) for one in strong)
        assert 1 <= len(strong) <= 2
        assert len({one.name.partition("-")[0] for one in made.specialists}) == len(made.specialists) >= 4
        assert min(one.price.input for one in strong) > max(
            one.price.input for one in made.specialists if one not in strong
        )


def test_savings_are_possible_and_the_baselines_are_of_each_tasks_own_team(held_out: list[RoutingTask]):
    arms = baselines(held_out)
    strongest, oracle = named(arms, "always-strongest"), named(arms, "oracle")
    figures = worth(oracle, strongest, held_out)
    assert figures.dollar_share.value is not None
    assert figures.dollar_share.value <= HEADROOM
    for task, run in zip(held_out, strongest.runs, strict=True):
        price = {one.name: one.price.input for one in task.team.specialists}
        (asked,) = run.calls
        assert price[asked] == max(price.values())


def test_a_run_is_measured_beside_its_own_team(held_out: list[RoutingTask]):
    arms = baselines(held_out)
    best = best_rewards(held_out)
    oracle = rewards(named(arms, "oracle"), held_out)
    assert len(best) == len(oracle) == len(held_out)
    assert oracle.mean() > rewards(named(arms, "random"), held_out).mean()
    # The oracle takes the cheapest that is right; where only quality and a little cost count, none does better.
    assert oracle.mean() > 0.97 * best.mean()


async def test_a_policy_is_shown_the_tasks_team_and_asks_one_of_it():
    tasks = redrawn_tasks(2, "shown")

    def first(request: Mapping[str, Any]) -> Reply:
        return Reply("", [(request["tools"][0]["function"]["name"], {"final": True})])

    with ScriptedPolicy(first) as server:
        app = routing_app(chat_policy(server))
        answers = [await app(task) for task in tasks]
        shown = [[tool["function"]["name"] for tool in request["tools"]] for request in server.requests]
    assert shown == [[one.name for one in task.team.specialists] for task in tasks]
    assert answers == [task.team.specialists[0].answer(task.request) for task in tasks]


def test_a_run_that_was_lost_is_made_again_and_never_counted_as_a_wrong_answer():
    tasks = redrawn_tasks(3, "lost")
    tried: set[str] = set()
    with ScriptedPolicy(
        lambda request: Reply("", [(request["tools"][0]["function"]["name"], {"final": True})])
    ) as server:
        app = routing_app(chat_policy(server))

        async def fails_once(task: RoutingTask) -> str:
            if task.id in tried:
                return await app(task)
            tried.add(task.id)
            return ""

        async def fails(task: RoutingTask) -> str:
            return "" if task is tasks[1] else await app(task)

        arm = policy_arm("policy", fails_once, tasks)
        with pytest.raises(RolloutError, match=r"policy has no run of 1 of 3 tasks; .*nothing captured"):
            policy_arm("policy", fails, tasks)
    assert len(arm.runs) == 3
    assert all(run.dollars for run in arm.runs)


def test_what_the_reader_writes_down_says_who_is_able_and_what_the_catalogue_says_of_price_and_seconds():
    task = next(task for task in redrawn_tasks(40, "read") if task.kind == "arithmetic")
    for specialist, entry in zip(task.team.specialists, task.team.catalog().view().schemas(), strict=True):
        said = verdict(task, specialist)
        assert said.count(specialist.name) == 2
        assert ("able" in said) == ("arithmetic" in specialist.skill)
        price, seconds = said.split(" ")[-3:-1]
        assert f"({price} in, " in entry["function"]["description"]
        assert f"; about {seconds.removesuffix('s')} s)" in entry["function"]["description"]


def test_verdicts_are_read_back():
    for task in redrawn_tasks(8, "back"):
        for specialist in task.team.specialists:
            ((name, fits, price, seconds),) = parts_of(verdict(task, specialist))
            assert name == specialist.name
            marked = f"{task.kind} yes" in verdict(task, specialist)
            assert fits == ("able" if marked or specialist.description == EVERYTHING else "weak")
            assert (float(price), float(seconds)) == (specialist.price.input, specialist.latency)
    said = '"calm-otter" text: able $2.5 1s "calm-otter"; least $2.5 "calm-otter", 1s "calm-otter"; "bold" broken'
    assert parts_of(said) == [("calm-otter", "able", "2.5", "1")]


def test_after_each_verdict_it_says_who_of_those_who_fit_costs_least_and_is_quickest():
    for task in redrawn_tasks(30, "short"):
        for read in range(len(task.team.specialists) + 1):
            fit = {one.name: one for one in task.team.specialists[:read] if able(task, one)}
            said = least(task, read)
            if not fit:
                assert said == "least none"
                continue
            _, cheapest, _, quickest, _ = said.split('"')
            assert fit[cheapest].price.input == min(one.price.input for one in fit.values())
            assert fit[quickest].latency == min(one.latency for one in fit.values())
            assert said.startswith(f"least ${fit[cheapest].price.input:g} ")
        assert fit, "somebody is good at everything"


def test_the_reader_chooses_by_a_word_that_it_draws_and_calls_whom_that_word_means():
    (task,) = redrawn_tasks(1, "choice")
    draw = random.Random(0)
    runs = [reply(task, draw) for _ in range(600)]
    words = Counter()
    anybody = Counter()
    fit = [one for one in task.team.specialists if able(task, one)]
    for run in runs:
        called = run["tool_calls"][0]["function"]["name"]
        word, named = run["content"].rpartition("; ")[2].split(" ")
        assert named == f'"{called}"'
        words[word] += 1
        one = next(one for one in task.team.specialists if one.name == called)
        if word == "cheapest":
            assert one in fit
            assert one.price.input == min(other.price.input for other in fit)
        elif word == "quickest":
            assert one in fit
            assert one.latency == min(other.latency for other in fit)
        else:
            anybody[called] += 1
    assert set(words) == set(CHOICES)
    assert min(words.values()) > 150
    assert min(anybody[one.name] for one in task.team.specialists) > 0.5 * words["anybody"] / len(task.team.specialists)


def test_a_reply_whose_call_is_not_of_its_choice_is_told():
    (task,) = redrawn_tasks(1, "told")
    for seed in range(12):
        run = reply(task, random.Random(seed))
        called = run["tool_calls"][0]["function"]["name"]
        said = f'{run["content"]}\n<tool_call>\n{{"name": "{called}", "arguments": {{"final": true}}}}\n</tool_call>'
        assert consistent(said)
        other = next(one.name for one in task.team.specialists if one.name != called)
        assert not consistent(said.replace(f'"name": "{called}"', f'"name": "{other}"'))
    assert not consistent("")


# --- the report ---


def a_worth(name: str, solved: float, dollars: float, seconds: float) -> Worth:
    one = Estimate(1.0, 1.0, 1.0, 1)
    return Worth(name, Estimate(solved, 0.0, 1.0, 1), dollars, one, seconds, 0.0, one)


def test_a_point_is_dominated_by_what_is_nowhere_worse_and_somewhere_better():
    point = a_worth("point", 0.9, 1.0, 1.0)
    cheaper, worse = a_worth("cheaper", 0.9, 0.5, 1.0), a_worth("worse", 0.8, 0.1, 0.1)
    assert dominated(point, [a_worth("same", 0.9, 1.0, 1.0), worse]) == []
    assert dominated(point, [worse, cheaper]) == ["cheaper"]


def test_seeds_are_summed_up_with_an_interval(tmp_path: Any):
    assert summed_up(tmp_path, 1.0) == ["there are no results"]
    for seed, value in enumerate((0.8, 0.9, 1.0)):
        worth = {key: {"value": value} for key in ("solved", "dollar_share", "reward_share")} | {"seconds": value}
        figures = dict.fromkeys(SETTINGS, worth)
        (tmp_path / f"seed-{seed}").mkdir()
        result = {
            "arms": dict.fromkeys(("base", "replay", "learnt"), figures),
            "baselines": {setting: {"oracle": worth, "random": worth} for setting in SETTINGS},
            "curve": [{"seconds": 60.0, "solved": value, "dollars": 0.1}],
        }
        (tmp_path / f"seed-{seed}" / "result.json").write_text(json.dumps(result))
    lines = summed_up(tmp_path, 1.0)
    # Student's t for two degrees of freedom: 4.303 standard errors of 0.1 / sqrt(3).
    assert lines[1] == "  base, solved: 0.900 [0.652, 1.148] (0.800, 0.900, 1.000)"
    assert (tmp_path / "curve.png").exists()
    assert (tmp_path / "settings.png").exists()
