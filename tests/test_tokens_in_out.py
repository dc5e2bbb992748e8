"""Tokens in, tokens out: conversations never drift, and mean what the chat endpoint would have them mean."""

from __future__ import annotations

import asyncio
import contextlib
import json
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.errors import GraphRecursionError
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool

from tests.tiny_policy import LESSONS, TOOLS, Lesson, user
from toolorch_integrations.capture import capture
from toolorch_integrations.langgraph import ChatPolicy
from toolorch_integrations.llamaindex import PolicyLLM
from toolorch_integrations.llamaindex.completion import exact_data
from toolorch_integrations.store import TraceStore
from toolorch_integrations.tokens import (
    AsyncTokenTransport,
    HeldConversations,
    TokenTransport,
    TokenTurns,
    conversation,
)
from toolorch_integrations.tokens.held import Held
from toolorch_integrations.tokens.turn import after_reply
from toolorch_serving.embedded import EmbeddedServer
from toolorch_serving.process import ServerProcess
from toolorch_serving.vllm import VllmServer

END = 9
Messages = list[dict[str, Any]]


def held(ids: list[int], rendered: list[int], end: int | None = END, *, reasoned: bool = False) -> Held:
    return Held(array("I", ids), array("I", rendered), end, reasoned)


class TestWhatComesAfterAReply:
    """Message: role token, text, END, 0. The generation prompt is [2]; replies are written after it."""

    def test_is_found_whatever_tokens_the_reply_is_rendered_with(self) -> None:
        so_far = held([1, 5, 9, 0, 2, 6, 7, 9], [1, 5, 9, 0, 2])
        assert after_reply(so_far, array("I", [1, 5, 9, 0, 2, 67, 9, 0, 1, 8, 9, 0, 2]), None, END) == 7

    def test_is_found_where_replies_begin_otherwise_than_the_generation_prompt(self) -> None:
        so_far = held([1, 5, 9, 0, 2, 30, 31, 6, 9], [1, 5, 9, 0, 2, 30, 31])
        assert after_reply(so_far, array("I", [1, 5, 9, 0, 2, 6, 9, 0, 1, 8, 9, 0, 2, 30, 31]), None, END) == 7

    def test_is_nowhere_where_the_template_writes_history_anew(self) -> None:
        so_far = held([1, 5, 9, 0, 2, 6, 9], [1, 5, 9, 0, 2])
        assert after_reply(so_far, array("I", [1, 4, 9, 0, 2, 6, 9, 0, 1, 8, 9, 0, 2]), None, END) is None
        assert after_reply(so_far, array("I", [1, 5, 9, 0]), None, END) is None

    def test_is_nowhere_where_the_reply_loses_its_reasoning(self) -> None:
        so_far = held([1, 5, 9, 0, 2, 40, 6, 9], [1, 5, 9, 0, 2], reasoned=True)
        now = array("I", [1, 5, 9, 0, 2, 6, 9, 0, 1, 8, 9, 0, 2])
        assert after_reply(so_far, now, array("I", [1, 5, 9, 0, 2, 40, 6, 9, 0]), END) is None
        assert after_reply(so_far, now, array("I", [1, 5, 9, 0, 2, 6, 9, 0]), END) == 7


class TestHeldConversations:
    def test_are_found_by_what_an_app_sends_back(self) -> None:
        store = HeldConversations()
        call = {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
        reply = {"role": "assistant", "content": "Let me see.\n", "reasoning": "hmm", "tool_calls": [call]}
        store.add(user("find"), reply, held([1], [1]))
        rewritten = {**call, "function": {"name": "add", "arguments": '{"b":2,"a":1}'}}
        sent = {"role": "assistant", "content": "Let me see.", "tool_calls": [rewritten]}
        result = {"role": "tool", "tool_call_id": "a", "content": "3"}
        found = store.find([*user("find"), sent, result])
        assert found is not None
        assert found[1] == 2
        for other in ({**sent, "tool_calls": [{**call, "id": "b"}]}, {**sent, "content": "No."}):
            assert store.find([*user("find"), other, result]) is None
        assert store.find([*user("another"), sent, result]) is None
        assert store.find([*user("find"), sent]) is None  # Nothing comes after it.

    def test_of_the_same_words_are_kept_apart_by_their_context(self) -> None:
        store = HeldConversations()
        reply = {"role": "assistant", "content": "yes"}
        for name in ("one", "two"):
            with conversation(name):
                store.add(user("hello"), reply, held([len(name), ord(name[0])], []))
        for name in ("one", "two"):
            with conversation(name):
                found = store.find([*user("hello"), reply, *user("go on")])
                assert found is not None
                assert found[0].ids[1] == ord(name[0])
        assert store.find([*user("hello"), reply, *user("go on")]) is None

    def test_take_a_bounded_number_of_ids(self) -> None:
        store = HeldConversations(limit=100)
        for number in range(50):
            store.add(user(str(number)), {"role": "assistant", "content": "yes"}, held([1] * 6, [1] * 4))
        assert len(store) == 10
        assert store.find([*user("49"), {"role": "assistant", "content": "yes"}, *user("more")]) is not None


def chat(messages: Messages, **options: Any) -> dict[str, Any]:
    defaults = {"temperature": 0.8, "max_tokens": 60, "return_token_ids": True, "logprobs": True}
    return {"messages": messages, **defaults, **options}


def next_messages(message: dict[str, Any]) -> Messages:
    """Return a reply as an app sends it back, and what follows it."""
    sent = {key: message[key] for key in ("role", "content", "tool_calls") if message.get(key)}
    if message.get("tool_calls"):
        results = [{"role": "tool", "tool_call_id": c["id"], "content": "35 degrees"} for c in message["tool_calls"]]
        return [sent, *results]
    return [sent, *user("find")]


def meaning(completion: dict[str, Any]) -> dict[str, Any]:
    choice = completion["choices"][0]
    message = choice["message"]
    calls = [(call["type"], call["function"]) for call in message.get("tool_calls") or []]
    return {
        **{key: choice[key] for key in ("finish_reason", "stop_reason", "token_ids", "index")},
        **{key: message.get(key) for key in ("role", "content", "reasoning")},
        "calls": calls,
        "usage": {key: completion["usage"][key] for key in ("prompt_tokens", "completion_tokens", "total_tokens")},
        "logprobs": len(choice["logprobs"]["content"]),
    }


async def compare(server: ServerProcess, lessons: tuple[Lesson, ...], seeds: int, turns: int) -> dict[str, int]:
    """Have conversations by token ids, and ask the chat endpoint for every turn of them as well."""
    limits = httpx.Limits(max_keepalive_connections=0)
    plain = httpx.AsyncClient(base_url=server.root_url, trust_env=False, timeout=60, limits=limits)
    by_ids = httpx.AsyncClient(base_url=server.root_url, transport=AsyncTokenTransport(), timeout=60)
    counts = {"turns": 0, "drifted": 0, "sampled otherwise": 0}
    gate = asyncio.Semaphore(24)

    async def one(lesson: Lesson, seed: int) -> None:
        messages, so_far = list(lesson.messages), []
        for _ in range(turns):
            options = {"tools": lesson.tools} if lesson.tools else {}
            body = chat(messages, model=server.name, seed=seed, temperature=0.8 if seed else 0, **options)
            replies = [await client.post("/v1/chat/completions", json=body) for client in (by_ids, plain)]
            ours, theirs = (reply.raise_for_status().json() for reply in replies)
            prompt = ours["prompt_token_ids"]
            assert prompt[: len(so_far)] == so_far
            assert ours["held_tokens"] == len(so_far)
            counts["turns"] += 1
            if prompt != theirs["prompt_token_ids"]:
                counts["drifted"] += 1
            elif ours["choices"][0]["token_ids"] != theirs["choices"][0]["token_ids"]:
                counts["sampled otherwise"] += 1
            else:
                assert meaning(ours) == meaning(theirs)
                pairs = zip(*(c["choices"][0]["logprobs"]["content"] for c in (ours, theirs)), strict=True)
                assert all(abs(a["logprob"] - b["logprob"]) < 1e-4 for a, b in pairs)
            so_far = prompt + ours["choices"][0]["token_ids"]
            messages += next_messages(ours["choices"][0]["message"])

    async def gated(lesson: Lesson, seed: int) -> None:
        async with gate:
            await one(lesson, seed)

    async with plain, by_ids:
        await asyncio.gather(*(gated(lesson, seed) for lesson in lessons for seed in range(seeds)))
    return counts


async def test_a_conversation_stays_one_path_and_means_the_same(embedded_server: EmbeddedServer) -> None:
    counts = await compare(embedded_server, LESSONS, seeds=4, turns=3)
    assert counts["turns"] == 120
    assert counts["sampled otherwise"] <= 2
    assert 0 < counts["drifted"] < 40  # Else the test would prove nothing of drift, or nothing of equality.


@pytest.mark.vllm
@pytest.mark.timeout(300)
async def test_vllm_means_the_same_by_token_ids(vllm_server: VllmServer) -> None:
    counts = await compare(vllm_server, LESSONS, seeds=8, turns=3)
    assert counts["turns"] == 240
    assert counts["sampled otherwise"] <= 5  # Rows of a batch differ in the last bits, and so may a draw.
    assert 0 < counts["drifted"] < 60


@pytest.mark.vllm
def test_both_engines_serve_the_same_for_token_ids(vllm_server: VllmServer, embedded_server: EmbeddedServer) -> None:
    for lesson in LESSONS:
        answers = []
        for server in (vllm_server, embedded_server):
            with httpx.Client(base_url=server.root_url, transport=TokenTransport(), timeout=60) as client:
                options = {"tools": lesson.tools} if lesson.tools else {}
                body = chat(lesson.messages, model=server.name, temperature=0, **options)
                answers.append(client.post("/v1/chat/completions", json=body).json())
        assert meaning(answers[0]) == meaning(answers[1])
        assert answers[0]["prompt_token_ids"] == answers[1]["prompt_token_ids"]
        assert answers[0].keys() == answers[1].keys()


class Toy:
    """A server whose template leaves out the reasoning of all replies but the last, as some do."""

    def __init__(self, *, strips: bool) -> None:
        self.strips = strips
        self.replies = iter([[40, 6, END], [41, 7, END], [42, 8, END]])
        self.status = 200
        self.most = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.status != 200:
            return httpx.Response(self.status, json={"error": "busy"}, headers={"retry-after": "3"})
        body = json.loads(request.content)
        if request.url.path.endswith("/render"):
            ids = self._render(body["messages"], body.get("add_generation_prompt", True))
            return httpx.Response(200, json={"token_ids": ids, "sampling_params": {"max_tokens": 5}})
        if request.url.path.endswith("/generate"):
            ids = next(self.replies)
            self.most = body["sampling_params"]["max_tokens"]
            choice = {"index": 0, "finish_reason": "stop", "stop_reason": None, "token_ids": ids}
            usage = {"prompt_tokens": len(body["token_ids"]), "completion_tokens": 3, "total_tokens": 0}
            return httpx.Response(200, json={"request_id": "r", "model": "toy", "choices": [choice], "usage": usage})
        thought, said = body["generate_response"]["choices"][0]["token_ids"][:2]
        message = {"role": "assistant", "content": chr(said + 60), "reasoning": chr(thought + 60), "tool_calls": []}
        return httpx.Response(200, json={"choices": [{"index": 0, "message": message}]})

    def _render(self, messages: Messages, generation: bool) -> list[int]:
        ids = []
        for index, message in enumerate(messages):
            if message["role"] == "user":
                ids += [1, ord(message["content"]) - 60, END, 0]
            else:
                keeps = message.get("reasoning") and not (self.strips and index + 1 < len(messages))
                ids += [2, *([ord(message["reasoning"]) - 60] if keeps else []), ord(message["content"]) - 60, END, 0]
        return ids + ([2] if generation else [])

    def client(self, turns: TokenTurns | None = None) -> httpx.Client:
        return httpx.Client(base_url="http://toy", transport=TokenTransport(turns, httpx.MockTransport(self)))


@pytest.mark.parametrize("strips", [False, True])
def test_a_template_that_writes_history_anew_is_noticed(strips: bool) -> None:
    turns = TokenTurns()
    with Toy(strips=strips).client(turns) as client:
        first = client.post("/v1/chat/completions", json=chat(user("A"))).json()
        messages = [*user("A"), first["choices"][0]["message"], *user("B")]
        second = client.post("/v1/chat/completions", json=chat(messages)).json()
    assert second["held_tokens"] == (0 if strips else 8)
    assert second["prompt_token_ids"] == [1, 5, 9, 0, 2, *([] if strips else [40]), 6, 9, 0, 1, 6, 9, 0, 2]
    assert turns.rewritten == int(strips)


def test_a_template_that_writes_history_anew_can_be_refused() -> None:
    with Toy(strips=True).client(TokenTurns(on_rewrite="refuse")) as client:
        first = client.post("/v1/chat/completions", json=chat(user("A"))).json()
        refusal = client.post(
            "/v1/chat/completions", json=chat([*user("A"), first["choices"][0]["message"], *user("B")])
        )
    assert refusal.status_code == 400
    assert "prefix-preserving" in refusal.json()["error"]["message"]


def test_errors_of_the_server_come_through_with_their_headers() -> None:
    toy = Toy(strips=False)
    toy.status = 429
    with toy.client() as client:
        refusal = client.post("/v1/chat/completions", json=chat(user("A")))
        other = client.get("/v1/models")
    assert (refusal.status_code, refusal.headers["retry-after"]) == (429, "3")
    assert other.status_code == 429  # Other requests go through unchanged.


@pytest.mark.parametrize(
    ("status", "answer"), [(403, {"message": "Restart with --enable-scale-out."}), (404, {"detail": "Not Found"})]
)
def test_a_server_that_cannot_do_it_is_told_how(status: int, answer: dict[str, str]) -> None:
    inner = httpx.MockTransport(lambda _: httpx.Response(status, json=answer))
    with httpx.Client(base_url="http://old", transport=TokenTransport(inner=inner)) as client:
        refusal = client.post("/v1/chat/completions", json=chat(user("A")))
    assert refusal.status_code == 404
    assert "training=True" in refusal.json()["error"]["message"]


@pytest.mark.parametrize(
    ("options", "field"),
    [({"n": 2}, "n"), ({"stop": ["x"]}, "stop"), ({"messages": []}, "messages"), ({"model": "nobody"}, "model")],
)
def test_what_it_cannot_do_is_refused_by_name(embedded_server: EmbeddedServer, options: Any, field: str) -> None:
    with httpx.Client(base_url=embedded_server.root_url, transport=TokenTransport()) as client:
        refusal = client.post("/v1/chat/completions", json={**chat(user("hello")), **options})
    assert refusal.status_code == (404 if field == "model" else 400)
    assert refusal.json()["error"]["param"] == field


def test_a_reply_that_was_cut_off_goes_on(embedded_server: EmbeddedServer) -> None:
    with httpx.Client(base_url=embedded_server.root_url, transport=TokenTransport(), timeout=60) as client:
        whole = client.post("/v1/chat/completions", json=chat(user("hello"), temperature=0)).json()
        end = whole["choices"][0]["token_ids"][-1]
        cut = client.post("/v1/chat/completions", json=chat(user("hello"), temperature=0, max_tokens=3)).json()
        so_far = cut["prompt_token_ids"] + cut["choices"][0]["token_ids"]
        messages = [*user("hello"), *next_messages(cut["choices"][0]["message"])]
        after = client.post("/v1/chat/completions", json=chat(messages)).json()
    assert after["held_tokens"] == len(so_far)
    assert after["prompt_token_ids"][: len(so_far) + 1] == [*so_far, end]


@pytest.mark.parametrize(("most", "left"), [(None, 4), (5, 5)])
def test_max_tokens_counts_the_ids_that_are_sent(most: int | None, left: int) -> None:
    """The server has counted those that it rendered: one less, since the reply drifted into two tokens."""
    toy = Toy(strips=False)
    toy.replies = iter([[40, 6, 6, END], [41, 7, END]])
    turns = TokenTurns()
    with toy.client(turns) as client:
        first = client.post("/v1/chat/completions", json=chat(user("A"))).json()
        messages = [*user("A"), first["choices"][0]["message"], *user("B")]
        client.post("/v1/chat/completions", json=chat(messages, max_tokens=most))
    assert (toy.most, turns.rewritten) == (left, 0)


@tool
def search(query: str) -> str:
    """Do search."""
    return "35 degrees"


def lookup(query: str) -> str:
    """Do search."""
    return "35 degrees"


def traces_of(path: Path, run: Callable[[], object]) -> list[Any]:
    with capture(f"sqlite:///{path}"):
        run()
    with TraceStore(f"sqlite:///{path}") as store:
        return list(store.full_traces())


@pytest.mark.parametrize("streamed", [False, True])
def test_langgraph_traces_are_one_path(embedded_server: EmbeddedServer, tmp_path: Path, streamed: bool) -> None:
    policy = ChatPolicy(
        model=embedded_server.name, base_url=embedded_server.url, tokens=True, temperature=0, max_tokens=40
    )
    agent = create_agent(policy, [search])

    def run() -> None:
        inputs = {"messages": [("user", "find")]}
        for _ in agent.stream(inputs, {"recursion_limit": 8}, stream_mode="messages" if streamed else "values"):
            pass

    check_one_path(traces_of(tmp_path / "traces.db", lambda: bounded(run)))


async def test_llamaindex_traces_are_one_path(embedded_server: EmbeddedServer, tmp_path: Path) -> None:
    policy = PolicyLLM(embedded_server.name, embedded_server.url, tokens=True, temperature=0, max_tokens=40)

    async def run() -> None:
        agent = FunctionAgent(tools=[FunctionTool.from_defaults(lookup, name="search")], llm=policy)
        try:
            await agent.run("find", max_iterations=3)
        except Exception as error:
            assert "max iterations" in str(error).lower()  # noqa: PT017

    with capture(f"sqlite:///{tmp_path / 'traces.db'}"):
        await run()
    with TraceStore(f"sqlite:///{tmp_path / 'traces.db'}") as store:
        check_one_path(list(store.full_traces()))


def bounded(run: Callable[[], None]) -> None:
    with contextlib.suppress(GraphRecursionError):
        run()


def check_one_path(traces: list[Any]) -> None:
    (trace,) = traces
    turns = [node for node in trace.graph.nodes if node.turn is not None]
    assert len(turns) > 1
    assert trace.exact
    assert len(trace.graph.leaves()) == 1
    assert [node.turn.usage["held_tokens"] > 0 for node in turns] == [False, *[True] * (len(turns) - 1)]


async def test_the_faces_stream_what_they_answer(embedded_server: EmbeddedServer) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 40, "tokens": True}
    graph = ChatPolicy(model=embedded_server.name, base_url=embedded_server.url, **options).bind_tools(TOOLS)
    whole = await graph.ainvoke("talk")
    parts = [part async for part in graph.astream("talk")]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    assert total.tool_calls[0]["args"] == whole.tool_calls[0]["args"] == {"query": "tokyo"}
    assert total.content == whole.content
    for key in ("prompt_token_ids", "token_ids", "held_tokens", "finish_reason"):
        assert total.response_metadata[key] == whole.response_metadata[key], key
    index = PolicyLLM(embedded_server.name, embedded_server.url, **options)
    message = [ChatMessage("talk")]
    responses = [response async for response in await index.astream_chat(message, tools=TOOLS)]
    streamed, at_once = exact_data(responses[-1]), exact_data(index.chat(message, tools=TOOLS))
    assert streamed is not None
    assert at_once is not None
    assert streamed.token_ids == at_once.token_ids == whole.response_metadata["token_ids"]


def test_a_client_of_ones_own_and_tokens_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="TokenTransport"):
        ChatPolicy(model="m", base_url="http://x", tokens=True, http_client=httpx.Client())
    with pytest.raises(ValueError, match="TokenTransport"):
        PolicyLLM("m", "http://x", tokens=True, http_client=httpx.Client())


def test_any_openai_client_can_use_it(embedded_server: EmbeddedServer) -> None:
    transport = TokenTransport()
    client = openai.OpenAI(
        base_url=embedded_server.url, api_key="none", http_client=openai.DefaultHttpxClient(transport=transport)
    )
    reply = client.chat.completions.create(model=embedded_server.name, messages=user("hello"), temperature=0)  # type: ignore[arg-type]
    assert reply.choices[0].message.content == "Hello there, it is nice to see you again."
