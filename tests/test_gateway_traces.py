"""The read API of traces, feedback, and routing over time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway_world import PolicyServer, bearer, client_of, gateway, sha256
from tests.sample_events import run
from toolorch_integrations.events import CallEnded, TraceEnded, TraceStarted
from toolorch_integrations.ledger import Call, CallKind
from toolorch_integrations.trace import Reward
from toolorch_serving.embedded import EmbeddedServer
from toolorch_serving.gateway.app import Gateway
from toolorch_serving.gateway.config import PolicyConfig
from toolorch_serving.gateway.policy_client import PolicyClient
from toolorch_serving.gateway.token_text import TokenText

NOW = 1_800_000_000.0


def capture(app: Gateway, number: int, **started: Any) -> str:
    trace_id = f"{number:032x}"
    for event in run(trace_id, **started):
        app.state.session.recorder.put(event)
    return trace_id


@contextmanager
def world(folder: Path, traces: int = 0, **sections: Any) -> Iterator[tuple[Gateway, httpx.AsyncClient]]:
    with ExitStack() as stack:
        app = stack.enter_context(gateway(folder, **sections))
        client = stack.enter_context(client_of(app))
        for number in range(traces):
            capture(app, number, started=NOW + number // 2, thread_id=f"t{number % 2}")
        assert app.state.flush(60)
        yield app, client


async def test_pages_hold_every_trace_once_newest_first(tmp_path: Path):
    with world(tmp_path, 7) as (_, client):
        found: list[str] = []
        before: dict[str, str] = {}
        for _ in range(4):
            page = (await client.get("/v1/traces", params={"limit": 2, **before})).json()
            found += [trace["id"] for trace in page["data"]]
            before = {"before": page["next"]}
        assert page["next"] is None
        assert found == [f"{number:032x}" for number in reversed(range(7))]


async def test_a_page_that_is_just_full_is_the_last(tmp_path: Path):
    with world(tmp_path, 2) as (_, client):
        page = (await client.get("/v1/traces", params={"limit": 2})).json()
        assert (len(page["data"]), page["next"]) == (2, None)


async def test_traces_are_filtered(tmp_path: Path):
    with world(tmp_path, 4) as (app, client):
        app.state.session.recorder.put(TraceStarted("f" * 32, app="other", started=NOW))
        assert app.state.flush(60)

        async def ids(**filters: str) -> set[str]:
            return {trace["id"][-1] for trace in (await client.get("/v1/traces", params=filters)).json()["data"]}

        assert await ids(app="other") == {"f"}
        assert await ids(status="answered", thread_id="t1") == {"1", "3"}
        assert await ids(app="none \x00") == set()
        wrong = await client.get("/v1/traces", params={"status": "asleep"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "status")


@pytest.mark.parametrize("cursor", ["x", "é", "_", "soon_abc", "nan_abc", "1.5", "\x00"])
async def test_what_is_no_cursor_is_refused(tmp_path: Path, cursor: str):
    with world(tmp_path) as (_, client):
        refused = await client.get("/v1/traces", params={"before": cursor})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "before")


async def test_a_listing_cuts_long_texts_and_a_trace_does_not(tmp_path: Path):
    with world(tmp_path) as (app, client):
        trace_id = capture(app, 1, request="long " * 1_000)
        assert app.state.flush(60)
        assert len((await client.get("/v1/traces")).json()["data"][0]["request"]) == 500
        assert len((await client.get(f"/v1/traces/{trace_id}")).json()["request"]) == 5_000


async def test_a_trace_has_its_graph_tokens_calls_feedback_and_rewards(tmp_path: Path):
    with PolicyServer(["policy-1"]) as policy, world(tmp_path, 1, policy={"url": policy.url}) as (app, client):
        trace_id = f"{0:032x}"
        app.state.store.add_rewards(Reward(trace_id, {"outcome": 1.0}, "exact"))
        await client.post("/v1/feedback", json={"trace_id": trace_id, "score": 1, "comment": "fine"})
        trace = (await client.get(f"/v1/traces/{trace_id}")).json()
        assert (trace["status"], trace["totals"]["turns"], trace["exact"]) == ("answered", 2, True)
        nodes = trace["nodes"]
        assert [node["role"] for node in nodes] == ["system", "user", "assistant", "tool", "assistant"]
        assert [node["parent"] for node in nodes] == [None, 0, 1, 2, 3]
        assert nodes[2]["tokens"] == [
            {"id": 1000, "logprob": logprob, "text": "w1000 "} for logprob in (-0.25, -0.5, 0.0)
        ]
        assert {token["text"] for node in nodes for token in node["tokens"] if token["id"] == 7} == {"<end>"}
        assert nodes[2]["turn"]["model"] == "policy-1"
        assert nodes[2]["turn"]["sampling"] == {"temperature": 0.7}
        assert (nodes[0]["turn"], nodes[3]["tool_call_id"]) == (None, "c0")
        assert [(call["name"], call["status"], call["arguments"]) for call in trace["calls"]] == [
            ("add", "ok", {"turn": 0})
        ]
        assert [(one["name"], one["score"], one["source"]) for one in trace["feedback"]] == [("user", 1.0, "anonymous")]
        assert trace["rewards"][0]["values"] == {"outcome": 1.0}


async def test_without_a_server_that_knows_tokens_their_texts_are_null(tmp_path: Path):
    with (
        PolicyServer(["policy-1"], detokenize=False) as policy,
        world(tmp_path, 1, policy={"url": policy.url}) as (_, client),
    ):
        for _ in range(3):
            trace = (await client.get(f"/v1/traces/{0:032x}")).json()
            assert {token["text"] for node in trace["nodes"] for token in node["tokens"]} == {None}
        assert policy.requests == ["/detokenize"]


@pytest.mark.parametrize("trace_id", ["none", "%00", "%ED%A0%80", "'", "a" * 200])
async def test_a_trace_that_is_not_there(tmp_path: Path, trace_id: str):
    with world(tmp_path) as (_, client):
        missing = await client.get(f"/v1/traces/{trace_id}")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


async def test_whatever_models_wrote_is_shown_as_json(tmp_path: Path):
    with world(tmp_path) as (app, client):
        put = app.state.session.recorder.put
        put(TraceStarted("a" * 32, metadata={"odd": ["\ud800", 2**80, float("nan")]}))
        put(CallEnded("a" * 32, Call(CallKind.TOOL, "t"), {"huge": 2**80, "half": "\ud800", "none": float("inf")}, ""))
        put(TraceEnded("a" * 32))
        assert app.state.flush(60)
        trace = json.loads((await client.get(f"/v1/traces/{'a' * 32}")).content, parse_constant=pytest.fail)
        assert trace["calls"][0]["arguments"] == {"huge": 2**80, "half": "\ud800", "none": None}
        assert (await client.get("/v1/traces")).status_code == 200


# Texts of tokens


class CountingClient(PolicyClient):
    """Knows texts by id, and counts questions."""

    def __init__(self, texts: dict[int, str]) -> None:
        self.known, self.asked = texts, 0

    def detokenize(self, ids: list[int]) -> str:
        self.asked += 1
        return "".join(self.known[token] for token in ids)


def test_texts_are_cut_by_a_separator_that_is_proven():
    upstream = CountingClient({1: "a", 2: "aa", 3: "", 9: "<end>"})
    assert TokenText(upstream).texts([1, 2, 3, 9], [9]) == {1: "a", 2: "aa", 3: "", 9: "<end>"}
    assert upstream.asked == 2


def test_an_ambiguous_separator_is_not_used():
    upstream = CountingClient({1: "a", 2: "aa", 3: ""})
    assert TokenText(upstream).texts([1, 2], [3, 1]) == {1: "a", 2: "aa"}


def test_a_known_id_is_not_asked_for_again():
    upstream = CountingClient({number: f"t{number} " for number in range(2_000)} | {9: "<end>"})
    texts = TokenText(upstream)
    assert len(texts.texts(range(2_000), [9])) == 2_000
    asked = upstream.asked
    assert asked < 20
    texts.texts(range(1_000), [9])
    assert upstream.asked == asked


def test_the_embedded_engine_says_what_its_tokens_mean(embedded_server: EmbeddedServer):
    upstream = PolicyClient(PolicyConfig(url=embedded_server.url))
    ids = upstream._ask("POST", f"{embedded_server.url}/chat/completions/render", CHAT)["token_ids"]
    texts = TokenText(upstream).texts(ids, [ids[-1], ids[0]])
    assert set(texts) == set(ids)
    whole = "".join(texts[token] for token in ids)
    assert whole == upstream.detokenize(ids)
    assert "What is" in whole
    upstream.close()


CHAT = {"messages": [{"role": "user", "content": "What is two and two?"}]}


# Feedback


async def test_feedback_finds_a_run_that_has_just_ended(tmp_path: Path):
    keys = [{"name": "app", "sha256": sha256("k")}]
    with world(tmp_path, keys=keys) as (app, client):
        trace_id = capture(app, 5)
        body = {"trace_id": trace_id, "score": 0.5, "name": "thumb"}
        created = await client.post("/v1/feedback", json=body, headers=bearer("k"))
        assert created.status_code == 201
        kept = app.state.store.trace(trace_id).feedback
        assert [(one.id, one.name, one.score, one.source) for one in kept] == [
            (created.json()["id"], "thumb", 0.5, "app")
        ]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"trace_id": "none", "score": 1}, 404, "trace_id"),
        ({"score": 1}, 400, "trace_id"),
        ({"trace_id": "x", "score": 2}, 400, "score"),
        ({"trace_id": "x", "score": 1, "stars": 5}, 400, "stars"),
        ({"trace_id": "x", "score": 1, "comment": "c" * 10_001}, 400, "comment"),
    ],
)
async def test_feedback_that_cannot_be_attached(tmp_path: Path, body: dict[str, Any], status: int, param: str):
    with world(tmp_path) as (_, client):
        refused = await client.post("/v1/feedback", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)


# Routing


async def test_routing_counts_by_span_of_time(tmp_path: Path):
    width = 1_900
    begin = time.time() // width * width - 10 * width
    with world(tmp_path) as (app, client):
        for number, at in enumerate((0, 10, 2 * width, 2 * width + 1, 5 * width - 0.5)):
            capture(app, number, started=begin + at)
        assert app.state.flush(60)
        found = (await client.get("/v1/routing", params={"since": begin + 5, "bucket": width})).json()["buckets"]
        assert [(one["start"] - begin, one["runs"], one["calls"], one["versions"]) for one in found] == [
            (0.0, 1, {"add": 1}, {"policy-1": 1}),
            (2.0 * width, 2, {"add": 2}, {"policy-1": 2}),
            (4.0 * width, 1, {"add": 1}, {"policy-1": 1}),
        ]
        assert found[1]["dollars"] == pytest.approx(2 * 0.012)
        assert found[1]["seconds"] == pytest.approx(2 * 1.1)


async def test_routing_is_of_the_last_day_by_default(tmp_path: Path):
    with world(tmp_path) as (app, client):
        capture(app, 1, started=time.time() - 60)
        capture(app, 2, started=time.time() - 90_000)
        assert app.state.flush(60)
        found = (await client.get("/v1/routing")).json()["buckets"]
        assert sum(one["runs"] for one in found) == 1


async def test_too_many_spans_are_refused(tmp_path: Path):
    with world(tmp_path) as (_, client):
        refused = await client.get("/v1/routing", params={"since": 0, "bucket": 60})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "bucket")
