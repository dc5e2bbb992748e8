"""New versions in running servers: swapped in, proven and named, or refused and taken back."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import tiny_policy as tiny
from tests.policy_client import PolicyClient
from tests.tiny_policy import TOOLS, user
from toolorch_integrations.tokens import TokenTransport
from toolorch_rl.weights import (
    LoraPublisher,
    NcclPublisher,
    Probe,
    ProbeError,
    ReloadPublisher,
    ServerControl,
    WeightsError,
    folder_logprobs,
    model_logprobs,
    untie,
)
from toolorch_rl.weights.checkpoints import check_same_model, is_tied
from toolorch_rl.weights.nccl import connect_nccl
from toolorch_rl.weights.probe import Answer, Reference
from toolorch_rl.weights.reload import refuse_tied_head
from toolorch_serving.process import ServerProcess

PROBE = Probe.random(350)
ENGINES = ["embedded_server", pytest.param("vllm_server", marks=pytest.mark.vllm)]


@pytest.fixture(params=ENGINES)
def server(request: pytest.FixtureRequest, tiny_policy: Path) -> Iterator[ServerProcess]:
    """A running server that is given back as it was."""
    running: ServerProcess = request.getfixturevalue(request.param)
    yield running
    control = ServerControl(running.url)
    for name in list(control.models())[1:]:
        control.unload_adapter(name)
    ReloadPublisher(running.url, running.name, tiny_policy, probe=PROBE)  # Takes the first version back.
    assert control.version() is None


def changed(folder: Path, into: Path, *, by: float = 0.02, seed: int = 3) -> Any:
    """Write a model whose weights have moved, and return it."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * by)
    shutil.copytree(folder, into)
    model.save_pretrained(into)
    return model


@pytest.fixture(scope="module")
def second(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("versions") / "second"
    changed(tiny_policy, folder)
    return folder


class TestLora:
    def test_versions_come_with_names_of_their_own_and_stale_ones_go(
        self, server: ServerProcess, tiny_policy: Path, tmp_path: Path
    ) -> None:
        publisher = LoraPublisher(server.url, server.name, probe=PROBE, folder=tiny_policy, max_staleness=1)
        client = PolicyClient(server)
        for number in range(1, 4):
            adapter = tiny.build_adapter(tmp_path / f"v{number}", tiny_policy, seed=number)
            published = publisher.publish(f"v{number}", adapter)
            assert published.name == published.model == publisher.current == f"{server.name}-v{number}"
            assert published.probe.error < 1e-4 < 0.05 < published.probe.moved
            reply = client.ask(user("hello"), model=published.model, max_tokens=8)
            expected = tiny.logprobs(tiny.adapted(tiny_policy, adapter), reply)
            assert reply.logprobs == pytest.approx(expected, abs=1e-3)
        assert published.dropped == (f"{server.name}-v1",)
        assert list(ServerControl(server.url).models()) == [server.name, f"{server.name}-v2", f"{server.name}-v3"]

    def test_requests_in_flight_end_on_the_version_they_began_with(
        self, server: ServerProcess, tiny_policy: Path, tmp_path: Path
    ) -> None:
        publisher = LoraPublisher(server.url, server.name, probe=PROBE, folder=tiny_policy, max_staleness=3)
        old, new = (tiny.build_adapter(tmp_path / name, tiny_policy, seed=seed) for name, seed in (("a", 5), ("b", 6)))
        publisher.publish("a", old)
        client, replies = PolicyClient(server), []
        options = {"model": f"{server.name}-a", "max_tokens": 300, "ignore_eos": True}
        thread = threading.Thread(target=lambda: replies.append(client.stream(user("hello"), **options)))
        thread.start()
        publisher.publish("b", new)
        thread.join()
        assert {event["model"] for event in replies[0].events} == {f"{server.name}-a"}
        assert replies[0].logprobs == pytest.approx(tiny.logprobs(tiny.adapted(tiny_policy, old), replies[0]), abs=1e-3)

    def test_one_that_is_not_what_the_trainer_has_is_not_served(
        self, server: ServerProcess, tiny_policy: Path, tmp_path: Path
    ) -> None:
        publisher = LoraPublisher(server.url, server.name, probe=PROBE, folder=tiny_policy)
        adapter = tiny.build_adapter(tmp_path / "v1", tiny_policy, seed=1)
        other = model_logprobs(tiny.adapted(tiny_policy, tiny.build_adapter(tmp_path / "other", tiny_policy, seed=2)))
        with pytest.raises(ProbeError, match=f"{server.name}-v1 is not served"):
            publisher.publish("v1", adapter, reference=other)
        assert publisher.current == server.name
        assert list(ServerControl(server.url).models()) == [server.name]
        # Nothing stands in the way of the same version, once it is right.
        assert publisher.publish("v1", adapter).probe.told_apart

    def test_a_server_that_has_lost_its_adapters_gets_the_newest_again(
        self, server: ServerProcess, tiny_policy: Path, tmp_path: Path
    ) -> None:
        publisher = LoraPublisher(server.url, server.name, probe=PROBE, folder=tiny_policy)
        adapter = tiny.build_adapter(tmp_path / "v1", tiny_policy, seed=1)
        name = publisher.publish("v1", adapter).name
        control = ServerControl(server.url)
        control.unload_adapter(name)  # as when it was started again
        assert publisher.publish("v1", adapter).probe.told_apart
        assert publisher.current == name
        assert list(control.models()) == [server.name, name]

    def test_an_adapter_that_changes_nothing_is_told(
        self, server: ServerProcess, tiny_policy: Path, tmp_path: Path
    ) -> None:
        adapter = tiny.build_adapter(tmp_path / "v1", tiny_policy)
        _scale(adapter, 0.0)
        published = LoraPublisher(server.url, server.name, probe=PROBE, folder=tiny_policy).publish("v1", adapter)
        assert not published.probe.told_apart
        assert published.probe.error < 1e-4


class TestReload:
    def test_all_weights_are_replaced_and_the_version_is_told(self, server: ServerProcess, second: Path) -> None:
        publisher = ReloadPublisher(server.url, server.name, server.model, probe=PROBE)
        published = publisher.publish("v1", second)
        assert (published.name, published.model) == (f"{server.name}-v1", server.name)
        assert published.probe.error < 1e-4 < 0.05 < published.probe.moved
        with httpx.Client(base_url=server.root_url, transport=TokenTransport(), timeout=60) as client:
            body = {"model": server.name, "messages": user("hello"), "max_tokens": 4}
            assert client.post("/v1/chat/completions", json=body).json()["model"] == f"{server.name}-v1"

    def test_requests_in_flight_end_first_and_others_wait(
        self, server: ServerProcess, tiny_policy: Path, second: Path
    ) -> None:
        publisher = ReloadPublisher(server.url, server.name, tiny_policy, probe=PROBE)
        client, replies = PolicyClient(server), []
        options = {"max_tokens": 300, "ignore_eos": True, "temperature": 1, "seed": 1}
        threads = [
            threading.Thread(target=lambda: replies.append(client.stream(user("hello"), **options))) for _ in range(3)
        ]
        for thread in threads[:2]:
            thread.start()
        _wait_until_busy(server)
        swap = threading.Thread(target=lambda: publisher.publish("v1", second))
        swap.start()
        control = ServerControl(server.url)
        while swap.is_alive() and not control.is_paused():  # a quick swap may be over before anybody sees it
            time.sleep(0.005)
        threads[2].start()
        for thread in (*threads, swap):
            thread.join()
        old, new = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tiny_policy, second))
        behind = [np.abs(np.subtract(reply.logprobs, tiny.logprobs(old, reply))).max() < 1e-3 for reply in replies]
        ahead = [np.abs(np.subtract(reply.logprobs, tiny.logprobs(new, reply))).max() < 1e-3 for reply in replies]
        assert sorted(zip(behind, ahead, strict=True)) == [(False, True), (True, False), (True, False)]

    def test_one_that_fails_its_probe_is_taken_back(
        self, server: ServerProcess, tiny_policy: Path, second: Path
    ) -> None:
        publisher = ReloadPublisher(server.url, server.name, tiny_policy, probe=PROBE)
        right = folder_logprobs(second)
        with pytest.raises(ProbeError, match="was taken back"):
            publisher.publish("v1", second, reference=lambda ids: [values + 0.01 for values in right(ids)])
        assert publisher.current == server.name
        control = ServerControl(server.url)
        assert _answers_with(control, server, tiny_policy)
        assert (control.version(), control.is_paused()) == (None, False)

    def test_a_swap_that_was_killed_is_finished_by_the_next_trainer(
        self, server: ServerProcess, tiny_policy: Path, second: Path
    ) -> None:
        control = ServerControl(server.url)
        control.pause()
        control.set_version(f"swapping:{server.name}-v1")
        control.reload(str(second))
        # Now the trainer is killed. Nobody would be answered, and the server's health is good.
        assert httpx.get(f"{server.root_url}/health", trust_env=False).status_code == 200
        assert ReloadPublisher(server.url, server.name, tiny_policy, probe=PROBE).current == server.name
        assert (control.is_paused(), control.version()) == (False, None)
        assert _answers_with(control, server, tiny_policy)

    def test_a_paused_server_goes_on_when_a_trainer_attaches(self, server: ServerProcess) -> None:
        ServerControl(server.url).pause()
        LoraPublisher(server.url, server.name, probe=PROBE)
        assert PolicyClient(server).ask(user("hello"), max_tokens=1).tokens

    def test_a_tied_head_is_written_out_first(self, server: ServerProcess, tiny_policy: Path, tmp_path: Path) -> None:
        tied = tmp_path / "tied"
        tiny.build(tied, ())
        tokens = AutoTokenizer.from_pretrained(tiny_policy)
        assert len(tokens) == len(AutoTokenizer.from_pretrained(tied))
        publisher = ReloadPublisher(server.url, server.name, tiny_policy, probe=PROBE)
        assert publisher.publish("tied", tied).probe.error < 1e-4
        assert [path.name for path in tmp_path.iterdir()] == ["tied"]

    @pytest.mark.parametrize("harm", ["missing", "cut", "shape", "name"])
    def test_weights_that_do_not_fit_never_reach_the_server(
        self, server: ServerProcess, tiny_policy: Path, second: Path, tmp_path: Path, harm: str
    ) -> None:
        """A vLLM that fails to load weights ends."""
        folder, version = tmp_path / "bad", "v1"
        shutil.copytree(second, folder)
        if harm == "missing":
            (folder / "model.safetensors").unlink()
        elif harm == "cut":
            path = folder / "model.safetensors"
            path.write_bytes(path.read_bytes()[:-1000])
        elif harm == "shape":
            config = AutoModelForCausalLM.from_pretrained(second).config
            config.intermediate_size = 64
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        else:
            version = "a/b"
        publisher = ReloadPublisher(server.url, server.name, tiny_policy, probe=PROBE)
        with pytest.raises(WeightsError, match=r"save_pretrained|damaged|down_proj|version is"):
            publisher.publish(version, folder)
        assert publisher.current == server.name
        assert PolicyClient(server).ask(user("hello"), max_tokens=1).tokens


def _answers_with(control: ServerControl, server: ServerProcess, folder: Path) -> bool:
    answers = control.sample(server.name, PROBE)
    return not PROBE.compare(answers, answers, folder_logprobs(folder)).told_apart


def _scale(adapter: Path, by: float) -> None:
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file({name: value * by for name, value in load_file(path).items()}, path)


def _wait_until_busy(server: ServerProcess) -> None:
    """Return when a request that began after two others has got its first token."""
    PolicyClient(server).ask(user("hello"), max_tokens=2, ignore_eos=True)


def answer(logprobs: Any, *ids: int) -> list[Answer]:
    return [Answer((1, 2, *(ids or (3, 4, 5, 6))), np.asarray(logprobs, float))]


def trainer(logprobs: Any) -> Reference:
    """Return a reference that gives the same numbers for whatever was sampled."""
    return lambda sequences: [np.concatenate([[0.0], logprobs]) for _ in sequences]


class TestProbe:
    before, after = np.zeros(4), np.linspace(0.1, 0.2, 4)

    def test_passes_for_the_new_weights(self) -> None:
        result = PROBE.compare(answer(self.after + 1e-6), answer(self.before), trainer(self.after))
        assert result.told_apart
        assert result.error == pytest.approx(1e-6)

    @pytest.mark.parametrize("moved", [0.2, 5e-4, 2e-4])
    def test_fails_for_the_old_weights_however_little_they_have_moved(self, moved: float) -> None:
        with pytest.raises(ProbeError, match="from before"):
            PROBE.compare(answer(self.before), answer(self.before), trainer(self.after * moved))

    def test_fails_for_weights_of_which_a_part_stayed_behind(self) -> None:
        with pytest.raises(ProbeError, match="does not answer with the weights"):
            PROBE.compare(answer(self.after * 0.9), answer(self.before, 7, 7, 7, 7), trainer(self.after))
        with pytest.raises(ProbeError, match="does not answer with the weights"):  # Within the tolerance.
            PROBE.compare(answer(self.after * 4e-4), answer(self.before), trainer(self.after * 1e-3))

    def test_fails_for_what_is_not_a_number(self) -> None:
        with pytest.raises(ProbeError, match="does not answer"):
            PROBE.compare(answer(self.after * np.nan), answer(self.before), trainer(self.after))

    def test_says_when_there_is_nothing_to_tell_apart(self) -> None:
        assert not PROBE.compare(answer(self.before), answer(self.before), trainer(self.before)).told_apart


class TestUntied:
    def test_a_copy_computes_the_same_with_a_head_of_its_own(self, tmp_path: Path) -> None:
        source = tiny.build(tmp_path / "tied", ())
        copy = untie(source, tmp_path / "copy")
        assert is_tied(source)
        assert not is_tied(copy)
        left, right = (np.stack(folder_logprobs(folder)(PROBE.prompts)) for folder in (source, copy))
        assert np.array_equal(left, right)
        check_same_model(source, copy)
        model = AutoModelForCausalLM.from_pretrained(copy)
        assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()

    def test_a_sharded_model_is_untied_as_well(self, tmp_path: Path) -> None:
        source = tiny.build(tmp_path / "whole", ())
        AutoModelForCausalLM.from_pretrained(source).save_pretrained(tmp_path / "tied", max_shard_size="300KB")
        copy = untie(tmp_path / "tied", tmp_path / "copy")
        left, right = (np.stack(folder_logprobs(folder)(PROBE.prompts)) for folder in (source, copy))
        assert np.array_equal(left, right)
        assert len(list(copy.glob("*.safetensors"))) > 1

    def test_a_vllm_that_was_started_on_a_tied_one_is_refused_with_the_fix(self, tmp_path: Path) -> None:
        source = tiny.build(tmp_path / "tied", ())
        with pytest.raises(WeightsError, match="untie"):
            refuse_tied_head(str(source), True)
        refuse_tied_head(str(source), False)
        refuse_tied_head(str(untie(source, tmp_path / "copy")), True)
        refuse_tied_head("/on/another/machine", True)


class TestNccl:
    """The group itself needs two GPUs; what stands around it is the same for any sender."""

    def test_weights_are_sent_while_the_server_is_drained(
        self, embedded_server: Any, tiny_policy: Path, second: Path
    ) -> None:
        model = AutoModelForCausalLM.from_pretrained(second, dtype=torch.float32)
        paused: list[bool] = []

        def connect(control: ServerControl, sent: Any, *_: Any) -> Any:
            def send() -> None:
                assert sent is model
                paused.append(control.is_paused())
                control.reload(str(second))

            return send

        publisher = NcclPublisher(embedded_server.url, embedded_server.name, model, probe=PROBE, connect=connect)
        try:
            published = publisher.publish("v1")
            assert published.name == publisher.current == f"{embedded_server.name}-v1"
            assert paused == [True]
        finally:
            ReloadPublisher(embedded_server.url, embedded_server.name, tiny_policy, probe=PROBE)

    def test_what_is_missing_here_is_told(self, embedded_server: Any) -> None:
        with pytest.raises(WeightsError, match="NCCL needs"):
            connect_nccl(ServerControl(embedded_server.url), None, 0, "127.0.0.1", 5)


def test_a_server_that_is_not_there_or_serves_something_else_is_told(embedded_server: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be reached"):
        LoraPublisher("http://127.0.0.1:9/v1", "policy", probe=PROBE)
    with pytest.raises(WeightsError, match=f"does not serve other, but {embedded_server.name}"):
        LoraPublisher(embedded_server.url, "other", probe=PROBE)
    with pytest.raises(WeightsError, match=r"adapter_config\.json"):
        LoraPublisher(embedded_server.url, embedded_server.name, probe=PROBE).publish("v1", tmp_path)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("engine", ENGINES)
def test_server_and_trainer_agree_on_log_probabilities(
    request: pytest.FixtureRequest, tiny_policy: Path, engine: str, temperature: float
) -> None:
    """Fails when the server's mode changes, or its template: training would go by ratios that are wrong."""
    client = PolicyClient(request.getfixturevalue(engine))
    model = AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    error = other_mode = 0.0
    for seed, words in enumerate(("find", "hello", "something that it has never heard")):
        reply = client.ask(user(words), tools=TOOLS, temperature=temperature, seed=seed, max_tokens=40)
        rendered = tokenizer.apply_chat_template(user(words), tools=TOOLS, add_generation_prompt=True, tokenize=True)
        assert reply.prompt == list(rendered["input_ids"])
        with torch.inference_mode():
            logits = model(torch.tensor([reply.prompt + reply.tokens])).logits[0, len(reply.prompt) - 1 : -1]
        at = torch.tensor(reply.tokens)[:, None]
        processed, raw = ((logits / t).log_softmax(-1).gather(1, at)[:, 0].numpy() for t in (temperature, 1.0))
        error = max(error, float(np.abs(processed - reply.logprobs).max()))
        other_mode = max(other_mode, float(np.abs(raw - reply.logprobs).max()))
    assert error < 1e-3
    assert (other_mode > 0.05) == (temperature != 1.0)  # raw_logprobs are those of temperature 1.


def test_a_probe_is_the_same_in_every_process() -> None:
    assert Probe.random(350) == PROBE
    assert len(PROBE.prompts) == 4
    assert Probe.random(350, seed=1) != PROBE
