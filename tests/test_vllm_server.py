"""A real vLLM under our launcher, and the same protocol, token for token, from the embedded engine."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.policy_client import PolicyClient
from tests.tiny_policy import LESSONS, TOOLS, Lesson, user
from toolorch_serving.embedded import EmbeddedServer
from toolorch_serving.policy import chosen_engine, policy_server
from toolorch_serving.process import PolicyServerError
from toolorch_serving.vllm import VARIABLE, VllmServer, find_vllm

CALL = {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"query":"tokyo"}'}}
BROKEN = {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"query":'}}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "35 degrees"}
HISTORIES: dict[str, list[dict[str, Any]]] = {
    "call": [*user("find"), {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT],
    "broken call": [*user("find"), {"role": "assistant", "content": "", "tool_calls": [BROKEN]}, RESULT],
    "reasoning": [
        *user("find"),
        {"role": "assistant", "content": "So.", "reasoning": "I wonder.", "tool_calls": [CALL, {**CALL, "id": "2"}]},
        RESULT,
        {**RESULT, "tool_call_id": "2", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ],
    "parts": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "find"}, {"type": "text", "text": "it"}]},
    ],
}
# A tool without description and parameters, one with keys in another order and one that nobody knows.
ODD_TOOLS = [
    {"type": "function", "function": {"name": "now"}},
    {"function": {"parameters": {"type": "object"}, "strict": False, "name": "later", "extra": 1}, "type": "function"},
]


@pytest.fixture(scope="module")
def vllm(vllm_server: VllmServer) -> PolicyClient:
    return PolicyClient(vllm_server)


@pytest.fixture(scope="module")
def embedded(embedded_server: EmbeddedServer) -> PolicyClient:
    return PolicyClient(embedded_server)


@pytest.mark.vllm
@pytest.mark.parametrize("options", [{}, {"temperature": 0, "top_p": 0.5, "top_k": 2}], ids=["plain", "truncated"])
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.messages[0]["content"])
def test_both_engines_answer_the_same(
    vllm: PolicyClient, embedded: PolicyClient, lesson: Lesson, options: dict[str, Any]
) -> None:
    theirs, ours = (client.ask(lesson.messages, tools=lesson.tools, **options) for client in (vllm, embedded))
    for name in ("prompt", "tokens", "content", "reasoning", "calls", "finish"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
    assert {key: theirs.usage[key] for key in ours.usage} == ours.usage


@pytest.mark.vllm
@pytest.mark.parametrize("name", HISTORIES)
def test_both_engines_render_the_same_prompt(vllm: PolicyClient, embedded: PolicyClient, name: str) -> None:
    options = {"tools": [*TOOLS, *ODD_TOOLS], "max_tokens": 12, "ignore_eos": True}
    theirs, ours = (client.ask(HISTORIES[name], **options) for client in (vllm, embedded))
    assert ours.prompt == theirs.prompt
    assert ours.tokens == theirs.tokens


@pytest.mark.vllm
def test_both_engines_report_the_sampled_distribution(vllm: PolicyClient, embedded: PolicyClient) -> None:
    options = {"temperature": 1.7, "top_k": 3, "top_p": 0.8, "max_tokens": 1, "top_logprobs": 3}
    first = {}
    for client in (vllm, embedded):
        data = client.post(user("hello"), **options, seed=3).json()
        entries = data["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        first[client] = {entry["token"]: entry["logprob"] for entry in entries if entry["logprob"] > -9999}
    assert first[embedded] == pytest.approx(first[vllm], abs=1e-4)


@pytest.mark.vllm
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.messages[0]["content"])
def test_a_stream_holds_every_token(vllm: PolicyClient, lesson: Lesson) -> None:
    options = {"tools": lesson.tools, "temperature": 0.7, "seed": 11}
    whole, streamed = vllm.ask(lesson.messages, **options), vllm.stream(lesson.messages, **options)
    assert streamed.prompt == whole.prompt
    assert streamed.tokens == whole.tokens
    assert streamed.logprobs == pytest.approx(whole.logprobs, abs=1e-4)


@pytest.mark.vllm
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"top_p": 0},
        {"max_tokens": 0},
        {"max_tokens": 5000},
        {"messages": []},
        {"tools": []},
        {"tool_choice": "auto"},
        {"model": "nobody"},
    ],
    ids=str,
)
def test_both_engines_refuse_the_same(vllm: PolicyClient, embedded: PolicyClient, options: dict[str, Any]) -> None:
    theirs, ours = (
        client.http.post("/v1/chat/completions", json={**client.body(user("hello")), **options})
        for client in (vllm, embedded)
    )
    assert ours.status_code == theirs.status_code
    assert ours.json()["error"].keys() == theirs.json()["error"].keys()
    assert theirs.json()["error"]["param"] in (None, ours.json()["error"]["param"])


@pytest.mark.vllm
def test_strict_tools_change_the_distribution(vllm: PolicyClient, embedded: PolicyClient) -> None:
    """Why capture must know of `strict`: the log-probabilities are then those under a grammar."""
    strict = [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]
    assert vllm.ask(user("broken"), tools=TOOLS).content == LESSONS[3].completion
    forced = vllm.ask(user("broken"), tools=strict)
    assert [name for name, _ in forced.calls] == ["search"]
    refusal = embedded.post(user("broken"), tools=strict)
    assert (refusal.status_code, refusal.json()["error"]["param"]) == (400, "tools")


@pytest.mark.vllm
def test_an_adapter_can_be_swapped_in(vllm: PolicyClient, embedded: PolicyClient, tiny_adapter: Path) -> None:
    body = {"lora_name": "tiny-v2", "lora_path": str(tiny_adapter)}
    replies = []
    for client in (vllm, embedded):
        assert client.http.post("/v1/load_lora_adapter", json=body).status_code == 200
        assert [model["id"] for model in client.http.get("/v1/models").json()["data"]] == [client.model, "tiny-v2"]
        replies.append(client.ask(user("hello"), model="tiny-v2", max_tokens=8))
        assert client.http.post("/v1/unload_lora_adapter", json={"lora_name": "tiny-v2"}).status_code == 200
    theirs, ours = replies
    assert ours.tokens == theirs.tokens
    assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-3)


@pytest.mark.vllm
def test_a_failed_start_says_what_to_do(tmp_path: Path, vllm_server: VllmServer) -> None:
    with pytest.raises(PolicyServerError, match="MODEL must be a folder") as caught:
        VllmServer(tmp_path, progress=False).start()
    assert "End of its log" in str(caught.value)
    with pytest.raises(PolicyServerError, match=f"port {vllm_server.port} .* is taken"):
        VllmServer(tmp_path, port=vllm_server.port, progress=False).start()


@pytest.mark.vllm
@pytest.mark.slow
def test_nothing_outlives_a_killed_parent(tiny_policy: Path) -> None:
    program = (
        "import time; from toolorch_serving.vllm import VllmServer\n"
        f"server = VllmServer({str(tiny_policy)!r}, max_model_len=512, progress=False).start()\n"
        "print(server.root_url, flush=True); time.sleep(100)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    url = parent.stdout.readline().strip()
    family = psutil.Process(parent.pid).children(recursive=True)
    # The guard, vLLM's HTTP server and its engine at least.
    assert len(family) >= 3
    assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []


def test_a_missing_vllm_is_told_how_to_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("toolorch_serving.vllm._FOLDER", Path("no-such-folder"))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyServerError, match=r"install_vllm\.py(.|\n)*pip install(.|\n)*TOOLORCH_VLLM_PYTHON"):
        find_vllm()
    assert chosen_engine("auto") == "embedded"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "python"))
    with pytest.raises(PolicyServerError, match=VARIABLE):
        find_vllm()
    monkeypatch.setenv(VARIABLE, sys.executable)
    assert find_vllm() == Path(sys.executable)
    assert chosen_engine("auto") == "vllm"


@pytest.mark.parametrize(
    ("log", "advice"),
    [
        ("RuntimeError: operator torchvision::nms does not exist", "pip uninstall -y torchvision"),
        ("the command was ended by signal SIGILL", "--engine embedded"),
        ("the command was ended by signal SIGKILL", "memory ran out"),
        ("OSError: [Errno 98] Address already in use", "port 8000 is taken"),
        ("Model architectures ['NewForCausalLM'] are not supported for now.", "newer vLLM"),
        ("default chat template is no longer allowed", "chat_template.jinja"),
    ],
)
def test_known_causes_come_with_advice(log: str, advice: str) -> None:
    server = VllmServer("policy", python=sys.executable, port=8000, progress=False)
    assert advice in (server.advice(log) or "")


def test_the_command_has_what_capture_and_promotion_need(tiny_policy: Path) -> None:
    server = VllmServer(
        tiny_policy, name="policy", python=sys.executable, port=8000, lora=True, reasoning_parser="qwen3"
    )
    command = " ".join(server.command())
    for part in (
        "--served-model-name policy",
        "--enable-auto-tool-choice",
        "--tool-call-parser hermes",
        "--reasoning-parser qwen3",
        "--logprobs-mode processed_logprobs",
        "--enable-lora",
    ):
        assert part in command
    environment = server.environment()
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == environment["HF_HUB_OFFLINE"] == "1"


def test_the_embedded_engine_serves_by_the_command_line(tiny_policy: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = "from toolorch_integrations.cli import app; app()"
    command = ["serve", "policy", str(tiny_policy), "--engine", "embedded", "--port", str(port), "--name", "mine"]
    with subprocess.Popen([sys.executable, "-c", program, *command], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any(f"serves mine on http://127.0.0.1:{port}/v1" in line for line in lines)
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False).json()["data"][0]["id"] == "mine"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)


def test_either_engine_by_one_call(tiny_policy: Path) -> None:
    with policy_server(tiny_policy, engine="embedded", name="mine", lora=True, progress=False) as server:
        assert (server.engine, server.name) == ("embedded", "mine")
        models = httpx.get(f"{server.url}/models", trust_env=False).json()["data"]
    assert [model["id"] for model in models] == ["mine"]
    assert policy_server(tiny_policy, engine="vllm", python=sys.executable).engine == "vllm"


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(PolicyServerError, match="auto, vllm or embedded"):
        policy_server("policy", engine="other")


@pytest.mark.parametrize("engine", ["vllm", "embedded"])
def test_a_folder_that_is_not_there_is_named_before_anything_starts(engine: str) -> None:
    with pytest.raises(PolicyServerError, match="no folder /no/such/policy"):
        policy_server("/no/such/policy", engine=engine)
