"""The LlamaIndex LLM for policies: nothing is lost on the way back, and nothing is added on the way there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ThinkingBlock, ToolCallBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, ValidationError

from tests.doubles import chat_policy, raw_server, read_request
from toolorch_integrations import EndpointError, Price
from toolorch_integrations.langgraph import ChatPolicy
from toolorch_integrations.llamaindex import PolicyLLM, exact_data
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_integrations.versions import CONVERSATION_HEADER, conversation

SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}
FULL = Reply("Looking it up.\n", calls=[("search", {"query": "Grüße"}), ("search", '{"query": ')], reasoning="hmm\n")

Ask = Callable[..., ChatResponse]


def chat(llm: PolicyLLM, messages: Sequence[ChatMessage], **options: Any) -> ChatResponse:
    return llm.chat(messages, **options)


def stream_chat(llm: PolicyLLM, messages: Sequence[ChatMessage], **options: Any) -> ChatResponse:
    return list(llm.stream_chat(messages, **options))[-1]


def achat(llm: PolicyLLM, messages: Sequence[ChatMessage], **options: Any) -> ChatResponse:
    return asyncio.run(llm.achat(messages, **options))


def astream_chat(llm: PolicyLLM, messages: Sequence[ChatMessage], **options: Any) -> ChatResponse:
    async def last() -> ChatResponse:
        return [response async for response in await llm.astream_chat(messages, **options)][-1]

    return asyncio.run(last())


WAYS = pytest.mark.parametrize("ask", [chat, stream_chat, achat, astream_chat])


def llm_of(policy: ScriptedPolicy, **fields: Any) -> PolicyLLM:
    return PolicyLLM("scripted", policy.url, max_retries=0, **fields)


@WAYS
def test_every_way_keeps_ids_logprobs_reasoning_calls_and_usage(ask: Ask) -> None:
    with ScriptedPolicy([FULL]) as policy:
        response = ask(llm_of(policy, price=Price(input=1.0, output=2.0)), [ChatMessage("Hi")], tools=[SEARCH])
        (request,) = policy.requests
        data = policy.completion(request, FULL)
    choice = data["choices"][0]
    exact = exact_data(response)
    assert exact is not None
    assert exact.prompt_token_ids == data["prompt_token_ids"]
    assert exact.token_ids == choice["token_ids"]
    assert exact.logprobs == [token["logprob"] for token in choice["logprobs"]["content"]]
    assert response.raw["usage"] == data["usage"]
    usage = response.additional_kwargs
    assert usage["prompt_tokens"] == data["usage"]["prompt_tokens"]
    assert usage["dollars"] == pytest.approx((usage["prompt_tokens"] + 2 * usage["completion_tokens"]) / 1e6)
    thinking, text, good, bad = response.message.blocks
    assert isinstance(thinking, ThinkingBlock)
    assert thinking.content == "hmm\n"
    assert text.text == "Looking it up.\n"
    assert isinstance(good, ToolCallBlock)
    assert good.tool_kwargs == {"query": "Grüße"}
    assert isinstance(bad, ToolCallBlock)
    assert bad.tool_kwargs == '{"query": '
    assert (response.raw["id"], response.raw["model"]) == (data["id"], "scripted")


@WAYS
def test_an_endpoint_without_ids_is_good_enough(ask: Ask) -> None:
    with ScriptedPolicy(["Hello."], exact=False) as policy:
        response = ask(llm_of(policy, exact=False), [ChatMessage("Hi")])
        assert exact_data(response) is None
        assert response.message.content == "Hello."
        assert not {"logprobs", "return_token_ids"} & set(policy.requests[0])


def test_a_stream_reads_along() -> None:
    with ScriptedPolicy([Reply("One two three four.", reasoning="hmm")]) as policy:
        responses = list(llm_of(policy).stream_chat([ChatMessage("Hi")]))
    assert "".join(response.delta or "" for response in responses) == "One two three four."
    assert [r.additional_kwargs["thinking_delta"] for r in responses if "thinking_delta" in r.additional_kwargs] == [
        "hmm"
    ]
    assert len(responses) > 3


@WAYS
def test_reasoning_goes_back_to_the_server(ask: Ask) -> None:
    with ScriptedPolicy([FULL]) as policy:
        llm = llm_of(policy)
        first = ask(llm, [ChatMessage("Hi")], tools=[SEARCH]).message
        result = ChatMessage(role="tool", content="Found.", additional_kwargs={"tool_call_id": "x"})
        ask(llm, [ChatMessage("Hi"), first, result], tools=[SEARCH])
    sent = policy.requests[1]["messages"][1]
    assert sent["reasoning"] == sent["reasoning_content"] == "hmm\n"
    assert sent["content"] == "Looking it up."
    assert [call["function"]["arguments"] for call in sent["tool_calls"]] == ['{"query": "Grüße"}', '{"query": ']


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_request_as_the_langgraph_face_sends(stream: bool) -> None:
    calls = [{"name": "search", "args": {"query": "Grüße"}, "id": "call-1", "type": "tool_call"}]
    reply = AIMessage("So.\n", tool_calls=calls, additional_kwargs={"reasoning_content": "hmm"})
    theirs = [SystemMessage("S."), HumanMessage("Hi"), reply, ToolMessage("Found.", tool_call_id="call-1")]
    blocks: list[Any] = [ThinkingBlock(content="hmm")]
    blocks += ChatMessage("So.\n").blocks
    blocks.append(ToolCallBlock(tool_call_id="call-1", tool_name="search", tool_kwargs={"query": "Grüße"}))
    ours = [
        ChatMessage(role="system", content="S."),
        ChatMessage("Hi"),
        ChatMessage(role="assistant", blocks=blocks),
        ChatMessage(role="tool", content="Found.", additional_kwargs={"tool_call_id": "call-1"}),
    ]
    options: dict[str, Any] = {"temperature": 0.7, "max_tokens": 50}
    with ScriptedPolicy(["Yes."]) as policy:
        model = ChatPolicy(model="scripted", base_url=policy.url, **options).bind(tools=[SEARCH], tool_choice="none")
        list(model.stream(theirs)) if stream else model.invoke(theirs)
        ask = stream_chat if stream else chat
        ask(llm_of(policy, **options), ours, tools=[SEARCH], tool_choice="none")
    assert policy.requests[1] == policy.requests[0]


def test_nothing_is_sent_that_was_not_asked_for() -> None:
    def search(query: str) -> str:
        """Search."""
        return query

    with ScriptedPolicy(["Yes."]) as policy:
        llm = llm_of(policy)
        llm.chat_with_tools([FunctionTool.from_defaults(search)], user_msg="Hi")
        llm.chat_with_tools([FunctionTool.from_defaults(search)], user_msg="Hi", tool_required=True)
    plain, required = policy.requests
    assert set(plain) == {"messages", "model", "stream", "logprobs", "return_token_ids", "tools"}
    assert "strict" not in plain["tools"][0]["function"]
    assert "additionalProperties" not in plain["tools"][0]["function"]["parameters"]
    assert required["tool_choice"] == "required"


def test_further_options_reach_the_server() -> None:
    extra = {"top_p": 0.9, "extra_body": {"top_k": 5}, "extra_headers": {"X-Run": "1"}}
    with ScriptedPolicy(["Yes."]) as policy:
        llm_of(policy, additional_kwargs=extra, top_logprobs=2, logprobs=True).chat([ChatMessage("Hi")], seed=7)
    (request,) = policy.requests
    assert (request["top_p"], request["top_k"], request["seed"], request["top_logprobs"]) == (0.9, 5, 7, 2)
    assert "extra_body" not in request


def test_a_header_names_the_conversation_the_same_in_both_faces() -> None:
    history = [ChatMessage("Hi"), ChatMessage("Hello.", role="assistant"), ChatMessage("More")]
    with ScriptedPolicy(["Yes."]) as policy:
        llm_of(policy).chat(history[:1])
        llm_of(policy).chat(history)
        llm_of(policy).chat([ChatMessage("Bye")])
        with conversation("c-1"):
            llm_of(policy, additional_kwargs={"extra_headers": {"x-run": "1"}}).chat(history)
        chat_policy(policy).invoke("Hi")
        with conversation("c-1"):
            chat_policy(policy).invoke("Other words")
        RunnableLambda(chat_policy(policy).invoke).invoke("Hi", {"configurable": {"thread_id": "t"}})
    first, second, other, named, same, named_too, thread = (sent[CONVERSATION_HEADER] for sent in policy.headers)
    assert first == second == same
    assert named == named_too
    assert len({first, other, named, thread}) == 4
    assert policy.headers[3]["x-run"] == "1"


def test_logprobs_of_llamaindex_when_they_are_asked_for() -> None:
    with ScriptedPolicy(["Yes."]) as policy:
        response = llm_of(policy, logprobs=True).chat([ChatMessage("Hi")])
    assert response.logprobs is not None
    exact = exact_data(response)
    assert exact is not None
    assert [[token.logprob for token in tokens] for tokens in response.logprobs] == [[v] for v in exact.logprobs or ()]


class Basket(BaseModel):
    tents: int


async def test_structured_prediction() -> None:
    prompt = PromptTemplate("How many {what}?")
    with ScriptedPolicy(['{"tents": 2}']) as policy:
        llm = llm_of(policy)
        assert llm.structured_predict(Basket, prompt, what="tents") == Basket(tents=2)
        assert await llm.astructured_predict(Basket, prompt, what="tents") == Basket(tents=2)
        assert llm.as_structured_llm(Basket).chat([ChatMessage("?")]).raw == Basket(tents=2)
        assert list(llm.stream_structured_predict(Basket, prompt, what="tents"))[-1] == Basket(tents=2)
    schema = policy.requests[0]["response_format"]["json_schema"]
    assert schema["schema"]["properties"]["tents"]["type"] == "integer"
    with ScriptedPolicy(["many"]) as policy, pytest.raises(ValidationError):
        llm_of(policy).structured_predict(Basket, prompt, what="tents")


async def test_an_ordinary_agent_uses_it() -> None:
    def search(query: str) -> str:
        """Search."""
        return f"about {query}"

    with ScriptedPolicy([Reply(calls=[("search", {"query": "tents"})], reasoning="hmm"), "Two."]) as policy:
        assert str(await FunctionAgent(tools=[search], llm=llm_of(policy)).run(user_msg="Tents?")) == "Two."
    assert policy.requests[1]["messages"][-2]["reasoning"] == "hmm"
    assert policy.requests[1]["messages"][-1]["content"] == "about tents"


@WAYS
@pytest.mark.parametrize("body", ["<html>", "{}", '{"choices": []}', '{"choices": [{"message": null}]}', "[1]"])
def test_nonsense_is_an_endpoint_error(ask: Ask, body: str) -> None:
    with ScriptedPolicy([Reply(body=body)]) as policy, pytest.raises((EndpointError, json.JSONDecodeError)) as caught:
        ask(llm_of(policy), [ChatMessage("Hi")])
    if ask in (chat, achat):
        assert isinstance(caught.value, EndpointError)
        assert policy.url in str(caught.value)


def test_a_stream_that_breaks_off_is_an_endpoint_error() -> None:
    chunk = {"id": "x", "choices": [{"index": 0, "delta": {"content": "Hel"}}]}
    event = f"data: {json.dumps(chunk)}\n\n"

    def answer(connection: Any, number: int) -> None:
        read_request(connection)
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        connection.sendall((head + event).encode())

    with raw_server(answer) as url, pytest.raises(EndpointError, match="ended early"):
        list(PolicyLLM("m", url, max_retries=0).stream_chat([ChatMessage("Hi")]))


@WAYS
def test_a_refused_request_keeps_the_clients_error(ask: Ask) -> None:
    with ScriptedPolicy([Reply("too long", status=400)]) as policy, pytest.raises(openai.BadRequestError, match="long"):
        ask(llm_of(policy), [ChatMessage("Hi")])


def test_event_loops_come_and_go() -> None:
    with ScriptedPolicy(["Yes."]) as policy:
        llm = llm_of(policy)
        for _ in range(3):
            assert achat(llm, [ChatMessage("Hi")]).message.content == "Yes."


async def test_a_client_of_the_apps_own_is_used() -> None:
    seen: list[str] = []

    async def note(request: httpx.Request) -> None:
        seen.append(request.url.path)

    with ScriptedPolicy(["Yes."]) as policy:
        async with httpx.AsyncClient(event_hooks={"request": [note]}) as client:
            await llm_of(policy, async_http_client=client).achat([ChatMessage("Hi")])
    assert seen == ["/v1/chat/completions"]


def test_it_serialises_without_its_key() -> None:
    llm = PolicyLLM("m", "http://127.0.0.1:9/v1", api_key="hidden", price=Price(input=1.0))
    assert "hidden" not in json.dumps(llm.to_dict())
    assert llm.to_dict()["class_name"] == "PolicyLLM"
    assert llm.metadata.is_function_calling_model
