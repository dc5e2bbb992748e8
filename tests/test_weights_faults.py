"""Servers that fail while they take weights: what is in them afterwards, and which error is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolorch_rl.weights import LoraPublisher, Probe, ProbeError, ReloadPublisher, WeightsError

PROBE = Probe.random(10, prompts=1, length=4)


class Server(ThreadingHTTPServer):
    """Takes weights as a policy server does, but holds none: weights are a number, which every log-probability is.

    Attributes:
        folders: What is served, by name: the folder, whose name is the number.
        version: Name of the weights.
        fails: Requests that are answered with 500: a path, and the model or folder that it is about.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folders = {"policy": str(folder)}
        self.version = "default"
        self.fails: set[tuple[str, str]] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """Answer a request; None: with 500."""
        about = str(body.get("model") or body.get("lora_name") or body.get("kwargs", {}).get("weights_path") or "")
        if (path, about) in self.fails:
            return None
        match path:
            case "/v1/models":
                return {"data": [{"id": name} for name in self.folders]}
            case "/v1/load_lora_adapter":
                self.folders[about] = body["lora_path"]
            case "/v1/unload_lora_adapter":
                del self.folders[about]
            case "/v1/completions":
                number = -float(Path(self.folders[about]).name)
                ids = [1] * body["max_tokens"]
                return {"choices": [{"token_ids": ids, "logprobs": {"token_logprobs": [number] * len(ids)}}]}
            case "/collective_rpc":
                self.folders["policy"] = about
            case "/update_weight_version":
                self.version = body["new_version"]
            case "/weight_info":
                return {"weight_version": self.version}
        return {"is_paused": False, "success": True}


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        found = self.server.answer(self.path.partition("?")[0], body)
        content = json.dumps({"error": "out of memory"} if found is None else found).encode()
        self.send_response(500 if found is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def weights(folder: Path) -> Path:
    """Write what looks like a model and like an adapter."""
    folder.mkdir()
    header = json.dumps({"model.embed_tokens.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(4)
    (folder / "adapter_model.safetensors").write_bytes(content)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "config.json").write_text("{}")
    return folder


def trainer(number: float) -> Any:
    """Return the reference of a trainer whose weights are a number."""

    def logprobs(sequences: Sequence[Sequence[int]]) -> list[Any]:
        return [np.full(len(ids) - 1, -number) for ids in sequences]

    return logprobs


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server whose weights are 0."""
    with Server(weights(tmp_path / "0")) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


COMPLETIONS, UNLOAD, RELOAD = "/v1/completions", "/v1/unload_lora_adapter", "/collective_rpc"


class TestLora:
    @pytest.mark.parametrize("path", [COMPLETIONS, "/v1/load_lora_adapter"])
    def test_a_version_that_cannot_be_probed_does_not_stay(self, server: Server, tmp_path: Path, path: str) -> None:
        server.fails = {(path, "policy-v1")}
        with LoraPublisher(server.url, "policy", probe=PROBE) as publisher:
            with pytest.raises(WeightsError, match="answered 500") as found:
                publisher.publish("v1", weights(tmp_path / "1"), reference=trainer(1))
            assert not isinstance(found.value, ProbeError)  # the next version may go through
            assert (list(server.folders), publisher.current) == (["policy"], "policy")
            publisher.publish("v2", weights(tmp_path / "2"), reference=trainer(2))
            assert (list(server.folders), publisher.current) == (["policy", "policy-v2"], "policy-v2")

    def test_one_that_is_refused_is_told_so_though_it_cannot_be_unloaded_and_goes_later(
        self, server: Server, tmp_path: Path
    ) -> None:
        server.fails = {(UNLOAD, "policy-v1")}
        with LoraPublisher(server.url, "policy", probe=PROBE) as publisher:
            with pytest.raises(ProbeError, match="policy-v1 is not served"):
                publisher.publish("v1", weights(tmp_path / "1"), reference=trainer(7))
            assert list(server.folders) == ["policy", "policy-v1"]
            server.fails = set()
            published = publisher.publish("v2", weights(tmp_path / "2"), reference=trainer(2))
            assert published.dropped == ("policy-v1",)
            assert list(server.folders) == ["policy", "policy-v2"]


class TestReload:
    def test_one_that_cannot_be_probed_is_taken_back(self, server: Server, tmp_path: Path) -> None:
        new = weights(tmp_path / "1")
        with ReloadPublisher(server.url, "policy", tmp_path / "0", probe=PROBE) as publisher:
            answered = publisher._server.sample
            publisher._server.sample = _second_fails(answered)  # type: ignore[method-assign]
            with pytest.raises(WeightsError, match="did not answer") as found:
                publisher.publish("v1", new, reference=trainer(1))
        assert not isinstance(found.value, ProbeError)
        assert server.folders == {"policy": str(tmp_path / "0")}
        assert server.version == "default"

    def test_one_that_is_refused_is_told_so_though_the_folder_before_cannot_be_loaded(
        self, server: Server, tmp_path: Path
    ) -> None:
        server.fails = {(RELOAD, str(tmp_path / "0"))}
        new, refused = weights(tmp_path / "1"), r"policy-v1 was refused.*policy could not be loaded again"
        with (
            ReloadPublisher(server.url, "policy", tmp_path / "0", probe=PROBE) as publisher,
            pytest.raises(ProbeError, match=refused),
        ):
            publisher.publish("v1", new, reference=trainer(7))
        assert server.version == "swapping:policy"  # nobody takes its answers for a version's


def _second_fails(sample: Any) -> Any:
    answers = iter([sample])

    def failing(model: str, probe: Probe) -> Any:
        for ask in answers:
            return ask(model, probe)
        raise WeightsError("the server did not answer within 600 s")

    return failing
