"""Fixtures: a tiny policy, and real servers of it, each started once a session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny_policy as tiny
from toolorch_rl.weights import untie
from toolorch_serving.embedded import EmbeddedServer
from toolorch_serving.process import PolicyServerError
from toolorch_serving.vllm import VllmServer


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a policy of 0.4 M parameters that knows `tiny_policy.LESSONS` by heart."""
    folder = tmp_path_factory.mktemp("policies")
    # With an output head of its own, so that servers can reload it.
    return untie(tiny.build(folder / "tied"), folder / "tiny")


@pytest.fixture(scope="session")
def tiny_adapter(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a LoRA adapter for the tiny policy, with random weights."""
    return tiny.build_adapter(tmp_path_factory.mktemp("adapters") / "tiny-v1", tiny_policy)


@pytest.fixture(scope="session")
def embedded_server(tiny_policy: Path) -> Iterator[EmbeddedServer]:
    """The embedded engine serving the tiny policy in float32."""
    with EmbeddedServer(tiny_policy, dtype="float32", progress=False) as server:
        yield server


@pytest.fixture(scope="session")
def vllm_server(tiny_policy: Path) -> Iterator[VllmServer]:
    """A real vLLM serving the tiny policy in float32, adapters and training allowed. It takes 40 s to start."""
    try:
        server = VllmServer(tiny_policy, dtype="float32", max_model_len=2048, lora=True, training=True, progress=False)
    except PolicyServerError as error:
        if os.environ.get("TOOLORCH_REQUIRE_VLLM") == "1":
            raise
        pytest.skip(f"vLLM is missing: {error}")
    with server:
        yield server
