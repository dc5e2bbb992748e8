"""What the embedded engine refuses, by name; and that what fails with one request or adapter harms no other."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient
from transformers import AutoModelForCausalLM

from toolorch_serving.embedded.app import create_app
from toolorch_serving.embedded.batch import Batch
from toolorch_serving.embedded.engine import Engine
from toolorch_serving.embedded.policy_model import PolicyModel, load
from toolorch_serving.embedded.request import Request, Step
from toolorch_serving.embedded.running import Served
from toolorch_serving.embedded.sampling import Sampling
from toolorch_serving.embedded.unsupported import refusal

POLICY = str(Path(__file__).parent.parent / "examples/shop/policy")
CHAT, TEXT, GENERATE = "/v1/chat/completions", "/v1/completions", "/inference/v1/generate"
DERENDER, DETOKENIZE = "/v1/chat/completions/derender", "/detokenize"
USER = {"messages": [{"role": "user", "content": "hi"}]}
BODIES: dict[str, dict[str, Any]] = {CHAT: USER, TEXT: {"prompt": [5, 6, 7]}, GENERATE: {"token_ids": [5, 6, 7]}}


@pytest.fixture(scope="module")
def served() -> Served:
    model, tokenizer, ends, longest = load(POLICY, dtype="float32")
    engine = Engine(model, tokenizer, end_tokens=ends)
    return Served(engine, tokenizer, "policy", POLICY, longest, reasoning=False)


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[TestClient]:
    with TestClient(create_app(served), raise_server_exceptions=False) as client:
        yield client


def body(path: str, **options: Any) -> dict[str, Any]:
    options = {"max_tokens": 2} | options
    return BODIES[path] | ({"sampling_params": options} if path == GENERATE else options)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("best_of", 2),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("length_penalty", 2),
        ("logit_bias", {"5": 1}),
        ("min_p", 0.1),
        ("min_tokens", 2),
        ("echo", True),
        ("suffix", "."),
        ("stop_token_ids", [3]),
        ("allowed_token_ids", [3]),
        ("reasoning_effort", "low"),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}),
        ("response_format", {"type": "json_object"}),
        ("structured_outputs", {"json": {}}),
        ("guided_json", {}),
        ("functions", [{"name": "f"}]),
    ],
)
def test_what_the_engine_does_not_do_is_refused_on_every_way_in(client: TestClient, field: str, value: Any) -> None:
    for path in BODIES:
        response = client.post(path, json=body(path, **{field: value}))
        assert response.status_code == 400, path
        error = response.json()["error"]
        assert error["param"] == field
        assert field in error["message"]


def test_values_that_change_nothing_are_taken() -> None:
    neutral = {"n": 1, "presence_penalty": 0.0, "logit_bias": {}, "response_format": {"type": "text"}, "best_of": None}
    assert refusal(neutral) is None


@pytest.mark.parametrize(
    ("path", "options", "field"),
    [
        (CHAT, {"seed": 2**70}, "seed"),
        (CHAT, {"temperature": 1e-42}, "temperature"),
        (CHAT, {"repetition_penalty": 1e-300}, "repetition_penalty"),
        (CHAT, {"top_logprobs": 3}, "top_logprobs"),
        (CHAT, {"chat_template_kwargs": {"chat_template": "{{ 7 * 7 }}"}}, "chat_template_kwargs"),
        (TEXT, {"prompt": "some text"}, "prompt"),
        (TEXT, {"prompt": [10**9]}, "prompt"),
        (GENERATE, {"token_ids": [-1]}, "token_ids"),
        (GENERATE, {"sampling_params": {"temperature": "hot"}}, "sampling_params.temperature"),
        (GENERATE, {"sampling_params": {"logprobs": "all"}}, "sampling_params.logprobs"),
        (DETOKENIZE, {"tokens": [10**9]}, "tokens"),
        (DERENDER, {"generate_response": {}}, "generate_response.request_id"),
        (DERENDER, {"generate_response": {"request_id": "x", "choices": []}}, "generate_response.choices"),
        (
            DERENDER,
            {"generate_response": {"request_id": "x", "choices": [{"token_ids": []}]}},
            "generate_response.choices.0.token_ids",
        ),
        (
            DERENDER,
            {"generate_response": {"request_id": "x", "choices": [{"token_ids": [10**9]}]}},
            "generate_response.choices.0.token_ids",
        ),
        (
            DERENDER,
            {"generate_response": {"request_id": "x", "choices": [{"token_ids": [5], "logprobs": {"content": []}}]}},
            "generate_response.choices.0.logprobs",
        ),
    ],
)
def test_bad_input_is_named(client: TestClient, path: str, options: dict[str, Any], field: str) -> None:
    known = body(path) if path in BODIES else {"chat_request": USER} if path == DERENDER else {}
    response = client.post(path, json=known | options)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == field
    assert field.rpartition(".")[2] in error["message"]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": 5},
        {"role": "user", "content": {"text": "hi"}},
        {"role": "user", "content": [["hi"]]},
        {"role": "assistant", "tool_calls": 5},
        {"role": "assistant", "tool_calls": ["search"]},
        {"role": "assistant", "tool_calls": {"function": {}}},
    ],
)
def test_a_message_of_another_form_is_refused(client: TestClient, message: dict[str, Any]) -> None:
    response = client.post(CHAT, json=body(CHAT) | {"messages": [message]})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "messages")


def test_a_policy_is_no_orchestrator_of_a_gateway(client: TestClient) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    assert model["owned_by"] == "embedded"  # pages offer what is owned by "toolorch" as orchestrators


def test_text_completions_count_candidates_as_openais(client: TestClient) -> None:
    bare, none, three = (
        client.post(TEXT, json=body(TEXT, temperature=0, **options)).json()["choices"][0]["logprobs"]
        for options in ({}, {"logprobs": 0}, {"logprobs": 3})
    )
    assert bare is None
    assert len(none["token_logprobs"]) == 2
    assert none["top_logprobs"] == [{}, {}]
    assert [len(top) for top in three["top_logprobs"]] == [3, 3]
    assert [max(top.values()) for top in three["top_logprobs"]] == pytest.approx(three["token_logprobs"])
    assert three["text_offset"] == [0, len(three["tokens"][0])]


@pytest.mark.parametrize("broken", [Sampling(5, temperature=1e-42), Sampling(5, seed=2**70)])
def test_a_request_that_fails_takes_no_other_with_it(served: Served, client: TestClient, broken: Sampling) -> None:
    steps: dict[str, queue.SimpleQueue[Step | Exception]] = {"good": queue.SimpleQueue(), "bad": queue.SimpleQueue()}
    good = Request([5, 6, 7], Sampling(30, ignore_eos=True), steps["good"].put)
    served.engine.submit(good)
    served.engine.submit(Request([5, 6, 7], broken, steps["bad"].put))
    assert isinstance(steps["bad"].get(timeout=60), Exception)
    found = [steps["good"].get(timeout=60) for _ in range(30)]
    assert [step.finish for step in found if isinstance(step, Step)] == [None] * 29 + ["length"]


def test_an_answer_of_one_token_ends_with_it(served: Served, client: TestClient) -> None:
    steps: queue.SimpleQueue[Step | Exception] = queue.SimpleQueue()
    request = Request([5, 6, 7], Sampling(1, ignore_eos=True), steps.put)
    served.engine.submit(request)
    step = steps.get(timeout=60)
    assert isinstance(step, Step)
    assert step.finish == "length"
    served.engine.between_tokens(lambda: None).result(timeout=60)  # whatever was under way is done
    assert (steps.qsize(), len(request.tokens)) == (0, 1)


def test_a_client_that_waits_no_more_does_not_end_the_engine(served: Served, client: TestClient) -> None:
    engine, waits = served.engine, queue.SimpleQueue[None]()
    held = engine.between_tokens(lambda: waits.get(timeout=60))
    forgotten = [engine.between_tokens(lambda: None), engine.pause()]
    assert all(future.cancel() for future in forgotten)
    waits.put(None)
    held.result(timeout=60)
    assert engine.between_tokens(lambda: engine.paused).result(timeout=60) is False
    assert client.post(CHAT, json=body(CHAT)).status_code == 200


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return folders of an adapter that fits, and of some that do not."""
    folder = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    wrapped = get_peft_model(model, config)
    for name in ("fits", "half", "absent", "foreign"):
        wrapped.save_pretrained(str(folder / name))
    weights = load_file(folder / "fits/adapter_model.safetensors")
    half = {name: value[:, :-1].clone() if "down_proj" in name else value for name, value in weights.items()}
    save_file(half, folder / "half/adapter_model.safetensors")
    (folder / "absent/adapter_model.safetensors").unlink()
    foreign = {name.replace(".layers.", ".blocks."): value for name, value in weights.items()}
    save_file(foreign, folder / "foreign/adapter_model.safetensors")
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("other", [False, True], ids=["alone", "beside another"])
@pytest.mark.parametrize("broken", ["half", "absent", "foreign"])
def test_an_adapter_that_does_not_load_leaves_nothing_behind(
    adapters: dict[str, Path], broken: str, other: bool
) -> None:
    bare: Any = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    model = PolicyModel(bare.eval())
    prompt = [5, 6, 7]
    before = Batch(model).join(prompt)
    if other:
        model.load_adapter("other", str(adapters["fits"]))
    with pytest.raises((ValueError, RuntimeError)):
        model.load_adapter("new", str(adapters[broken]))
    assert model.adapters == (("other",) if other else ())
    torch.testing.assert_close(Batch(model).join(prompt), before)
    model.load_adapter("new", str(adapters["fits"]))
    changed = Batch(model).join(prompt, "new")
    assert not torch.allclose(changed, before, atol=1e-3)
    if other:
        torch.testing.assert_close(Batch(model).join(prompt, "other"), changed)
    for name in model.adapters:
        model.unload_adapter(name)
    assert not any("lora" in name for name, _ in bare.named_parameters())
    torch.testing.assert_close(Batch(model).join(prompt), before)
