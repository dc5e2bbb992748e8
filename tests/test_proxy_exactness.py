"""Capture on the wire is exact: with real servers, the proxy stores the ids that the app's own capture stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from tests import tiny_policy as tiny
from tests.test_proxy import proxied
from toolorch_integrations.capture import capture
from toolorch_integrations.langgraph import ChatPolicy
from toolorch_integrations.store import TraceStore


@pytest.fixture(params=["embedded", pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.slow])])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(f"{request.param}_server")


@pytest.mark.parametrize("stream", [False, True])
def test_the_proxy_and_the_apps_own_capture_store_the_same(server: Any, tmp_path: Path, stream: bool) -> None:
    TraceStore(tmp_path / "own.db").prepare()
    lesson = next(lesson for lesson in tiny.LESSONS if lesson.tools)
    with proxied(server.url, tmp_path) as served:
        policy = ChatPolicy(model=server.name, base_url=served.url, temperature=0, max_tokens=60, streaming=stream)
        with capture(tmp_path / "own.db") as session:
            policy.bind_tools(lesson.tools).invoke(lesson.messages)
            session.flush()
        trace = served.trace()
    (own,) = TraceStore(tmp_path / "own.db").full_traces()
    (ours,), (theirs,) = own.paths(), trace.paths()
    assert trace.exact
    assert theirs.token_ids.tolist() == ours.token_ids.tolist()
    assert np.array_equal(theirs.logprobs, ours.logprobs, equal_nan=True)
    assert theirs.sampled.tolist() == ours.sampled.tolist()
    assert [node.tool_call_ids for node in theirs.nodes] == [node.tool_call_ids for node in ours.nodes]
    assert theirs.messages[-1].get("reasoning") == ours.messages[-1].get("reasoning")


@pytest.mark.parametrize("stream", [False, True])
def test_an_app_that_asks_for_nothing_is_captured_exactly(server: Any, tmp_path: Path, stream: bool) -> None:
    lesson = next(lesson for lesson in tiny.LESSONS if lesson.tools)
    with proxied(server.url, tmp_path) as served:
        client = openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)
        options: dict[str, Any] = {"model": server.name, "temperature": 0, "max_tokens": 60, "tools": lesson.tools}
        messages: list[Any] = lesson.messages
        if stream:
            with client.chat.completions.stream(messages=messages, **options) as events:
                message: Any = events.get_final_completion().choices[0].message
        else:
            message = client.chat.completions.create(messages=messages, **options).choices[0].message
        trace = served.trace()
    (path,) = trace.paths()
    assert trace.exact
    node = path.nodes[-1]
    assert node.turn is not None
    assert len(node.token_ids) == trace.totals.output_tokens > 0
    assert node.logprobs is not None
    assert len(node.logprobs) == len(node.token_ids)
    assert [call.id for call in message.tool_calls or ()] == node.tool_call_ids
    for call in message.tool_calls or ():
        assert node.arguments(call.id) == json.loads(call.function.arguments)


@pytest.mark.vllm
@pytest.mark.slow
def test_several_choices_are_read_from_a_real_stream(vllm_server: Any, tmp_path: Path) -> None:
    server = vllm_server  # the embedded engine gives one
    with proxied(server.url, tmp_path) as served:
        client = openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)
        asked = client.chat.completions.create(
            model=server.name,
            messages=[{"role": "user", "content": "hello"}],
            n=2,
            max_tokens=8,
            temperature=1,
            stream=True,
        )
        texts = {0: "", 1: ""}
        for chunk in asked:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        trace = served.trace()
    leaves = [path.nodes[-1] for path in trace.paths()]
    assert [str(leaf.message.get("content") or "") for leaf in leaves] == [texts[0], texts[1]]
    assert trace.exact
