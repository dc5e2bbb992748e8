"""The recipe of a small policy: exact rendering, a loss that shares prompts for nothing, training that resumes."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from examples.routing import redrawn_policy
from examples.shop.synthesis import default_world, run, world, worlds
from toolorch_rl.recipe.drills import copying_drill
from toolorch_rl.recipe.greedy import parse, reply_to
from toolorch_rl.recipe.model import small_model
from toolorch_rl.recipe.rows import Group, Row, load_groups, render, save_groups
from toolorch_rl.recipe.sft import Schedule, batch_of, loss_of, train
from toolorch_rl.recipe.tokenizer import train_tokenizer
from toolorch_rl.training import TrainingError

CALL = '<tool_call>\n{"name": "run_python", "arguments": {"code": "print(1)"}}\n</tool_call>'


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    texts = [
        "\n".join(str(message["content"]) for message in item.messages)
        for _, runs in worlds(7_000, 6, 8)
        for item in runs
    ]
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([*texts, *[CALL] * 20, "user assistant system tool\n" * 20], vocabulary=2600).save_pretrained(
        folder
    )
    loaded: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    return loaded


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    return small_model(tokenizer, hidden=64, layers=2)


def rendered(tokenizer: PreTrainedTokenizerFast, messages: Any, tools: Any = None, ask: bool = False) -> str:
    text = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=ask, tokenize=False)
    assert isinstance(text, str)
    return text


def test_numbers_and_marks_are_single_tokens_and_bytes_survive(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in ("0", "7", "42", "189", "999", "<tool_call>", "</tool_call>", "<|im_end|>"):
        assert len(tokenizer.encode(text)) == 1, text
    text = 'Grüße 🎉 {"a": "b\\n"}\n\n  x = [1, 2345]  '
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(CALL), skip_special_tokens=True) == CALL


def test_copied_names_have_the_same_tokens_in_request_and_query(tokenizer: PreTrainedTokenizerFast) -> None:
    asked = tokenizer.encode("What is the price of the Alder tent?")
    query = tokenizer.encode('{"query": "price of the Alder tent"}')
    name = tokenizer.encode(" of the Alder tent")
    for ids in (asked, query):
        assert any(ids[index : index + len(name)] == name for index in range(len(ids)))


def test_each_prompt_extends_the_ids_before_it(tokenizer: PreTrainedTokenizerFast) -> None:
    places = [default_world(), *(world(seed) for seed in range(6))]
    steps = 0
    for number, place in enumerate(places):
        for seed in range(6):
            item = run(place, 100 * number + seed)
            held: list[int] = []
            for index, (message, written) in enumerate(zip(item.messages, item.written, strict=True)):
                if not written:
                    continue
                prompt: Any = tokenizer.apply_chat_template(
                    item.messages[:index], tools=place.schemas(), add_generation_prompt=True, return_dict=False
                )
                assert prompt[: len(held)] == held
                held = prompt + tokenizer.encode(completion(message) + "<|im_end|>")
                steps += 1
    assert steps > 60


def completion(message: dict[str, Any]) -> str:
    """Return what the policy writes for a message, as a server's tool parser would take it apart."""
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    calls = [
        f'<tool_call>\n{{"name": "{function["name"]}", "arguments": {function["arguments"]}}}\n</tool_call>'
        for function in functions
    ]
    return "\n".join(part for part in (message["content"], *calls) if part)


def test_rows_mark_exactly_what_the_policy_wrote(tokenizer: PreTrainedTokenizerFast) -> None:
    for seed in range(20):
        place = world(seed)
        item = run(place, seed)
        prefix, row = render(tokenizer, item.messages, item.written, place.schemas())
        said = "".join(
            completion(message) + "<|im_end|>"
            for message, written in zip(item.messages, item.written, strict=True)
            if written
        )
        assert tokenizer.decode(row.ids[row.wrote]) == said
        whole = rendered(tokenizer, item.messages, place.schemas())
        assert tokenizer.decode(np.concatenate([prefix, row.ids])) == whole


def test_template_is_the_same_for_all_ways_to_write_a_call(tokenizer: PreTrainedTokenizerFast) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "run_python", "arguments": '{"code": "print(1)"}'}}
    as_object = copy.deepcopy(call)
    as_object["function"]["arguments"] = json.loads(call["function"]["arguments"])  # type: ignore[index]
    user = {"role": "user", "content": "x"}
    texts = {
        rendered(tokenizer, [user, {"role": "assistant", "tool_calls": [made], **content}])
        for made in (call, as_object)
        for content in ({}, {"content": None}, {"content": ""}, {"content": "\n"})
    }
    assert texts == {f"<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n{CALL}<|im_end|>\n"}
    spoken = {"role": "assistant", "content": "Add up.\n", "tool_calls": [call, call]}
    assert rendered(tokenizer, [user, spoken]).endswith(f"assistant\nAdd up.\n{CALL}\n{CALL}<|im_end|>\n")


def test_template_shows_what_a_tool_does_before_its_name(tokenizer: PreTrainedTokenizerFast) -> None:
    [search, *_] = default_world().schemas()
    line = "# Tools\nSearch the shop's documents.\nsearch_docs(query)"
    user = {"role": "user", "content": "x"}
    tail = "<|im_end|>\n<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    assert rendered(tokenizer, [user], [search], ask=True) == f"<|im_start|>system\n{line}{tail}"
    system = {"role": "system", "content": "Be brief."}
    assert rendered(tokenizer, [system, user], [search], ask=True) == f"<|im_start|>system\nBe brief.\n\n{line}{tail}"
    assert rendered(tokenizer, [user], ask=True) == tail.removeprefix("<|im_end|>\n")


def test_template_shows_long_descriptions_of_arguments(tokenizer: PreTrainedTokenizerFast) -> None:
    models = "The model used to answer. Choices: " + ", ".join(f"answer-{number}" for number in range(12))
    properties = {"model": {"type": "string", "description": models}, "note": {"description": "Short."}}
    schema = {"type": "function", "function": {"name": "answer", "parameters": {"properties": properties}}}
    assert f"# Tools\nanswer(model, note)\nmodel: {models}<|im_end|>" in rendered(
        tokenizer, [{"role": "user", "content": "x"}], [schema]
    )


def test_replies_are_parsed_as_a_hermes_parser_does() -> None:
    message = parse(f"Add up.\n{CALL}\n{CALL}")
    assert message["content"] == "Add up.\n"
    assert [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]] == [{"code": "print(1)"}] * 2
    assert len({call["id"] for call in message["tool_calls"]}) == 2
    assert parse('<tool_call>\n{"name": }\n</tool_call>') == {
        "role": "assistant",
        "content": '<tool_call>\n{"name": }\n</tool_call>',
    }


def some_group(seed: int = 0) -> Group:
    draw = np.random.default_rng(seed)
    rows = tuple(
        Row(draw.integers(256, 1200, size).astype(np.uint16), draw.random(size) < 0.4) for size in (9, 14, 30, 31)
    )
    return Group(draw.integers(256, 1200, 12).astype(np.uint16), rows)


def test_sharing_a_prompt_changes_neither_loss_nor_gradient(model: Qwen3ForCausalLM) -> None:
    group = some_group()
    shared = loss_of(model, group.prefix, group.rows)
    [gradient] = torch.autograd.grad(shared, [model.model.layers[0].self_attn.k_proj.weight])
    total, count = torch.zeros(()), 0
    for row in group.rows:
        ids = torch.from_numpy(np.concatenate([group.prefix, row.ids]).astype(np.int64))[None]
        logits = model(input_ids=ids).logits[0, len(group.prefix) : -1]
        wanted = torch.from_numpy(row.wrote[1:])
        targets = ids[0, len(group.prefix) + 1 :][wanted]
        total = total + torch.nn.functional.cross_entropy(logits[wanted], targets, reduction="sum")
        count += int(wanted.sum())
    [expected] = torch.autograd.grad(total / count, [model.model.layers[0].self_attn.k_proj.weight])
    assert shared.item() == pytest.approx((total / count).item(), rel=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)


def test_groups_survive_the_disk(tmp_path: Path) -> None:
    groups = [some_group(0), some_group(1)]
    save_groups(tmp_path / "runs.npz", groups)
    for group, loaded in zip(groups, load_groups(tmp_path / "runs.npz"), strict=True):
        assert (group.prefix == loaded.prefix).all()
        for row, again in zip(group.rows, loaded.rows, strict=True):
            assert (row.ids == again.ids).all()
            assert (row.wrote == again.wrote).all()
            assert again.ids.dtype == np.uint16


def test_interrupted_training_ends_where_an_uninterrupted_one_does(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    schedule = Schedule(steps=6, batch=2, drill_steps=1, short_steps=1, warmup=2, every=2, bf16=False)
    groups, drills = [some_group(seed) for seed in range(3)], [copying_drill(tokenizer, 4, 0)]
    whole = small_model(tokenizer, hidden=64, layers=2)
    train(whole, tokenizer, groups, drills, tmp_path / "whole", schedule)

    class Killed(BaseException):
        """Stands for the end of the process."""

    def kill(line: str) -> None:
        if line.startswith("step 4/"):
            raise Killed  # after step 4, before its checkpoint: the one of step 2 is what counts

    with pytest.raises(Killed):
        train(small_model(tokenizer, hidden=64, layers=2), tokenizer, groups, drills, tmp_path / "cut", schedule, kill)
    lines: list[str] = []
    resumed = small_model(tokenizer, hidden=64, layers=2, seed=1)
    train(resumed, tokenizer, groups, drills, tmp_path / "cut", schedule, lines.append)
    assert lines[0] == "resumed at step 2"
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_training_goes_on_only_with_what_its_checkpoint_was_made_of(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    schedule = Schedule(steps=1, batch=2, drill_steps=1, short_steps=1, warmup=2, every=1, bf16=False)
    groups, drills = [some_group(0)], [copying_drill(tokenizer, 4, 0)]
    model = small_model(tokenizer, hidden=64, layers=2)
    train(model, tokenizer, groups, drills, tmp_path, schedule)
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    other.add_tokens(["another"])
    wider = small_model(tokenizer, hidden=128, layers=2)
    for changed, match in (
        ((wider, tokenizer, groups, drills, tmp_path, schedule), "model differ"),
        ((model, other, groups, drills, tmp_path, schedule), "tokenizer differ"),
        ((model, tokenizer, [some_group(1)], drills, tmp_path, schedule), "runs differ"),
        ((model, tokenizer, groups, drills * 2, tmp_path, schedule), "drills differ"),
        ((model, tokenizer, groups, drills, tmp_path, replace(schedule, seed=1)), "schedule differ"),
        ((model, tokenizer, groups, drills, tmp_path, replace(schedule, steps=0)), "fewer than 1"),
    ):
        with pytest.raises(TrainingError, match=match):
            train(*changed)
    lines: list[str] = []
    train(model, tokenizer, groups, drills, tmp_path, replace(schedule, steps=2, every=5), lines.append)
    assert lines[0] == "resumed at step 1"
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del state["made_of"]
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(TrainingError, match="does not say what it was trained with"):
        train(model, tokenizer, groups, drills, tmp_path, schedule)


def test_runs_that_were_drawn_for_other_settings_are_not_taken(tmp_path: Path) -> None:
    work = tmp_path / "reader.work"
    work.mkdir()
    save_groups(work / "runs.npz", [some_group()])
    with pytest.raises(TrainingError, match="other teams, requests or another seed"):
        redrawn_policy.make(tmp_path / "reader", seed=1)


def test_batches_begin_with_drills_and_short_runs(tokenizer: PreTrainedTokenizerFast) -> None:
    schedule = Schedule(batch=2, drill_steps=3, short_steps=6, short_tokens=20)
    drill, group = copying_drill(tokenizer, 4, 0), some_group()
    assert [len(batch_of([group], [drill], schedule, step)[1]) for step in range(3)] == [4, 4, 4]
    for step in range(3, 9):
        assert max(len(row.ids) for row in batch_of([group], [drill], schedule, step)[1]) <= 20
    sizes = {len(row.ids) for step in range(11, 60) for row in batch_of([group], [drill], schedule, step)[1]}
    assert {30, 31} <= sizes


def test_drills_can_be_solved_by_copying_only(tokenizer: PreTrainedTokenizerFast) -> None:
    for row in copying_drill(tokenizer, 8, 3).rows:
        ids = row.ids.tolist()
        half = len(ids) // 2
        assert sorted(ids[:half]) == sorted(ids[half:])
        for index in np.flatnonzero(row.wrote):
            assert (ids[index - 1], ids[index]) in set(pairwise(ids[:half]))


@pytest.mark.slow
def test_a_model_learns_to_copy_in_a_minute(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = small_model(tokenizer, hidden=192, layers=4)
    drills = [copying_drill(tokenizer, 24, seed, segments=4) for seed in range(150)]
    schedule = Schedule(steps=150, drill_steps=150, every=150)
    train(model, tokenizer, drills, drills, tmp_path, schedule)
    unseen = copying_drill(tokenizer, 24, 10_000, segments=4)
    with torch.inference_mode():
        assert loss_of(model, unseen.prefix, unseen.rows).item() < 1.0  # 7.8 by chance


def test_greedy_replies_do_not_depend_on_the_batch(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    asked: list[Any] = [([{"role": "user", "content": text}], []) for text in ("Hi", "What is 3 * 4 + 17?", "Bye now")]
    together = reply_to(model, tokenizer, asked, most=6)
    alone = [reply_to(model, tokenizer, [one], most=6)[0] for one in asked]
    assert [item.ids for item in together] == [item.ids for item in alone]
    assert [item.prompt_ids for item in together] == [item.prompt_ids for item in alone]
    assert 0 < len(together[0].ids) <= 6
