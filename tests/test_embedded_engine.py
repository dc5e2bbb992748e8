"""The embedded engine: the protocol, and batching that never shows in the results."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.policy_client import PolicyClient
from tests.tiny_policy import ADD, LESSONS, SEARCH, TOOLS, Lesson, adapted, logprobs, user
from toolorch_serving.embedded import EmbeddedServer
from toolorch_serving.embedded.answer import AnswerReader, Call
from toolorch_serving.embedded.sampling import Sampling, sample
from toolorch_serving.process import PolicyServerError

TOKYO = ("search", '{"query": "tokyo"}')


@pytest.fixture(scope="module")
def client(embedded_server: EmbeddedServer) -> PolicyClient:
    return PolicyClient(embedded_server)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.messages[0]["content"])
def test_ids_and_logprobs_are_those_of_the_model(client: PolicyClient, tiny_policy: Path, lesson: Lesson) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    model = AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32).eval()
    reply = client.ask(lesson.messages, tools=lesson.tools)
    assert tokenizer.decode(reply.tokens) == lesson.completion + "<|im_end|>"
    assert reply.prompt == tokenizer.apply_chat_template(
        lesson.messages, tools=lesson.tools or None, add_generation_prompt=True, return_dict=False
    )
    assert reply.logprobs == pytest.approx(logprobs(model, reply), abs=1e-4)
    used = {"prompt_tokens": len(reply.prompt), "completion_tokens": len(reply.tokens)}
    assert reply.usage == {**used, "total_tokens": sum(used.values())}


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.messages[0]["content"])
def test_streamed_and_whole_answers_are_the_same(client: PolicyClient, lesson: Lesson) -> None:
    whole = client.ask(lesson.messages, tools=lesson.tools)
    streamed = client.stream(lesson.messages, tools=lesson.tools)
    assert streamed.logprobs == pytest.approx(whole.logprobs, abs=1e-4)
    for name in ("prompt", "tokens", "content", "reasoning", "calls", "finish", "usage"):
        assert getattr(streamed, name) == getattr(whole, name), name
    assert "prompt_token_ids" in streamed.events[0]
    assert all("prompt_token_ids" not in event for event in streamed.events[1:])


@pytest.mark.parametrize(
    ("word", "content", "calls", "finish"),
    [
        ("find", "", [TOKYO], "tool_calls"),
        ("both", "", [TOKYO, ("add", '{"a": 1, "b": 2}')], "tool_calls"),
        ("talk", "Looking it up.\n", [TOKYO], "tool_calls"),
        ("open", "", [("search", '{"query": "open"}')], "tool_calls"),
        ("broken", LESSONS[3].completion, [], "stop"),
        ("mixed", LESSONS[4].completion, [], "stop"),
        ("unicode", LESSONS[7].completion, [], "stop"),
    ],
)
def test_tool_calls_are_parsed(
    client: PolicyClient, word: str, content: str, calls: list[tuple[str, str]], finish: str
) -> None:
    reply = client.ask(user(word), tools=TOOLS)
    assert (reply.content, reply.calls, reply.finish) == (content, calls, finish)


def test_tool_choice_none_leaves_the_call_in_the_text(client: PolicyClient) -> None:
    auto, none = (client.ask(user("find"), tools=TOOLS, tool_choice=choice) for choice in ("auto", "none"))
    assert none.prompt == auto.prompt
    assert (none.content, none.calls, none.finish) == (SEARCH, [], "stop")


def test_parallel_tool_calls_false_keeps_the_first(client: PolicyClient) -> None:
    reply = client.ask(user("both"), tools=TOOLS, parallel_tool_calls=False)
    assert reply.calls == [TOKYO]
    assert len(reply.tokens) == len(client.ask(user("both"), tools=TOOLS).tokens)


@pytest.mark.parametrize("cut", [1, 3, 7, 100])
def test_reading_in_pieces_gives_the_whole(cut: int) -> None:
    text = f"<think>\nhmm\n</think>\n\nFirst.\n{SEARCH}\n{ADD}"
    reader = AnswerReader(tools=True, reasoning=True)
    pieces = [reader.read(text[at : at + cut]) for at in range(0, len(text), cut)] + [reader.read("", last=True)]
    assert "".join(piece.reasoning or "" for piece in pieces) == "\nhmm\n"
    assert "".join(piece.content or "" for piece in pieces) == "\n\nFirst.\n"
    assert [call for piece in pieces for call in piece.calls] == [Call(*TOKYO), Call("add", '{"a": 1, "b": 2}')]


def test_reasoning_ends_with_a_call() -> None:
    answer = AnswerReader(tools=True, reasoning=True).read(f"I wonder.{SEARCH}", last=True)
    assert (answer.reasoning, answer.content, answer.calls) == ("I wonder.", None, [Call(*TOKYO)])


def test_many_requests_at_once_do_not_touch_each_other(client: PolicyClient) -> None:
    options = {"temperature": 1.5, "top_p": 0.95, "top_k": 40, "seed": 7}
    questions = [(lesson.messages, {"tools": lesson.tools}) for lesson in LESSONS] * 3
    alone = [client.ask(messages, **extra, **options) for messages, extra in questions[: len(LESSONS)]]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda question: client.ask(question[0], **question[1], **options), questions))
    for index, reply in enumerate(together):
        expected = alone[index % len(LESSONS)]
        assert reply.tokens == expected.tokens
        assert reply.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


def test_the_seed_decides(client: PolicyClient) -> None:
    options = {"temperature": 2.0, "max_tokens": 30}
    first, again, other = (client.ask(user("hello"), seed=seed, **options).tokens for seed in (1, 1, 2))
    assert first == again != other


def test_what_a_request_does_not_say_is_neutral(tiny_policy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(tiny_policy, folder)
    file = folder / "generation_config.json"
    own = {"do_sample": True, "temperature": 0.5, "top_p": 0.1, "top_k": 1, "repetition_penalty": 3.0}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    model = AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32).eval()
    with EmbeddedServer(folder, dtype="float32", progress=False) as server:
        body = {"model": server.name, "prompt": [5, 6, 7], "max_tokens": 12, "ignore_eos": True}
        body |= {"logprobs": 1, "return_token_ids": True, "seed": 1}
        answer = httpx.post(f"{server.url}/completions", json=body).raise_for_status().json()["choices"][0]
    ids = [5, 6, 7, *answer["token_ids"]]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    values = [float(expected[place - 1, ids[place]]) for place in range(3, len(ids))]
    assert min(values) < -0.1  # no distribution that one token fills would do
    assert answer["logprobs"]["token_logprobs"] == pytest.approx(values, abs=1e-4)


def test_a_next_turn_reuses_the_cache_and_changes_nothing(client: PolicyClient, tiny_policy: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32).eval()
    first = client.ask(user("find"), tools=TOOLS)
    call = {"id": "1", "type": "function", "function": {"name": TOKYO[0], "arguments": TOKYO[1]}}
    turn = [
        *user("find"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "35 degrees"},
    ]
    second = client.ask(turn, tools=TOOLS, ignore_eos=True, max_tokens=5)
    assert second.prompt[: len(first.prompt + first.tokens)] == first.prompt + first.tokens
    assert second.logprobs == pytest.approx(logprobs(model, second), abs=1e-4)


def test_stop_text_ends_the_answer_and_stays_in_the_ids(client: PolicyClient) -> None:
    whole, streamed = (call(user("hello"), stop=["it is", "never"]) for call in (client.ask, client.stream))
    assert whole.content == streamed.content == "Hello there, "
    assert whole.finish == "stop"
    assert whole.tokens == streamed.tokens == client.ask(user("hello")).tokens[: len(whole.tokens)]


def test_max_tokens_ends_with_length(client: PolicyClient) -> None:
    reply = client.ask(user("find"), tools=TOOLS, max_tokens=5)
    assert (len(reply.tokens), reply.finish, reply.calls) == (5, "length", [])


def test_processed_logprobs_are_those_of_the_sampled_distribution() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    drawn = [
        sample(logits, Sampling(1, temperature=0.5, top_k=3, top_p=0.9), (), torch.Generator().manual_seed(seed))
        for seed in range(200)
    ]
    # Squared, the first three are 0.25, 0.09 and 0.0225; top_p drops the third.
    expected = {0: 0.25 / 0.34, 1: 0.09 / 0.34}
    assert {one.token for one in drawn} == set(expected)
    for one in drawn:
        assert torch.tensor(one.logprob).exp().item() == pytest.approx(expected[one.token], rel=1e-5)
    assert 120 < sum(one.token == 0 for one in drawn) < 175


def test_repetition_penalty_spares_unseen_tokens() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5])
    top = sample(logits, Sampling(1, temperature=0, repetition_penalty=2.0, top_logprobs=3), [0, 1], None).top
    expected = torch.tensor([1.0, -2.0, 0.5]).log_softmax(-1)
    assert dict(top) == pytest.approx(dict(enumerate(expected.tolist())))


@pytest.mark.parametrize(
    ("options", "status", "parameter"),
    [
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"top_k": -3}, 400, "top_k"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_completion_tokens": 5000}, 400, "max_completion_tokens"),
        ({"top_logprobs": 21}, 400, "top_logprobs"),
        ({"stop": [""]}, 400, "stop"),
        ({"n": 2}, 400, "n"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"content": "x"}]}, 400, "messages"),
        ({"tool_choice": "auto"}, 400, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "required"}, 400, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"model": "nobody"}, 404, "model"),
    ],
)
def test_errors_name_the_parameter(
    client: PolicyClient, options: dict[str, object], status: int, parameter: str
) -> None:
    response = client.http.post("/v1/chat/completions", json={**client.body(user("hello")), **options})
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (parameter, status)
    assert parameter in error["message"]


def test_a_prompt_that_is_too_long_is_told_both_numbers(client: PolicyClient, tiny_policy: Path) -> None:
    messages = user("hello " * 3000)
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    response = client.post(messages)
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert f"{len(prompt)} tokens" in message
    assert "at most 2048 tokens" in message


@pytest.mark.slow
def test_clients_that_leave_free_their_slots(tiny_policy: Path) -> None:
    with EmbeddedServer(tiny_policy, max_batch=1, progress=False) as server:
        client = PolicyClient(server)
        endless = client.body(user("hello"), ignore_eos=True, max_tokens=2000)
        impatient = httpx.Timeout(60.0, read=0.02)
        for _ in range(30):
            with client.http.stream("POST", "/v1/chat/completions", json={**endless, "stream": True}) as response:
                next(response.iter_lines())
            with pytest.raises(httpx.ReadTimeout):
                client.http.post("/v1/chat/completions", json=endless, timeout=impatient)
        # Were they to run on in the one slot, 120,000 tokens would come before this answer.
        assert client.ask(user("hello")).finish == "stop"


def test_an_adapter_comes_goes_and_changes_only_its_own_requests(
    client: PolicyClient, tiny_policy: Path, tiny_adapter: Path
) -> None:
    before = client.ask(user("hello"), max_tokens=8)
    path = {"lora_name": "tiny-v1", "lora_path": str(tiny_adapter)}
    assert client.http.post("/v1/load_lora_adapter", json=path).status_code == 200
    assert client.http.post("/v1/load_lora_adapter", json=path).json()["error"]["param"] == "lora_name"
    with ThreadPoolExecutor(8) as pool:
        models = [client.model, "tiny-v1"] * 4
        replies = list(pool.map(lambda model: client.ask(user("hello"), model=model, max_tokens=8), models))
    merged = adapted(tiny_policy, tiny_adapter)
    for model, reply in zip(models, replies, strict=True):
        if model == client.model:
            assert reply.tokens == before.tokens
            assert reply.logprobs == pytest.approx(before.logprobs, abs=1e-4)
        else:
            assert reply.logprobs == pytest.approx(logprobs(merged, reply), abs=1e-4)
            assert reply.logprobs != pytest.approx(before.logprobs, abs=1e-2)
    assert client.http.post("/v1/unload_lora_adapter", json={"lora_name": "tiny-v1"}).status_code == 200
    assert client.post(user("hello"), model="tiny-v1").status_code == 404
    assert client.ask(user("hello"), max_tokens=8).logprobs == pytest.approx(before.logprobs, abs=1e-4)
    gone = client.http.post("/v1/load_lora_adapter", json={**path, "lora_path": "/nowhere"})
    assert (gone.status_code, gone.json()["error"]["param"]) == (404, "lora_path")


def test_models_and_health(client: PolicyClient, embedded_server: EmbeddedServer) -> None:
    assert client.http.get("/health").status_code == 200
    (model,) = client.http.get("/v1/models").json()["data"]
    assert (model["id"], model["max_model_len"]) == (embedded_server.name, 2048)


@pytest.mark.slow
def test_the_server_tells_why_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(PolicyServerError, match="nowhere"), EmbeddedServer(tmp_path / "nowhere", progress=False):
        pass


@pytest.mark.slow
def test_the_server_does_not_outlive_a_killed_parent(tiny_policy: Path) -> None:
    program = (
        "import sys, time; from toolorch_serving.embedded import EmbeddedServer\n"
        f"server = EmbeddedServer({str(tiny_policy)!r}, progress=False).start()\n"
        "print(server.root_url, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    url = parent.stdout.readline().strip()
    assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
    parent.kill()
    parent.wait()
    for _ in range(100):
        try:
            httpx.get(f"{url}/health", trust_env=False)
        except httpx.ConnectError:
            break
        time.sleep(0.1)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health", trust_env=False)


@pytest.mark.slow
async def test_the_context_is_asynchronous_too(tiny_policy: Path) -> None:
    async with EmbeddedServer(tiny_policy, name="other", progress=False) as server:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            bodies = [{"messages": user("hello"), "temperature": 0, "max_tokens": n} for n in (1, 2)]
            replies = await asyncio.gather(*(http.post("/chat/completions", json=body) for body in bodies))
        assert [reply.json()["usage"]["completion_tokens"] for reply in replies] == [1, 2]
        assert replies[0].json()["model"] == "other"
    assert not server.running
