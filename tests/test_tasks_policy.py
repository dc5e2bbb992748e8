"""The policy for synthesised tasks: its recipe's data, and the committed weights at work on held-out tasks."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from examples.tasks import train_policy
from examples.tasks.choices import choices, menu
from examples.tasks.corpus import Corpus, Shared, split, test_tasks, training_tasks
from examples.tasks.evaluate_policy import HERE, Attempt, attempt, chosen, held_out_choices, load, measured
from toolorch_integrations.select import ANSWER, REASON, SEARCH
from toolorch_rl.recipe.drills import lookup_drill
from toolorch_rl.recipe.rows import load_groups, render, render_group
from toolorch_rl.recipe.tokenizer import DENSE_SPLIT, HEXADECIMALS, train_tokenizer
from toolorch_rl.tasks import Task

test_tasks.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pool() -> list[Task]:
    return list(training_tasks(240))


@pytest.fixture(scope="module")
def shared(pool: list[Task]) -> Shared:
    return Corpus(pool).group(3, 8)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    loaded = AutoTokenizer.from_pretrained(HERE / "policy")
    assert isinstance(loaded, PreTrainedTokenizerFast)
    return loaded


def test_training_leaves_out_what_the_split_holds_out(pool: list[Task]) -> None:
    division, seeds = split()
    assert seeds["train"] != seeds["test"]
    assert {division.part(task) for task in pool} == {"train"}
    held = test_tasks(10)
    assert {division.part(task) for task in held} == {"test"}
    assert not {task.request for task in held} & {task.request for task in pool}


def test_each_pool_has_tasks_of_its_own_and_leaves_out_what_the_split_holds_out(pool: list[Task]) -> None:
    division, _ = split()
    others = list(training_tasks(240, pool=1))
    assert {division.part(task) for task in others} == {"train"}
    assert not {task.id for task in others} & {task.id for task in pool}
    assert not {task.request for task in others} & {task.request for task in pool}


def test_training_begins_with_a_policy_and_runs_of_several_pools(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = "--begin {} --pools 2 --first-pool 1 --tasks 120 --groups 4 --batch 2 --steps 1 --work {} --out {}"
    folders = (HERE / "policy", tmp_path / "work", tmp_path / "out")
    monkeypatch.setattr("sys.argv", ["train_policy", *given.format(*folders).split()])
    train_policy.main()
    before, after = (load(folder)[0].state_dict() for folder in (HERE / "policy", tmp_path / "out"))
    moved = max(float((before[name] - after[name]).abs().max()) for name in before)
    assert 0 < moved < 0.1  # one step at a fiftieth of the rates
    (drawn,) = (tmp_path / "work").glob("runs-*.npz")
    assert len(load_groups(drawn)) == 4


def test_the_held_out_tasks_are_the_same_every_time() -> None:
    assert [task.to_json() for task in test_tasks(5)] == [task.to_json() for task in test_tasks(5)]


def test_runs_of_a_view_call_only_what_it_shows(shared: Shared) -> None:
    names = {tool["function"]["name"] for tool in shared.tools}
    assert len(shared.runs) == 8
    for messages, written in shared.runs:
        assert messages[0]["role"] == "user"
        assert written == [item["role"] == "assistant" for item in messages]
        called = [call["function"]["name"] for item in messages for call in item.get("tool_calls") or ()]
        assert set(called) <= names
        answers = [item["tool_call_id"] for item in messages if item["role"] == "tool"]
        assert answers == [] or len(set(answers)) == len(called)


def test_groups_are_the_same_for_the_same_seed(pool: list[Task], shared: Shared) -> None:
    again = Corpus(pool).group(3, 8)
    assert (again.system, again.tools, again.runs) == (shared.system, shared.tools, shared.runs)


def test_a_group_is_rendered_as_its_runs_one_by_one(tokenizer: PreTrainedTokenizerFast, shared: Shared) -> None:
    group = render_group(tokenizer, shared.system, shared.tools, shared.runs)
    for row, (messages, written) in zip(group.rows, shared.runs, strict=True):
        system = {"role": "system", "content": shared.system}
        prefix, alone = render(tokenizer, [system, *messages], [False, *written], shared.tools)
        assert np.array_equal(prefix, group.prefix)
        assert np.array_equal(alone.ids, row.ids)
        assert np.array_equal(alone.wrote, row.wrote)


def test_ids_names_and_keys_take_the_same_few_tokens_wherever_they_stand(tokenizer: PreTrainedTokenizerFast) -> None:
    for key, most in (("b57426db", 3), ("46136", 2), ("TAS-1160", 4)):
        alone = tokenizer.encode(key)
        assert len(alone) <= most, tokenizer.tokenize(key)
        for text in ('{{"id": "{}", "name": "Ada Weber"}}', "Set the status of task {} to done.", "it ({})."):
            ids = tokenizer.encode(text.format(key))
            assert any(ids[place : place + len(alone)] == alone for place in range(len(ids))), text
    assert tokenizer.decode(tokenizer.encode('{"id": "b57426db"} décor 日本 \n')) == '{"id": "b57426db"} décor 日本 \n'


def test_a_dense_tokenizer_is_trained_from_its_split(tmp_path: Path) -> None:
    made = train_tokenizer(["the order b57426db of Ada Weber\n"] * 50, 4800, split=DENSE_SPLIT, whole=HEXADECIMALS)
    assert len(made.encode("0a1b2c3d")) == 3


def test_look_ups_are_asked_for_what_stands_above(tokenizer: PreTrainedTokenizerFast) -> None:
    group = lookup_drill(tokenizer, 4, seed=1)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for row in group.rows:
        first = int(np.argmax(row.wrote))
        told = row.ids[:first].tolist()
        said = [int(token) for token in row.ids[row.wrote] if token != end]
        assert said
        assert set(said) <= set(told)


def test_the_expert_takes_an_able_model_by_the_preferences() -> None:
    seen = set()
    for seed in range(60):
        draw = random.Random(seed)
        offered = menu(draw)
        steps = list(choices(draw, offered))
        assert steps[-1].function == ANSWER
        assert {step.function for step in steps[:-1]} <= {REASON, SEARCH}
        for step in steps:
            seen.add(step.function)
            models = offered.models[step.function]
            field = step.reply["content"].partition(":")[0].partition(";")[0]
            able = [item for item in models.values() if field in item.description]
            taken = models[step.model]
            assert taken in able
            if "cheap:" in step.reply["content"]:
                assert taken.price.input == min(item.price.input for item in able)
            if "fast:" in step.reply["content"]:
                assert taken.latency == min(item.latency or 0 for item in able)
    assert seen == {ANSWER, REASON, SEARCH}


def test_an_attempt_answers_faults_in_the_orchestrators_words() -> None:
    task = next(task for task in test_tasks(20) if task.approval is False or task.approval is None)
    item = Attempt(task)

    def call(name: str, arguments: str) -> str:
        item.take(
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}
        )
        return str(item.messages[-1]["content"])

    alias = item.schemas[0]["function"]["name"]
    assert call("nothing", "{}").startswith("Error: there is no tool 'nothing'")
    assert call(alias, "[]").startswith(f"Error: the call of {alias} is not valid")
    assert call(alias, json.dumps({"no_such_argument": 1})).startswith((f"Error: {alias} failed", "The user refused"))
    item.take({"role": "assistant", "content": "I cannot."})
    assert item.answer == "I cannot."
    assert not item.verdict().passed


def test_the_committed_policy_solves_held_out_tasks() -> None:
    model, tokenizer = load(HERE / "policy")
    short = [task for task in test_tasks(40) if task.pattern in ("single", "sequential")][:8]
    attempts = attempt(model, tokenizer, short)
    verdicts = [item.verdict() for item in attempts]
    metrics = measured(attempts, verdicts)
    assert metrics["solved"].value == sum(verdict.passed for verdict in verdicts) / len(short)
    assert sum(verdict.passed for verdict in verdicts) >= 5  # 7 when it was committed; `evaluate_policy` takes all


def test_the_committed_policy_chooses_functions_and_models() -> None:
    model, tokenizer = load(HERE / "policy")
    hits = chosen(model, tokenizer, held_out_choices(12))
    assert sum(hits["function"]) >= 11  # of 12
    assert sum(hits["both"]) >= 4  # 6 when it was committed


def test_the_committed_policy_is_small() -> None:
    assert sum(file.stat().st_size for file in (HERE / "policy").iterdir()) < 10e6
