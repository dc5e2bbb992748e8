"""The gateway's edge: who is let in, where requests go, how long they may take, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from tests.gateway_world import Echo, PolicyServer, Serving, bearer, client_of, gateway, sha256
from tests.sample_events import run
from tests.waiting import auntil
from toolorch_integrations.entry import Specialist, Tool
from toolorch_integrations.store import TraceStore
from toolorch_serving.gateway.errors import ConfigError
from toolorch_serving.gateway.serving import GatewayServer
from toolorch_serving.gateway.state import GatewayState

CHAT = "/v1/chat/completions"
KEYS = [
    {"name": "app", "sha256": sha256("app-key"), "models": ["small"]},
    {"name": "boss", "sha256": sha256("boss-key"), "roles": ["chat", "feedback", "read", "admin"]},
    {"name": "old", "sha256": sha256("old-key"), "expires": "2020-01-01"},
]


class NamedRunner:
    """An orchestrator that is only looked at."""

    name = "shop"

    def catalog(self) -> list[Tool | Specialist]:
        return [Tool(name="delete_order"), Specialist(name="coder", latency=2.0, capabilities=("code",))]

    def run(self, request: Any) -> Any:
        raise NotImplementedError


def with_proxy(proxy: Any, *runners: NamedRunner) -> Any:
    def add(state: GatewayState) -> None:
        state.proxy = proxy
        state.runners.update({runner.name: runner for runner in runners})

    return add


async def test_a_request_with_no_orchestrators_name_goes_to_the_proxy_as_it_is(tmp_path: Path):
    body = b'{"model": "small",   "messages": []}'
    with gateway(tmp_path, with_proxy(echo := Echo(), NamedRunner())) as app, client_of(app) as client:
        for path in (CHAT, "/v1/completions"):
            answer = await client.post(path, content=body)
            assert answer.text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
        assert echo.seen == [("anonymous", body)] * 2
        assert "x-frame-options" not in answer.headers


async def test_a_request_to_an_orchestrator_does_not_reach_the_proxy(tmp_path: Path):
    with gateway(tmp_path, with_proxy(echo := Echo(), NamedRunner())) as app, client_of(app) as client:
        await client.post(CHAT, json={"model": "shop", "messages": "none"})
        assert echo.seen == []
        await client.post(CHAT, json={"model": "small", "messages": [{"role": "user", "content": '"shop"'}]})
        assert len(echo.seen) == 1


@pytest.mark.parametrize(
    "written",
    [rb'"team\/supp\u00F6rt"', rb'"team/supp\u00f6rt"', '"team/suppört"'.encode(), rb'"te\u0061m/supp\u00f6rt"'],
)
async def test_an_orchestrators_name_is_known_however_it_is_written(tmp_path: Path, written: bytes):
    runner = NamedRunner()
    runner.name = "team/suppört"
    with gateway(tmp_path, with_proxy(echo := Echo(), runner)) as app, client_of(app) as client:
        await client.post(CHAT, content=b'{"messages": "none", "model" : %b}' % written)
        assert echo.seen == []
        for other in (rb'"\ud800"', b'"team"', b"null", b'"\xff"'):
            await client.post(CHAT, content=b'{"metadata":{"model":"x"},"model":%b}' % other)
        await client.post(CHAT, content=b'{"metadata":{"model":%b},"model":"small"}' % written)
        assert len(echo.seen) == 5


async def test_without_a_policy_server_only_orchestrators_answer(tmp_path: Path):
    with gateway(tmp_path, with_proxy(None, NamedRunner())) as app, client_of(app) as client:
        answer = await client.post(CHAT, json={"model": "small"})
        assert answer.status_code == 404
        assert answer.json()["error"] | {"message": ""} == {
            "message": "",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
        assert "orchestrators are shop" in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[1]", b'"shop"', b"[" * 100_000])
async def test_a_body_that_is_no_object_is_refused_by_name(tmp_path: Path, body: bytes):
    with gateway(tmp_path, with_proxy(Echo(), NamedRunner()), keys=KEYS) as app, client_of(app) as client:
        answer = await client.post(CHAT, content=body, headers=bearer("app-key"))
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


# Keys


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "invalid_api_key"),
        ("Bearer wrong", "invalid_api_key"),
        ("Bearer ", "invalid_api_key"),
        ("Basic app-key", "invalid_api_key"),
        ("Bearer ключ", "invalid_api_key"),
        ("Bearer old-key", "expired_api_key"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/feedback"])
async def test_without_a_right_key_nothing_is_answered(tmp_path: Path, header: str | None, code: str, path: str):
    with gateway(tmp_path, with_proxy(echo := Echo()), keys=KEYS) as app, client_of(app) as client:
        headers = {} if header is None else {b"authorization": header.encode()}
        answer = await client.post(path, json={"model": "small"}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)
        assert answer.headers["www-authenticate"] == "Bearer"
        assert echo.seen == []


async def test_a_key_may_do_what_its_roles_say(tmp_path: Path):
    with gateway(tmp_path, with_proxy(Echo()), keys=KEYS) as app, client_of(app) as client:
        assert (await client.get("/v1/traces", headers=bearer("boss-key"))).status_code == 200
        refused = await client.get("/v1/traces", headers=bearer("app-key"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
        assert "needs the role read" in refused.json()["error"]["message"]
        for path in ("/metrics", "/v1/routing", "/v1/versions"):
            assert (await client.get(path, headers=bearer("app-key"))).status_code == 403
        body = {"version": "v2", "reason": "why not"}
        assert (await client.post("/v1/versions/promote", json=body, headers=bearer("app-key"))).status_code == 403
        assert (await client.get("/health")).status_code == 200


async def test_a_key_may_ask_the_models_that_it_is_for(tmp_path: Path):
    with gateway(tmp_path, with_proxy(echo := Echo(), NamedRunner()), keys=KEYS) as app, client_of(app) as client:
        for model, status in (("small", 200), ("large", 403), ("shop", 403), (None, 403)):
            answer = await client.post(CHAT, json={"model": model}, headers=bearer("app-key"))
            assert answer.status_code == status
        assert echo.seen == [("app", b'{"model":"small"}')]
        assert (await client.get("/v1/catalog", headers=bearer("app-key"))).status_code == 403
        listed = (await client.get("/v1/models", headers=bearer("app-key"))).json()["data"]
        assert listed == []


@pytest.mark.parametrize(
    ("server", "allowed"),
    [
        ({}, {"chat", "read", "admin"}),
        ({"open": True}, {"chat", "read"}),
        ({"open": True, "open_roles": ["chat"]}, {"chat"}),
    ],
)
async def test_behind_a_proxy_of_ones_own_nobody_is_admin(tmp_path: Path, server: Any, allowed: set[str]):
    with gateway(tmp_path, with_proxy(Echo()), server=server) as app, client_of(app) as client:
        promotion = {"version": "v2", "reason": "why not"}
        asked = {
            "chat": await client.post(CHAT, json={"model": "small"}),
            "read": await client.get("/v1/traces"),
            "admin": await client.post("/v1/versions/promote", json=promotion),
        }
        assert {role for role, answer in asked.items() if answer.status_code != 403} == allowed


# Pages of other sites


async def test_without_keys_another_sites_page_cannot_call(tmp_path: Path):
    with gateway(tmp_path, with_proxy(echo := Echo())) as app, client_of(app) as client:
        for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
            answer = await client.post(CHAT, json={"model": "small"}, headers=headers)
            assert answer.status_code == 403
        assert echo.seen == []
        own = {"Origin": "http://127.0.0.1", "Host": "127.0.0.1"}
        assert (await client.post(CHAT, json={"model": "small"}, headers=own)).status_code == 200


async def test_cors_is_closed_by_default_and_opened_by_name(tmp_path: Path):
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    with gateway(tmp_path) as app, client_of(app) as client:
        assert "access-control-allow-origin" not in (await client.get("/health", headers=asked)).headers
    opened = {"cors_origins": ["https://a.example"]}
    with gateway(tmp_path, with_proxy(Echo()), server=opened) as app, client_of(app) as client:
        preflight = await client.options("/v1/feedback", headers=asked)
        assert preflight.headers["access-control-allow-origin"] == "https://a.example"
        answer = await client.post(CHAT, json={"model": "small"}, headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        other = await client.get("/health", headers={"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


async def test_named_sites_may_send_any_header_and_read_the_trace(tmp_path: Path):
    wanted = "authorization,content-type,x-stainless-lang,x-toolorch-trace"
    asked = {
        "Origin": "https://a.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": wanted,
    }
    opened = {"cors_origins": ["https://a.example"]}
    with gateway(tmp_path, with_proxy(Echo()), server=opened) as app, client_of(app) as client:
        preflight = await client.options(CHAT, headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-headers"] == wanted
        answer = await client.post(CHAT, json={"model": "small"}, headers={"Origin": "https://a.example"})
        assert "x-toolorch-trace" in answer.headers["access-control-expose-headers"].lower()
        refused = await client.options(CHAT, headers=asked | {"Origin": "https://b.example"})
        assert refused.status_code == 400


async def test_answers_carry_security_headers(tmp_path: Path):
    with gateway(tmp_path) as app, client_of(app) as client:
        for path in ("/health", "/v1/traces/none"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert "default-src 'none'" in headers["content-security-policy"]


# Size and time


@pytest.mark.parametrize("path", [CHAT, "/v1/feedback", "/none"])
async def test_a_body_over_the_limit_is_refused(tmp_path: Path, path: str):
    server = {"request_bytes": 1_000}
    with gateway(tmp_path, with_proxy(echo := Echo()), server=server) as app, client_of(app) as client:

        async def chunks() -> Any:
            for _ in range(40):
                yield b" " * 100

        for content in (b" " * 1_001, chunks()):
            answer = await client.post(path, content=content)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
            assert "server.request_bytes" in answer.json()["error"]["message"]
        assert echo.seen == []
        assert (await client.post(CHAT, content=b" " * 1_000)).status_code == 200


def test_over_real_http_a_large_body_is_refused_and_the_next_request_answered(tmp_path: Path):
    server = {"request_bytes": 1_000}
    with (
        gateway(tmp_path, with_proxy(Echo()), server=server) as app,
        Serving(app) as serving,
        httpx.Client(base_url=serving.url) as client,
    ):
        assert client.post(CHAT, content=b" " * 1_500).status_code == 413
        assert client.get("/health").json() == {"status": "ok", "in_flight": 1}


async def test_a_request_that_takes_too_long_is_ended(tmp_path: Path):
    server = {"request_seconds": 0.5}
    with gateway(tmp_path, with_proxy(echo := Echo(0, pause=60)), server=server) as app, client_of(app) as client:
        answer = await client.post(CHAT, json={"model": "small"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        assert echo.cancelled.is_set()


async def test_a_stream_that_takes_too_long_ends_with_an_error(tmp_path: Path):
    server = {"request_seconds": 0.5}
    with gateway(tmp_path, with_proxy(Echo(3, pause=60)), server=server) as app, client_of(app) as client:
        answer = await client.post(CHAT, json={"model": "small"})
        first, last = answer.text.strip().split("\n\n\n\n")
        assert (answer.status_code, first) == (200, "data: 0")
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"


async def test_what_nobody_thought_of_is_told_without_its_words(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError("a secret")

    with gateway(tmp_path, with_proxy(broken)) as app, client_of(app) as client:
        answer = await client.post(CHAT, json={"model": "small"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert "ZeroDivisionError" in answer.text
        assert "a secret" not in answer.text
        assert "a secret" in caplog.text


async def test_a_store_that_is_away_is_a_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def away(*_: Any) -> None:
        raise OperationalError("SELECT", {}, Exception("server closed the connection"))

    with gateway(tmp_path) as app, client_of(app) as client:
        monkeypatch.setattr(TraceStore, "find", away)
        answer = await client.get("/v1/traces/some")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "trace store cannot be used now" in answer.json()["error"]["message"]


async def test_more_requests_than_may_run_at_once_are_told_to_come_back(tmp_path: Path):
    server = {"requests_at_once": 2}
    with gateway(tmp_path, with_proxy(echo := Echo(2, held=True)), server=server) as app, client_of(app) as client:
        asked = [asyncio.create_task(client.post(CHAT, json={"model": "small"})) for _ in range(5)]
        await auntil(lambda: sum(one.done() for one in asked) == 3)
        echo.go_on.set()
        answers = await asyncio.gather(*asked)
        assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503]
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert (refused.headers["retry-after"], refused.json()["error"]["code"]) == ("5", "overloaded")
        assert (await client.post(CHAT, json={"model": "small"})).status_code == 200
        assert (await client.get("/health")).status_code == 200


class Slow:
    """A client that sends the head of its request and no body."""

    def __init__(self) -> None:
        self.waits = asyncio.Event()
        self.got: list[Any] = []

    async def receive(self) -> Any:
        self.waits.set()
        await asyncio.get_running_loop().create_future()

    async def send(self, message: Any) -> None:
        self.got.append(message)

    async def ask(self, app: Any, path: str, key: str | None) -> int:
        headers = [(b"host", b"127.0.0.1"), *([(b"authorization", f"Bearer {key}".encode())] if key else [])]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "server": ("127.0.0.1", 80)}
        await app(scope, self.receive, self.send)
        return int(self.got[0]["status"])


@pytest.mark.parametrize("path", [CHAT, "/v1/feedback", "/v1/versions/promote", "/none"])
async def test_nobodys_body_is_read_who_has_no_key(tmp_path: Path, path: str):
    with gateway(tmp_path, with_proxy(Echo()), keys=KEYS) as app:
        client = Slow()
        assert await client.ask(app, path, None) == 401
        assert not client.waits.is_set()


async def test_what_needs_no_key_takes_no_place_of_those_who_have_one(tmp_path: Path):
    server = {"requests_at_once": 1}
    with gateway(tmp_path, with_proxy(Echo(1)), server=server, keys=KEYS) as app, client_of(app) as client:
        slow = Slow()
        asking = asyncio.create_task(slow.ask(app, "/v1/feedback", "boss-key"))
        await slow.waits.wait()
        for _ in range(2):
            answer = await client.post(CHAT, json={"model": "small"}, headers=bearer("app-key"))
            assert answer.status_code == 200
        asking.cancel()


@pytest.mark.parametrize("path", [CHAT, "/v1/feedback"])
async def test_a_body_that_does_not_come_is_given_up(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("toolorch_serving.gateway.answer.BODY_SECONDS", 0.05)
    with gateway(tmp_path, with_proxy(echo := Echo()), keys=KEYS) as app:
        client = Slow()
        assert await client.ask(app, path, "boss-key") == 408
        assert (b"connection", b"close") in client.got[0]["headers"]
        assert echo.seen == []


# Drain


def test_a_drain_lets_a_stream_end_and_takes_no_more(tmp_path: Path):
    with gateway(tmp_path, with_proxy(echo := Echo(4, held=True))) as app, Serving(app) as serving:
        with httpx.Client(base_url=serving.url) as client:
            assert client.get("/health").status_code == 200
            whole: list[httpx.Response] = []
            asking = threading.Thread(target=lambda: whole.append(httpx.post(serving.url + CHAT, json={"model": "m"})))
            asking.start()
            assert echo.streaming.wait(60)
            serving.drain()
            while (health := client.get("/health")).status_code == 200:
                pass
            assert health.json()["status"] == "draining"
            refused = httpx.post(serving.url + CHAT, json={"model": "m"})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        echo.go_on.set()
        asking.join(60)
        serving.thread.join(60)
        assert whole[0].text.endswith("data: 3\n\n")
        assert not serving.thread.is_alive()
        assert len(echo.seen) == 1


def test_a_drain_cuts_off_what_takes_too_long(tmp_path: Path):
    server = {"drain_seconds": 0.2}
    with gateway(tmp_path, with_proxy(echo := Echo(3, pause=60)), server=server) as app, Serving(app) as serving:
        parts: list[str] = []

        def ask() -> None:
            with httpx.stream("POST", serving.url + CHAT, json={"model": "m"}, timeout=30) as answer:
                parts.extend(answer.iter_text())

        asking = threading.Thread(target=ask)
        asking.start()
        assert echo.streaming.wait(60)
        serving.drain()
        asking.join(60)
        serving.thread.join(60)
        assert not serving.thread.is_alive()
        assert echo.cancelled.is_set()
        last = json.loads("".join(parts).strip().rpartition("data: ")[2])
        assert last["error"]["code"] == "unavailable"


def test_the_command_drains_at_sigterm_and_keeps_what_was_captured(tmp_path: Path):
    """A gateway of its own process: its app puts a run into the recorder, and SIGTERM comes at once."""
    (tmp_path / "gateway.toml").write_text("[server]\nport = 0\n[store]\nurl = 'traces.db'\n")
    script = (
        "import sys\n"
        "from tests.sample_events import run\n"
        "from toolorch_serving.gateway import opening\n"
        "from toolorch_integrations.cli import app\n"
        "def add(state):\n"
        "    for number in range(20):\n"
        "        [state.session.recorder.put(event) for event in run(f'{number:032x}')]\n"
        "opening.add_parts = add\n"
        "app(['serve', 'gateway', sys.argv[1]])\n"
    )
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", script, str(tmp_path / "gateway.toml")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert "gateway on http://127.0.0.1:" in said, said + process.stderr.read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    with TraceStore.open(tmp_path / "traces.db") as store:
        assert [trace.status.value for trace in store.traces()] == ["answered"] * 20


def test_a_port_that_is_taken_is_named(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = rf"server.port: cannot listen on 127\.0\.0\.1, port {port} "
        with gateway(tmp_path, server={"port": port}) as app, pytest.raises(ConfigError, match=message):
            GatewayServer(app)


# Models, catalogue, metrics


async def test_models_are_the_orchestrators_and_the_policy_servers(tmp_path: Path):
    with PolicyServer(["small", "small-v2", "shop"]) as policy:
        add = with_proxy(None, NamedRunner())
        with gateway(tmp_path, add, policy={"url": policy.url}) as app, client_of(app) as client:
            found = (await client.get("/v1/models")).json()
            assert [entry["id"] for entry in found["data"]] == ["shop", "small", "small-v2"]
            assert {entry["object"] for entry in found["data"]} == {"model"}


async def test_models_without_their_server(tmp_path: Path):
    policy = {"url": "http://127.0.0.1:9/v1", "model": "small"}
    with gateway(tmp_path, policy=policy) as app, client_of(app) as client:
        answer = await client.get("/v1/models")
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
        assert "is it running?" in answer.text
    with gateway(tmp_path, with_proxy(None, NamedRunner()), policy=policy) as app, client_of(app) as client:
        assert [entry["id"] for entry in (await client.get("/v1/models")).json()["data"]] == ["shop"]


def test_a_policy_without_a_name_needs_its_server_at_the_start(tmp_path: Path):
    with (
        pytest.raises(ConfigError, match=r"policy\.model is not given"),
        gateway(tmp_path, policy={"url": "http://127.0.0.1:9/v1"}),
    ):
        pass


async def test_the_catalogue_says_what_an_orchestrator_may_call(tmp_path: Path):
    with gateway(tmp_path, with_proxy(None, NamedRunner())) as app, client_of(app) as client:
        entries = (await client.get("/v1/catalog")).json()["data"]
        assert [(entry["name"], entry["kind"], entry["destructive"]) for entry in entries] == [
            ("delete_order", "tool", True),
            ("coder", "specialist", False),
        ]
        assert entries[1]["capabilities"] == ["code"]
        missing = await client.get("/v1/catalog", params={"orchestrator": "none"})
        assert (missing.status_code, missing.json()["error"]["param"]) == (404, "orchestrator")


async def test_metrics_count_requests_by_route_and_never_by_what_clients_write(tmp_path: Path):
    with gateway(tmp_path, with_proxy(Echo())) as app, client_of(app) as client:
        await client.post(CHAT, json={"model": "small"})
        for path in ("/v1/traces/some-id", "/secret-path", "/health"):
            await client.get(path)
        text = (await client.get("/metrics")).text
        assert 'toolorch_requests_total{route="/v1/chat/completions",status="200"} 1.0' in text
        assert 'toolorch_requests_total{route="/v1/traces/{trace_id}",status="404"} 1.0' in text
        assert 'toolorch_requests_total{route="other",status="404"} 1.0' in text
        assert 'toolorch_capture_dropped_total{reason="overflow"} 0.0' in text
        assert "some-id" not in text
        assert "secret-path" not in text


async def test_a_client_that_leaves_before_its_request_is_whole(tmp_path: Path):
    with gateway(tmp_path, with_proxy(echo := Echo())) as app:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"127.0.0.1")]
        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers, "server": ("127.0.0.1", 80)}
        await app(scope, receive, send)
        assert (sent, echo.seen) == ([], [])
        assert b'status="499"' in app.state.metrics.exposition()


def test_old_traces_are_deleted_by_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("toolorch_serving.gateway.opening.PURGE_SECONDS", 0.02)
    store = {"url": str(tmp_path / "traces.db"), "retention_days": 1}
    with gateway(tmp_path, store=store) as app:
        recorder, now = app.state.session.recorder, time.time()
        for number, age in enumerate((0, 2 * 86_400)):
            for event in run(f"{number:032x}", started=now - age):
                recorder.put(event)
        assert recorder.flush(60)
        while len(left := list(app.state.store.traces())) > 1:  # the test's own time limit ends it
            time.sleep(0.02)
        assert [trace.id for trace in left] == [f"{0:032x}"]
