from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.tools import tool
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import BaseModel

from tests.doubles import chat_policy, unused_port
from toolorch_integrations import EndpointError, Price
from toolorch_integrations.langgraph import ChatPolicy
from toolorch_integrations.langgraph.chat_model import EXACT_KEYS, without_exact_data
from toolorch_integrations.testing import Reply, ScriptedPolicy, encode, render

CALLS = [("add", {"a": 1, "b": 2}), ("search", {"query": "Zürich 🎉"})]
THINKING = Reply("On it.", calls=CALLS, reasoning="First add, then search.")

Ask = Callable[..., AIMessage]


@tool
def add(a: int, b: int) -> int:
    """Add numbers."""
    return a + b


@tool
def search(query: str) -> str:
    """Search documents."""
    return query


def _joined(chunks: list[Any]) -> AIMessage:
    whole: AIMessageChunk = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


RUNNER = asyncio.Runner()  # one loop for all: the OpenAI client's connections belong to the loop that made them


@pytest.fixture(scope="module", autouse=True)
def _close_loop() -> Iterator[None]:
    yield
    RUNNER.close()


async def _astream(model: Any, prompt: Any) -> AIMessage:
    return _joined([chunk async for chunk in model.astream(prompt)])


WAYS: dict[str, Ask] = {
    "invoke": lambda model, prompt: model.invoke(prompt),
    "ainvoke": lambda model, prompt: RUNNER.run(model.ainvoke(prompt)),
    "stream": lambda model, prompt: _joined(list(model.stream(prompt))),
    "astream": lambda model, prompt: RUNNER.run(_astream(model, prompt)),
    "invoke that streams": lambda model, prompt: (
        model.model_copy(update={"streaming": True}).invoke(prompt)
        if isinstance(model, ChatPolicy)
        else model.bind().invoke(prompt)
    ),
}


@pytest.fixture(params=list(WAYS))
def ask(request: pytest.FixtureRequest) -> Ask:
    return WAYS[request.param]


def test_ids_and_logprobs_are_the_servers_own(ask: Ask):
    prompt = [SystemMessage("Be brief."), HumanMessage("What is 2 + 2?")]
    with ScriptedPolicy(["Four, I think."]) as server:
        reply = ask(chat_policy(server), prompt)
        exact = server.completion(server.requests[0], Reply("Four, I think."))
    metadata = reply.response_metadata
    assert reply.text == "Four, I think."
    assert metadata["prompt_token_ids"] == encode(render(server.requests[0]["messages"]))
    assert metadata["token_ids"] == encode("Four, I think.<|end|>")
    assert metadata["logprobs"]["content"] == exact["choices"][0]["logprobs"]["content"]
    assert len(metadata["logprobs"]["content"]) == len(metadata["token_ids"])
    assert metadata["id"] == "chatcmpl-0000000000000001"
    assert metadata["logprobs_mode"] == "processed_logprobs"
    assert metadata["finish_reason"] == "stop"
    assert metadata["model_name"] == "scripted"
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["input_tokens"] == len(metadata["prompt_token_ids"])
    assert reply.usage_metadata["output_tokens"] == len(metadata["token_ids"])


def test_calls_and_reasoning_survive(ask: Ask):
    with ScriptedPolicy([THINKING]) as server:
        reply = ask(chat_policy(server).bind_tools([add, search]), "Add 1 and 2, and search.")
    assert [(call["name"], call["args"]) for call in reply.tool_calls] == CALLS
    assert len({call["id"] for call in reply.tool_calls}) == 2
    assert reply.additional_kwargs["reasoning_content"] == "First add, then search."
    assert reply.text == "On it."
    assert reply.response_metadata["finish_reason"] == "tool_calls"


def test_every_way_gives_the_same_message():
    def facts(reply: AIMessage) -> dict[str, Any]:
        metadata = reply.response_metadata
        return {
            "text": reply.text,
            "calls": [(call["id"][-8:], call["name"], call["args"]) for call in reply.tool_calls],
            "invalid": reply.invalid_tool_calls,
            "reasoning": reply.additional_kwargs.get("reasoning_content"),
            "usage": reply.usage_metadata and {k: v for k, v in reply.usage_metadata.items() if isinstance(v, int)},
            "logprobs": (metadata.get("logprobs") or {}).get("content"),
            **{
                key: metadata.get(key)
                for key in ("prompt_token_ids", "token_ids", "logprobs_mode", "finish_reason", "dollars")
            },
            "model": metadata["model_name"],
            "has_id": bool(metadata.get("id")),
        }

    for exact in (True, False):
        with ScriptedPolicy([THINKING], exact=exact) as server:
            model = chat_policy(server, price=Price(input=1, output=2), exact=exact)
            replies = [facts(way(model, "Go.")) for way in WAYS.values()]
        for reply in replies[1:]:
            assert reply == replies[0]
        assert (replies[0]["token_ids"] is not None) == exact
        assert (replies[0]["logprobs_mode"] is not None) == exact
        assert replies[0]["has_id"]
        assert replies[0]["dollars"] > 0


def test_exact_data_is_asked_for_in_every_request(ask: Ask):
    with ScriptedPolicy(["Four."]) as server:
        ask(chat_policy(server), "2 + 2?")
    assert server.requests[0]["return_token_ids"] is True
    assert server.requests[0]["logprobs"] is True


def test_a_plain_endpoint_is_asked_nothing_special(ask: Ask):
    with ScriptedPolicy([THINKING], exact=False) as server:
        reply = ask(chat_policy(server, exact=False), "Go.")
    assert {"return_token_ids", "logprobs"}.isdisjoint(server.requests[0])
    assert reply.text == "On it."
    assert len(reply.tool_calls) == 2
    assert reply.usage_metadata is not None
    assert "token_ids" not in reply.response_metadata


def test_an_endpoint_that_ignores_the_wish_still_answers(ask: Ask):
    with ScriptedPolicy(["Four."], exact=False) as server:
        reply = ask(chat_policy(server), "2 + 2?")
    assert reply.text == "Four."
    assert "token_ids" not in reply.response_metadata


def test_reasoning_goes_back_to_the_server(ask: Ask):
    with ScriptedPolicy([THINKING, "Done."]) as server:
        model = chat_policy(server)
        first = ask(model, "Go.")
        results = [ToolMessage("ok", tool_call_id=call["id"]) for call in first.tool_calls]
        second = ask(model, [HumanMessage("Go."), first, *results])
    sent = server.requests[1]["messages"][1]
    assert sent["reasoning"] == sent["reasoning_content"] == "First add, then search."
    assert [call["function"]["name"] for call in sent["tool_calls"]] == ["add", "search"]
    ids = second.response_metadata["prompt_token_ids"]
    before = first.response_metadata["prompt_token_ids"] + first.response_metadata["token_ids"]
    assert ids[: len(before)] == before  # the second prompt extends the first one's ids exactly


def test_the_newline_that_vllm_leaves_before_a_call_is_not_sent_twice():
    call = {"name": "add", "args": {"a": 1, "b": 2}, "id": "c1"}
    with ScriptedPolicy(["Done."]) as server:
        model = chat_policy(server)
        for text in ("On it.\n", "\n", "On it.\n\n"):
            model.invoke([HumanMessage("Go."), AIMessage(text, tool_calls=[call]), ToolMessage("3", tool_call_id="c1")])
        model.invoke([HumanMessage("Go."), AIMessage("No call.\n"), HumanMessage("And?")])
    assert [request["messages"][1]["content"] for request in server.requests] == [
        "On it.",
        None,
        "On it.\n",
        "No call.\n",
    ]


def test_arguments_that_are_no_json_are_kept_as_they_came():
    broken = Reply(calls=[("add", '{"a": 1, "b": }'), ("add", {"a": 1, "b": 2})])
    with ScriptedPolicy([broken]) as server:
        for way in WAYS.values():
            reply = way(chat_policy(server), "Go.")
            assert [call["args"] for call in reply.tool_calls] == [{"a": 1, "b": 2}]
            assert [(call["name"], call["args"]) for call in reply.invalid_tool_calls] == [("add", '{"a": 1, "b": }')]
            assert reply.invalid_tool_calls[0]["id"]
            assert reply.response_metadata["token_ids"]


def test_a_stream_comes_in_pieces_and_ids_ride_on_them():
    with ScriptedPolicy(["This is rather a long answer."]) as server:
        chunks = list(chat_policy(server).stream("Go."))
    assert len([chunk for chunk in chunks if chunk.text]) > 2
    with_prompt = [chunk for chunk in chunks if "prompt_token_ids" in chunk.response_metadata]
    assert len(with_prompt) == 1
    ids = [token for chunk in chunks for token in chunk.response_metadata.get("token_ids", [])]
    assert ids == encode("This is rather a long answer.<|end|>")


class Verdict(BaseModel):
    """A verdict."""

    guilty: bool
    reason: str


@pytest.mark.parametrize("asynchronous", [False, True])
def test_structured_output_asks_the_server_to_enforce_it(asynchronous: bool):
    with ScriptedPolicy(['{"guilty": true, "reason": "crumbs"}']) as server:
        model = chat_policy(server).with_structured_output(Verdict, include_raw=True)
        result: Any = RUNNER.run(model.ainvoke("Judge.")) if asynchronous else model.invoke("Judge.")
    assert result["parsed"] == Verdict(guilty=True, reason="crumbs")
    assert result["raw"].response_metadata["token_ids"] == encode('{"guilty": true, "reason": "crumbs"}<|end|>')
    assert server.requests[0]["response_format"]["type"] == "json_schema"
    assert server.requests[0]["return_token_ids"] is True


def test_structured_output_streams_with_ids():
    with ScriptedPolicy(['{"guilty": true, "reason": "crumbs"}']) as server:
        bound = chat_policy(server).bind(response_format=Verdict)
        for reply in (_joined(list(bound.stream("Judge."))), RUNNER.run(_astream(bound, "Judge."))):
            assert reply.response_metadata["token_ids"] == encode('{"guilty": true, "reason": "crumbs"}<|end|>')
            assert len(reply.response_metadata["logprobs"]["content"]) == len(reply.response_metadata["token_ids"])
        parts: list[Any] = list(
            chat_policy(server).with_structured_output(Verdict.model_json_schema()).stream("Judge.")
        )
    assert parts[-1] == {"guilty": True, "reason": "crumbs"}
    assert {request["response_format"]["type"] for request in server.requests} == {"json_schema"}


def test_structured_output_that_does_not_fit_is_said():
    with ScriptedPolicy(["guilty!"]) as server:
        result: Any = chat_policy(server).with_structured_output(Verdict, include_raw=True).invoke("Judge.")
        assert result["parsed"] is None
        assert result["parsing_error"] is not None


def test_json_mode():
    with ScriptedPolicy(['{"guilty": true, "reason": "crumbs"}']) as server:
        result = chat_policy(server).with_structured_output(Verdict, method="json_mode").invoke("Judge.")
    assert result == Verdict(guilty=True, reason="crumbs")
    assert server.requests[0]["response_format"] == {"type": "json_object"}


def test_structured_output_by_a_call():
    with ScriptedPolicy([Reply(calls=[("Verdict", {"guilty": False, "reason": "alibi"})])]) as server:
        model = chat_policy(server).with_structured_output(Verdict, method="function_calling")
        assert model.invoke("Judge.") == Verdict(guilty=False, reason="alibi")
        streamed: Any = list(model.stream("Judge."))[-1]
        assert streamed == Verdict(guilty=False, reason="alibi")


def test_a_price_makes_dollars():
    with ScriptedPolicy(["Four."]) as server:
        reply = chat_policy(server, price=Price(input=1, output=1000)).invoke("2 + 2?")
    usage = reply.usage_metadata
    assert usage is not None
    expected = (usage["input_tokens"] + 1000 * usage["output_tokens"]) / 1e6
    assert reply.response_metadata["dollars"] == pytest.approx(expected)


def test_what_a_conversation_does_not_need_can_be_left_out():
    with ScriptedPolicy([THINKING]) as server:
        reply = chat_policy(server).invoke("Go.")
    lean = without_exact_data(reply)
    assert set(EXACT_KEYS) <= set(reply.response_metadata)
    assert set(EXACT_KEYS).isdisjoint(lean.response_metadata)
    assert lean.response_metadata["model_name"] == "scripted"
    assert (lean.content, lean.tool_calls, lean.id) == (reply.content, reply.tool_calls, reply.id)


def test_an_endpoint_that_is_down_raises_the_clients_own_error(ask: Ask):
    model = ChatPolicy(model="m", base_url=f"http://127.0.0.1:{unused_port()}/v1", max_retries=0)
    with pytest.raises(openai.APIConnectionError):
        ask(model, "2 + 2?")


def test_a_slow_endpoint_is_given_up(ask: Ask):
    with ScriptedPolicy([Reply("late", delay=0.5)]) as server, pytest.raises(openai.APITimeoutError):
        ask(chat_policy(server, request_timeout=0.1), "2 + 2?")


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_a_refusal_keeps_its_status_and_words(ask: Ask, status: int):
    with ScriptedPolicy([Reply("there is no such model", status=status)]) as server:
        with pytest.raises(openai.APIStatusError, match="there is no such model") as raised:
            ask(chat_policy(server), "2 + 2?")
        assert raised.value.status_code == status


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>busy</html>",
        "[]",
        "{}",
        '"text"',
        "null",
        '{"choices": null}',
        '{"choices": [null]}',
        '{"choices": ["text"]}',
        '{"choices": [{"message": "text"}]}',
        '{"choices": [{"message": null}]}',
        '{"error": {"message": "overloaded"}}',
    ],
)
def test_nonsense_is_an_endpoint_error(body: str):
    with ScriptedPolicy([Reply(body=body)]) as server:
        for way in ("invoke", "ainvoke"):
            with pytest.raises(EndpointError, match=r"127\.0\.0\.1"):
                WAYS[way](chat_policy(server), "2 + 2?")


async def test_nonsense_for_structured_output_is_an_endpoint_error():
    with ScriptedPolicy([Reply(body='{"choices": null}')]) as server:
        model = chat_policy(server).with_structured_output(Verdict)
        with pytest.raises(EndpointError):
            model.invoke("Judge.")
        with pytest.raises(EndpointError):
            await model.ainvoke("Judge.")


def test_extra_parameters_of_a_request_reach_the_server(ask: Ask):
    with ScriptedPolicy(["Four."]) as server:
        model = chat_policy(server, temperature=0.3, extra_body={"top_k": 5}, seed=7)
        ask(model, "2 + 2?")
        model.invoke("2 + 2?", stop=["."], max_tokens=9)
    assert server.requests[0]["temperature"] == 0.3
    assert server.requests[0]["top_k"] == 5
    assert server.requests[0]["seed"] == 7
    assert server.requests[0]["return_token_ids"] is True
    assert server.requests[1]["stop"] == ["."]
    assert server.requests[1]["max_tokens"] == 9


def test_messages_are_plain_json():
    with ScriptedPolicy([THINKING]) as server:
        reply = chat_policy(server).invoke("Go.")
    assert json.loads(reply.model_dump_json())["response_metadata"]["token_ids"] == reply.response_metadata["token_ids"]


@pytest.mark.parametrize(
    ("hook", "parameters"),
    [
        ("_generate", ["self", "messages", "stop", "run_manager", "kwargs"]),
        ("_agenerate", ["self", "messages", "stop", "run_manager", "kwargs"]),
        ("_get_request_payload", ["self", "input_", "stop", "kwargs"]),
        ("_create_chat_result", ["self", "response", "generation_info"]),
        (
            "_convert_chunk_to_generation_chunk",
            ["self", "chunk", "default_chunk_class", "base_generation_info"],
        ),
        ("_get_ls_params", ["self", "stop", "kwargs"]),
        ("_ensure_sync_client_available", ["self"]),
    ],
)
def test_the_private_hooks_of_langchain_openai_are_where_they_were(hook: str, parameters: list[str]):
    """When this fails, a release of langchain-openai has moved what `ChatPolicy` overrides: look at all of it."""
    assert list(inspect.signature(getattr(BaseChatOpenAI, hook)).parameters) == parameters


def test_the_hooks_are_called_for_every_way(monkeypatch: pytest.MonkeyPatch):
    called: list[str] = []
    for hook in ("_get_request_payload", "_create_chat_result", "_convert_chunk_to_generation_chunk"):
        original = getattr(ChatPolicy, hook)

        def note(self: Any, *args: Any, hook: str = hook, original: Any = original, **kwargs: Any) -> Any:
            called.append(hook)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(ChatPolicy, hook, note)
    with ScriptedPolicy(["Four."]) as server:
        for name, way in WAYS.items():
            called.clear()
            way(chat_policy(server), "2 + 2?")
            streams = "stream" in name
            assert ("_convert_chunk_to_generation_chunk" in called) == streams
            assert ("_create_chat_result" in called) == (not streams)
            assert "_get_request_payload" in called


def test_a_chunk_without_choices_is_no_harm():
    generation = ChatPolicy(model="m", base_url="http://127.0.0.1:1/v1")._convert_chunk_to_generation_chunk(
        {"id": "x", "choices": [], "usage": None}, AIMessageChunk, None
    )
    assert generation is None or isinstance(generation, ChatGenerationChunk)


@pytest.mark.parametrize("stream", [False, True])
def test_several_event_loops_at_once_share_a_policy(stream: bool):
    """Connections cannot move between loops: requests of a second one failed, or waited for ever."""
    answered: list[str] = []

    async def ask(policy: ChatPolicy, gate: asyncio.Semaphore) -> None:
        async with gate:
            reply = await _astream(policy, "Hi") if stream else await policy.ainvoke("Hi")
        answered.append(reply.text)

    async def many(policies: list[ChatPolicy]) -> None:
        gate = asyncio.Semaphore(8)
        async with asyncio.timeout(60):
            await asyncio.gather(*(ask(policies[number % 2], gate) for number in range(40)))

    with ScriptedPolicy(lambda request: Reply("Yes.", delay=0.005)) as server:
        # Without clients of their own, so that they share LangChain's.
        both = [ChatPolicy(model=server.model, base_url=server.url, max_retries=0) for _ in range(2)]
        with ThreadPoolExecutor(3) as pool:
            for done in [pool.submit(asyncio.run, many(both)) for _ in range(3)]:
                done.result(90)
    assert answered == ["Yes."] * 120
