"""Prompt ids that are read from where the prompt before ended: the same as if the whole body had been."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from toolorch_integrations.prompt_ids import PromptIds
from toolorch_integrations.wire_answer import read_answer

LONG = list(range(1_000, 3_000))


def body(ids: Any, *, inside: bool = False, text: str = "hello", stream: bool = False) -> bytes:
    """An answer whose prompt had these ids; inside: the choice has them, as text completions do."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "token_ids": [7, 8]}
    choice["delta" if stream else "message"] = {"role": "assistant", "content": text}
    data: dict[str, Any] = {"id": "x", "model": "policy", "choices": [choice]}
    (choice if inside else data)["prompt_token_ids"] = ids
    found = json.dumps(data, separators=(",", ":")).encode()
    return b"data: " + found + b"\n\ndata: [DONE]\n\n" if stream else found


def same(name: str, data: bytes, *, stream: bool = False) -> None:
    """Check that a conversation's answer is read as one of which nothing is known."""
    quick, slow = read_answer(data, stream=stream, conversation=name), read_answer(data, stream=stream)
    assert quick.choices.keys() == slow.choices.keys()
    for index, choice in slow.choices.items():
        np.testing.assert_array_equal(quick.choices[index].prompt_token_ids, choice.prompt_token_ids)
        assert quick.choices[index].message == choice.message
    assert (quick.error, quick.whole) == (slow.error, slow.whole)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_prompts_that_grow_shrink_and_change(stream: bool, inside: bool):
    name = f"conversation {stream} {inside}"
    for ids in (LONG, [*LONG, 5, 6], [*LONG, 5, 6], [*LONG, 56], LONG, LONG[::-1], [*LONG[:-1], 29991], [1, 2], []):
        same(name, body(ids, inside=inside, stream=stream), stream=stream)


def test_an_id_that_goes_on_where_the_prompt_before_ended_is_no_growth():
    ids = PromptIds()
    ids.cut("c", body([*LONG, 12]))
    _, found = ids.cut("c", body([*LONG, 123, 4]))
    assert found is not None
    assert found.tolist() == [*LONG, 123, 4]


def test_a_text_that_speaks_of_ids_is_no_list_of_them():
    text = f'"prompt_token_ids":{LONG}'.replace(" ", "")
    for ids in (LONG, None):
        same("text", body(ids, text=text))


@pytest.mark.parametrize("ids", [[*LONG, -1], [*LONG, 2**32], [*LONG, 1.5], [*LONG, "a"], [LONG], None, [-1]])
def test_what_is_no_id_is_left_to_the_reader(ids: Any):
    data = body(ids)
    assert PromptIds().cut("c", data) == (data, None)
    same("odd", data)


def test_a_body_that_breaks_off_in_the_ids():
    data = body(LONG)
    cut = data[: data.index(b"2000")]
    assert PromptIds().cut("c", cut) == (cut, None)


def test_each_choice_with_a_prompt_of_its_own():
    choices = [
        {"index": index, "text": "t", "finish_reason": "stop", "prompt_token_ids": [*LONG, index]} for index in (0, 1)
    ]
    data = json.dumps({"id": "x", "choices": choices}, separators=(",", ":")).encode()
    same("several", data)
    same("several", data)


def test_memory_is_bounded_and_the_newest_stay():
    ids = PromptIds(max_bytes=50_000)
    for number in range(20):
        ids.cut(f"{number}", body(LONG))
        assert ids._bytes == sum(len(text) + 4 * len(known) for text, known in ids._known.values()) <= 50_000
    assert list(ids._known) == ["18", "19"], "18,000 bytes each"


def test_ids_are_not_to_be_written_to():
    _, found = PromptIds().cut("c", body(LONG))
    assert found is not None
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
