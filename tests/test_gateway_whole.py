"""The gateway with all its parts: what passes through is captured, counted, limited and shown."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import httpx

from tests.gateway_world import PolicyServer, Serving, bearer, gateway, sha256
from toolorch_integrations.events import Deferred, TraceStarted

ASK = {"model": "small", "messages": [{"role": "user", "content": "Say five."}]}
KEYS = [
    {"name": "app", "sha256": sha256("app"), "dollars_per_day": 0.0004, "roles": ["chat", "feedback"]},
    {"name": "boss", "sha256": sha256("boss"), "roles": ["chat", "feedback", "read", "admin"]},
]
POLICY = {"price": {"input": 50, "output": 25}}  # 0.0002 dollars an answer


def test_an_apps_call_is_captured_counted_limited_and_shown(tmp_path: Path):
    with (
        PolicyServer(["small"]) as policy,
        gateway(tmp_path, None, policy={"url": policy.url, **POLICY}, keys=KEYS) as app,
        Serving(app) as serving,
        httpx.Client(base_url=serving.url, headers=bearer("boss")) as client,
    ):
        for _ in range(2):
            answer = client.post("/v1/chat/completions", json=ASK, headers=bearer("app"))
            assert answer.json()["choices"][0]["message"]["content"] == "w5"
        refused = client.post("/v1/chat/completions", json=ASK, headers=bearer("app"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
        assert app.state.flush(60)
        heads = client.get("/v1/traces").json()["data"]
        assert [head["totals"]["output_tokens"] for head in heads] == [2, 2]
        trace = client.get(f"/v1/traces/{heads[0]['id']}").json()
        sampled = trace["nodes"][-1]
        assert sampled["tokens"] == [
            {"id": 5, "logprob": -0.5, "text": "w5 "},
            {"id": 7, "logprob": -0.5, "text": "<end>"},
        ]
        rated = client.post("/v1/feedback", json={"trace_id": heads[0]["id"], "score": 1}, headers=bearer("app"))
        assert rated.status_code == 201
        metrics = client.get("/metrics").text
        assert 'toolorch_policy_calls_total{model="small",status="200"} 2.0' in metrics
        assert 'toolorch_tokens_total{direction="output",kind="policy",name="small"} 4.0' in metrics
        assert 'toolorch_policy_version{role="current",version="small"} 1.0' in metrics
        assert "toolorch_spool_bytes" in metrics


def test_conversations_go_to_the_version_that_was_promoted(tmp_path: Path):
    with (
        PolicyServer(["small", "small-v2"]) as policy,
        gateway(tmp_path, None, policy={"url": policy.url}) as app,
        Serving(app) as serving,
        httpx.Client(base_url=serving.url) as client,
    ):
        assert client.post("/v1/chat/completions", json=ASK).json()["model"] == "small"
        body = {"version": "small-v2", "reason": "better"}
        assert client.post("/v1/versions/promote", json=body).status_code == 200
        other = {**ASK, "messages": [{"role": "user", "content": "Something else."}]}
        assert client.post("/v1/chat/completions", json=other).json()["model"] == "small-v2"


def test_the_page_and_the_api_answer_many_at_once(tmp_path: Path):
    with (
        PolicyServer(["small"]) as policy,
        gateway(tmp_path, None, policy={"url": policy.url}) as app,
        Serving(app) as serving,
    ):
        statuses: list[int] = []

        def ask(number: int) -> None:
            message = {"role": "user", "content": f"Number {number}."}
            with httpx.Client(base_url=serving.url) as client:
                statuses.append(client.post("/v1/chat/completions", json={**ASK, "messages": [message]}).status_code)
                statuses.append(client.get("/orchestrator").status_code)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 32
        assert app.state.flush(60)
        assert sum(1 for _ in app.state.store.traces(status="answered")) == 16


def test_what_a_run_has_done_is_in_a_file_before_its_client_can_see_it(tmp_path: Path):
    """Frameworks hand over callables, which a killed gateway would take along."""
    with gateway(tmp_path) as app:
        trace_id = uuid.uuid4().hex
        app.state.session.recorder.put(Deferred(trace_id, lambda: TraceStarted(trace_id, request="Which tents?")))
        files = [path.read_bytes() for path in (tmp_path / "traces.db.spool").rglob("*") if path.is_file()]
        assert any(trace_id.encode() in found for found in files)
