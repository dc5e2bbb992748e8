"""Orchestrators over HTTP: OpenAI's own client against /v1/chat/completions, and the chat service's event stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from sse_starlette import ServerSentEvent

from tests.gateway_runs import DELETE_TWO, FACES, Held, Shop, ask, runner_for
from tests.gateway_world import Serving, bearer, gateway, sha256
from tests.waiting import auntil
from toolorch_integrations.events import TraceStatus
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_integrations.trace import Trace
from toolorch_serving.gateway.accounting import counted
from toolorch_serving.gateway.sse import RunResponse, event

LOOK = Reply("Looking.", calls=[("look", {"number": 1})])
EXPERT = Reply(calls=[("expert", {"task": "Think."})])
ASK: Any = [{"role": "user", "content": "Clean up."}]
KEYS = [{"name": name, "sha256": sha256(name), "roles": ["chat", "read"]} for name in ("ann", "bob")]


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def serving(
    folder: Path,
    face: str,
    script: Any,
    expert: Any = ("Expert's word.",),
    key_variable: str | None = None,
    **sections: Any,
) -> Iterator[SimpleNamespace]:
    """A gateway on a real port, with the shop's orchestrator."""
    shop = Shop()
    with ScriptedPolicy(script) as policy, ScriptedPolicy(expert, model="expert") as experts:

        def add(state: Any) -> None:
            state.runners["shop"] = runner_for(face, policy, experts, shop, key_variable=key_variable)

        with gateway(folder, add, **sections) as app, Serving(app) as server:
            client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="ann", max_retries=0)
            yield SimpleNamespace(
                url=server.url, client=client, policy=policy, experts=experts, shop=shop, state=app.state
            )


async def sse(
    one: SimpleNamespace, body: dict[str, Any], key: str = "ann"
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yield names and data of the chat service's events."""
    url = f"{one.url}/api/chat/orchestrator/stream"
    async with httpx.AsyncClient(timeout=60) as client, client.stream("POST", url, json=body, headers=bearer(key)) as r:
        assert r.status_code == 200, await r.aread()
        assert r.headers["content-type"].startswith("text/event-stream")
        name = ""
        async for line in r.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


async def all_of(one: SimpleNamespace, body: dict[str, Any], **options: Any) -> list[tuple[str, dict[str, Any]]]:
    return [event async for event in sse(one, body, **options)]


async def interrupted(one: SimpleNamespace) -> list[Trace]:
    """Return the traces of runs that were ended before their answer, once there is one."""

    def found() -> list[Trace]:
        one.state.session.flush()
        return list(one.state.store.full_traces(status=TraceStatus.INTERRUPTED))

    await auntil(found)
    return found()


# --- OpenAI's protocol ---


async def test_any_client_of_openais_has_an_orchestrator_as_a_model(face: str, tmp_path: Path) -> None:
    with serving(tmp_path, face, [LOOK, EXPERT, "Done."]) as one:
        assert "shop" in [model.id async for model in await one.client.models.list()]
        answer = await one.client.chat.completions.create(
            model="shop",
            messages=[{"role": "system", "content": "Be brief."}, *ASK],
            temperature=0.4,
            max_completion_tokens=99,
            extra_body={"preferences": {"cost": 0.9}, "budget": {"turns": 5}, "changes": {"prices": {}}},
        )
        assert answer.choices[0].message.content == "Done."
        assert answer.choices[0].finish_reason == "stop"
        assert answer.object == "chat.completion"
        usage = answer.usage
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 0
        assert usage.ledger["calls"] == {"look": 1, "expert": 1}
        assert usage.ledger["turns"] == 3
        assert (answer.status, answer.confirmations) == ("answered", [])
        one.state.session.flush()
        trace = one.state.store.find(answer.trace_id)
        assert (trace.status, trace.thread_id) == (TraceStatus.ANSWERED, answer.thread_id)
        sent = one.policy.requests[0]
    assert (sent["temperature"], sent["max_tokens"]) == (0.4, 99)
    assert [m["role"] for m in sent["messages"]] == ["system", "user"]
    assert sent["messages"][-1]["content"] == "Be brief.\n\nClean up."
    assert "low cost matters" in sent["messages"][0]["content"]


@pytest.mark.parametrize("with_usage", [True, False])
async def test_a_stream_shows_steps_as_reasoning_and_ends_as_openais(
    face: str, with_usage: bool, tmp_path: Path
) -> None:
    with serving(tmp_path, face, [LOOK, "Done."]) as one:
        chunks = [
            chunk
            async for chunk in await one.client.chat.completions.create(
                model="shop",
                messages=ASK,
                stream=True,
                **({"stream_options": {"include_usage": True}} if with_usage else {}),
            )
        ]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == "Done."
    steps = [chunk.toolorch["type"] for chunk in chunks if hasattr(chunk, "toolorch")]
    assert steps == ["turn", "call_started", "call_ended", "turn"]
    reasoning = "".join(getattr(delta, "reasoning_content", "") for delta in deltas).splitlines()
    assert len(reasoning) == 4
    assert reasoning[0].startswith("Turn 1: calls look")
    assert "order 1" in reasoning[2]
    last = [chunk for chunk in chunks if chunk.choices][-1]
    assert last.choices[0].finish_reason == "stop"
    assert (last.status, bool(last.trace_id), bool(last.thread_id)) == ("answered", True, True)
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [with_usage]
    assert len({chunk.id for chunk in chunks}) == 1


async def test_approving_over_openais_protocol(face: str, tmp_path: Path) -> None:
    with serving(tmp_path, face, [DELETE_TWO, "Done."]) as one:
        asked = await one.client.chat.completions.create(model="shop", messages=ASK)
        assert asked.status == "interrupted"
        assert "A person must decide" in asked.choices[0].message.content
        first, second = (item["call_id"] for item in asked.confirmations)
        done = await one.client.chat.completions.create(
            model="shop",
            messages=[],
            extra_body={"thread_id": asked.thread_id, "decisions": {first: True, second: False}},
        )
        assert done.choices[0].message.content == "Done."
        assert sorted(one.shop.done) == ["delete 1", "look 1"]
        with pytest.raises(openai.ConflictError, match="waits for no decision"):
            await one.client.chat.completions.create(
                model="shop", messages=[], extra_body={"thread_id": asked.thread_id, "decisions": {first: True}}
            )


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_ends_its_run(face: str, stream: bool, tmp_path: Path) -> None:
    held = Held()
    with serving(tmp_path, face, [EXPERT, EXPERT, "Done."], held) as one:
        body = {"model": "shop", "messages": ASK, "stream": stream, "thread_id": "mine"}
        asking = asyncio.create_task(httpx.AsyncClient().post(f"{one.url}/v1/chat/completions", json=body, timeout=60))
        await held.begun()
        asking.cancel()
        (trace,) = await interrupted(one)
        held.let_go.set()
        await asyncio.sleep(0.1)
        assert "the client disconnected" in trace.error
        assert (len(one.policy.requests), len(one.experts.requests)) == (1, 1)


async def test_errors_are_openais(tmp_path: Path) -> None:
    with serving(
        tmp_path, "langgraph", [Reply('"auto" tool choice requires --enable-auto-tool-choice', status=400)]
    ) as one:
        create = one.client.chat.completions.create
        with pytest.raises(openai.NotFoundError):
            await create(model="nobody", messages=ASK)
        for fields, words in (
            ({"messages": []}, "end with a message of the user"),
            ({"messages": ASK, "extra_body": {"preferences": {"cost": 7}}}, "preferences.cost"),
            ({"messages": ASK, "extra_body": {"preferences": "cheap"}}, "preferences"),
            ({"messages": ASK, "extra_body": {"changes": {"allow": ["fly"]}}}, "'fly'"),
            ({"messages": ASK, "extra_body": {"budget": {"euros": 7}}}, "budget.euros"),
            ({"messages": ASK, "tools": [{"type": "function", "function": {"name": "x"}}]}, "tools cannot be given"),
            ({"messages": ASK, "n": 2}, "n: "),
            ({"messages": ASK, "extra_body": {"preference": {"cost": 1}}}, "did you mean 'preferences'"),
            ({"messages": ASK, "temperature": 9}, "temperature"),
            (
                {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
                "content",
            ),
            ({"messages": ASK, "extra_body": {"decisions": {"a": "perhaps"}}}, "decisions.a"),
        ):
            with pytest.raises(openai.BadRequestError, match=words):
                await create(model="shop", **fields)
        with pytest.raises(openai.NotFoundError, match="not known here"):
            await create(model="shop", messages=[], extra_body={"decisions": {"a": True}})
        with pytest.raises(openai.InternalServerError, match="tool calling") as error:
            await create(model="shop", messages=ASK)
        assert error.value.code == "no_function_calling"
        with pytest.raises(openai.APIError, match="tool calling"):
            async for _ in await create(model="shop", messages=ASK, stream=True):
                pass


# --- the chat service ---


async def test_the_chat_service_shows_a_run_step_by_step(face: str, tmp_path: Path) -> None:
    with serving(tmp_path, face, [LOOK, EXPERT, "Done."]) as one:
        events = await all_of(one, {"query": "Clean up.", "max_rounds": 6, "temperature": 0.1, "max_tokens": 50})
        one.state.session.flush()
        trace = one.state.store.find(events[0][1]["trace_id"])
        metrics = one.state.metrics.exposition().decode()
    assert [name for name, _ in events] == [
        "start", "round_start", "tool_call", "tool_result", "round_start", "tool_call", "tool_result", "round_start",
        "final_answer", "complete",
    ]  # fmt: skip
    data = dict(events)
    assert set(data["start"]) == {"query", "max_rounds", "thread_id", "trace_id"}
    assert events[1][1] | {"dollars": 0, "seconds": 0} == {"round": 1, "text": "Looking.", "dollars": 0, "seconds": 0}
    assert {**events[2][1], "call_id": ""} == {
        "tool": "look", "arguments": {"number": 1}, "call_id": "", "kind": "tool",
    }  # fmt: skip
    result = events[3][1]
    assert set(result) == {"tool", "result", "call_id", "status", "kind", "dollars", "seconds", "total"}
    assert (result["result"], result["status"], result["dollars"]) == ("order 1", "ok", 0.01)
    assert result["call_id"] == events[2][1]["call_id"]
    assert data["final_answer"] == {"content": "Done."}
    summary = data["complete"]["summary"]
    assert (summary["status"], summary["rounds"], summary["calls"]) == ("answered", 3, {"look": 1, "expert": 1})
    assert summary["trace_id"] == data["start"]["trace_id"]
    assert trace.status is TraceStatus.ANSWERED
    sent = one.policy.requests[0]
    assert (sent["temperature"], sent["max_tokens"]) == (0.1, 50)
    assert "6 turns" in sent["messages"][0]["content"]
    assert 'toolorch_calls_total{kind="specialist",name="expert",status="ok"} 1.0' in metrics


async def test_tools_that_are_allowed_forbidden_and_preferred(tmp_path: Path) -> None:
    with serving(tmp_path, "langgraph", ["Done."]) as one:
        await all_of(one, {"query": "Hm.", "allowed": ["look", "expert"], "forbidden": ["expert"]})
        await all_of(one, {"query": "Hm.", "preferred": ["expert"], "preferences": {"latency": 1.0}})
        tools = [[tool["function"]["name"] for tool in request["tools"]] for request in one.policy.requests]
        assert tools[0] == ["look"]
        system = one.policy.requests[1]["messages"][0]["content"]
        assert "use expert if at all possible" in system
        assert "low latency matters" in system


@pytest.mark.parametrize("yes", [True, False])
async def test_approving_in_the_chat_service(face: str, yes: bool, tmp_path: Path) -> None:
    with serving(tmp_path, face, [DELETE_TWO, "Done."]) as one:
        events = await all_of(one, {"query": "Clean up."})
        assert [name for name, _ in events] == ["start", "round_start", "complete"]
        waiting = events[-1][1]["summary"]
        assert waiting["status"] == "interrupted"
        decisions = {item["call_id"]: yes for item in waiting["confirmations"]}
        events = await all_of(one, {"thread_id": waiting["thread_id"], "decisions": decisions})
        assert [name for name, _ in events][-2:] == ["final_answer", "complete"]
        statuses = [data["status"] for name, data in events if name == "tool_result" and data["tool"] == "delete_order"]
        assert statuses == ["ok" if yes else "refused"] * 2
        assert events[-1][1]["summary"]["trace_id"] == waiting["trace_id"]
        assert len(one.shop.done) == (3 if yes else 1)


async def test_faults_are_told_as_error_events(face: str, tmp_path: Path) -> None:
    with serving(tmp_path, face, [Reply(calls=[("look", {"number": 1}), ("look", {"number": 2})])]) as one:
        events = await all_of(one, {"query": "Clean up.", "max_rounds": 1})
        errors = [data for name, data in events if name == "error"]
        assert [error["code"] for error in errors] == ["max_rounds"]
        assert events[-1][1]["summary"]["status"] == "budget"
    with serving(tmp_path, face, [Reply("no such model", status=404)]) as one:
        events = await all_of(one, {"query": "Clean up."})
        assert [name for name, _ in events] == ["start", "error", "complete"]
        assert events[1][1]["code"] == "model_not_found"
        assert events[2][1]["summary"]["status"] == "error"


async def test_a_specialist_without_its_key_is_named_by_its_variable(tmp_path: Path) -> None:
    with serving(tmp_path, "langgraph", [EXPERT, "Done."], key_variable="NO_SUCH_KEY") as one:
        events = await all_of(one, {"query": "Clean up."})
    (error,) = [data for name, data in events if name == "error"]
    assert (error["code"], error["param"]) == ("model_not_configured", "NO_SUCH_KEY")
    assert events[-2][1] == {"content": "Done."}


async def test_a_response_that_is_never_sent_ends_its_run_too(tmp_path: Path) -> None:
    with serving(tmp_path, "langgraph", ["Done."]) as one:
        runner = one.state.runners["shop"]
        permit = one.state.limits.admit(one.state.keys.identify(None))
        run = counted(one.state, runner, ask(thread_id="mine"), permit)
        await run.__aenter__()

        async def unread() -> AsyncIterator[ServerSentEvent]:
            yield event({})

        async def silent() -> dict[str, Any]:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

        async def gone(_: Any) -> None:
            raise OSError("the client has gone")

        with pytest.raises(OSError, match="gone"):
            await RunResponse(one.state, run, unread())({"type": "http", "method": "POST"}, silent, gone)
        await runner.run(ask(thread_id="mine")).aclose()  # it would be refused while the other is under way


async def test_a_reader_that_leaves_in_mid_stream_ends_the_run(face: str, tmp_path: Path) -> None:
    held = Held()
    with serving(tmp_path, face, [EXPERT, EXPERT, "Done."], held) as one:
        async for name, data in sse(one, {"query": "Clean up."}):
            if name == "start":
                trace_id = data["trace_id"]
            elif name == "tool_call":
                await held.begun()
                break
        (trace,) = await interrupted(one)
        held.let_go.set()
        await asyncio.sleep(0.1)
        assert trace.id == trace_id
        assert "the client disconnected" in trace.error
        assert (len(one.policy.requests), len(one.experts.requests)) == (1, 1)


async def test_conversations_of_two_callers_run_side_by_side_and_stay_their_own(tmp_path: Path) -> None:
    held = Held()

    def script(request: Any) -> Any:
        slow = any(m["content"] == "Slow." for m in request["messages"])
        return EXPERT if slow and request["messages"][-1]["role"] == "user" else "Done."

    with serving(tmp_path, "langgraph", script, held, keys=KEYS) as one:
        slow = asyncio.create_task(all_of(one, {"query": "Slow.", "thread_id": "ours"}))
        await held.begun()
        quick = await all_of(one, {"query": "Quick."}, key="bob")
        assert quick[-2][1] == {"content": "Done."}
        assert not slow.done()
        assert (await all_of(one, {"query": "What did she say?", "thread_id": "ours"}, key="bob"))[-2][1] == {
            "content": "Done."
        }
        said = [m["content"] for m in one.policy.requests[-1]["messages"] if m["role"] != "system"]
        assert said == ["What did she say?"]
        held.let_go.set()
        assert (await slow)[-1][1]["summary"]["calls"] == {"expert": 1}


async def test_a_key_has_its_dollars_of_the_day(tmp_path: Path) -> None:
    keys = [{**KEYS[0], "dollars_per_day": 0.015}]
    with serving(tmp_path, "langgraph", [LOOK, "Done."], keys=keys) as one:
        first = await all_of(one, {"query": "One."})
        assert first[-1][1]["summary"]["status"] == "answered"
        second = await all_of(one, {"query": "Two."})  # a run goes over its limit by one call at most
        assert second[-1][1]["summary"]["status"] == "budget"
        assert [data["code"] for name, data in second if name == "error"] == ["max_dollars"]
        with pytest.raises(openai.RateLimitError, match="today"):
            await one.client.chat.completions.create(model="shop", messages=ASK)
        assert one.shop.done == ["look 1", "look 1"]


JSON = {"Content-Type": "application/json"}
BAD: list[tuple[dict[str, Any], int, str]] = [
    ({}, 400, "empty"),
    ({"query": "Hm.", "orchestrator": "nobody"}, 404, "nobody"),
    ({"query": "Hm.", "max_rounds": 0}, 400, "max_rounds"),
    ({"query": "half a \ud800 character"}, 400, "not Unicode text"),
    ({"query": "Hm.", "rounds": 3}, 400, "rounds"),
    ({"query": "Hm.", "preferences": {"speed": 1}}, 400, "preferences.speed"),
    ({"query": "Hm.", "allowed": ["fly"]}, 400, "allowed names 'fly'"),
    ({"query": "Hm.", "thread_id": "x", "decisions": {"a": True}}, 404, "not known here"),
]


async def test_bad_requests_are_refused_before_the_stream(tmp_path: Path) -> None:
    with serving(tmp_path, "langgraph", ["Done."]) as one:
        for body, status, words in BAD:
            answer = await httpx.AsyncClient().post(
                f"{one.url}/api/chat/orchestrator/stream", content=json.dumps(body), headers=JSON
            )
            assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True), answer.text
        assert one.policy.requests == []
