"""A policy server by whichever engine the machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from toolorch_serving.embedded.server import EmbeddedServer
from toolorch_serving.process import PolicyServerError, ServerProcess
from toolorch_serving.vllm import VllmServer, find_vllm


def policy_server(model: str | Path, *, engine: str = "auto", **options: Any) -> ServerProcess:
    """Return a server for `model`, to be used as a context manager (plain or asynchronous).

    Args:
        model: Folder or hub name of the policy.
        engine: vllm, embedded, or auto: vLLM where it is installed, else the embedded engine.
        options: Passed on to `VllmServer` or `EmbeddedServer`. But for `lora` and `training`, those that only one of
            them has may be given only with that engine.

    Returns:
        A server with `url` (ending in /v1), `name` and `engine`, serving while the context is open.

    Raises:
        PolicyServerError: There is no such engine, or it is not installed.

    Example:
        >>> with policy_server("policies/demo") as server:  # doctest: +SKIP
        ...     model = PolicyChatModel(base_url=server.url, model=server.name)
    """
    if chosen_engine(engine) == "vllm":
        return VllmServer(model, **options)
    # The embedded engine takes adapters, token ids and new weights at any time, without being prepared for it.
    for name in ("lora", "training"):
        options.pop(name, None)
    return EmbeddedServer(model, **options)


def chosen_engine(engine: str) -> Literal["vllm", "embedded"]:
    """Return the engine that `engine` (auto, vllm or embedded) stands for on this machine.

    Raises:
        PolicyServerError: There is no such engine.
    """
    if engine == "vllm":
        return "vllm"
    if engine == "embedded":
        return "embedded"
    if engine != "auto":
        raise PolicyServerError(f"engine is {engine!r}; it must be auto, vllm or embedded")
    try:
        find_vllm()
    except PolicyServerError:
        return "embedded"
    return "vllm"
