"""Weights from the trainer's GPU to the server's, without a disk between: by vLLM's own transfer engine.

Follows vLLM 0.32 (`vllm.distributed.weight_transfer`): vLLM has to be installed beside the trainer, and the server
started with `VllmServer(..., weight_transfer="nccl")` on another GPU than the trainer's, since NCCL takes no GPU twice.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolorch_integrations.tokens.reply import UNCERTAIN
from toolorch_rl.weights.control import ServerControl
from toolorch_rl.weights.errors import ProbeError, WeightsError
from toolorch_rl.weights.lora import check_version
from toolorch_rl.weights.probe import Answer, Probe, Reference
from toolorch_rl.weights.publisher import Connected, Published
from toolorch_rl.weights.reference import model_logprobs

Sender = Callable[[], None]
"""Sends all weights once; every process of the trainer calls it, the first one speaks to the server."""


class NcclPublisher(Connected):
    """Publishes the weights of a model in memory. Make one in every process of the trainer, and call it in all.

    The old weights are gone with the first byte, so a version that fails its probe cannot be taken back: publish
    again, or restart the server.

    Args:
        url: Of the server.
        name: Name that the policy is served under.
        model: The trainer's model, sharded by FSDP or whole.
        probe: Proves each swap.
        rank: This process's rank in the trainer.
        address: Address of the first process, as the server reaches it.
        timeout: Seconds that a request to the server may take.
        connect: Opens the connection; by default vLLM's.

    Raises:
        WeightsError: vLLM is not installed here, there is no GPU, or the server cannot be reached.
    """

    def __init__(
        self,
        url: str,
        name: str,
        model: Any,
        *,
        probe: Probe,
        rank: int = 0,
        address: str = "127.0.0.1",
        timeout: float = 600,
        connect: Callable[[ServerControl, Any, int, str, float], Sender] | None = None,
    ) -> None:
        self._server = ServerControl(url, timeout=timeout)
        self._name = name
        self._model = model
        self._probe = probe
        self._rank = rank
        self._current = name
        if rank == 0:
            self._server.attach()
            self._current = self._server.version() or name
        self._send = (connect or connect_nccl)(self._server, model, rank, address, timeout)

    @property
    def current(self) -> str:
        """Name of the version that was published last, and passed its probe."""
        return self._current

    def publish(self, version: str, folder: str | Path = "", *, reference: Reference | None = None) -> Published:
        """Serve the model as it is now; `folder` is not read. See `Publisher.publish`."""
        check_version(version)
        name = f"{self._name}-{version}"
        before = self._from_first(lambda: self._server.sample(self._name, self._probe))
        seconds = self._swap(name)
        now = self._from_first(lambda: self._server.sample(self._name, self._probe))
        try:
            # Sharded models compute together: every process takes part, and finds the same.
            result = self._probe.compare(now, before, reference or model_logprobs(self._model))
        except ProbeError as error:
            if self._rank == 0:
                self._server.set_version(f"{UNCERTAIN}{name}")
            raise ProbeError(f"{name}: {error}. Its weights are in the server: publish again, or restart it") from error
        self._current = name
        return Published(version, name, self._name, seconds, result)

    def _swap(self, name: str) -> float:
        started = time.perf_counter()
        if self._rank != 0:
            self._send()
        else:
            with self._server.drained():
                self._server.set_version(f"{UNCERTAIN}{name}")
                self._send()
                self._server.reset_prefix_cache()
                self._server.set_version(name)
        return time.perf_counter() - started

    def _from_first(self, ask: Callable[[], list[Answer]]) -> list[Answer]:
        """Return what the first process has asked the server, in all processes."""
        from torch import distributed

        shared = [ask() if self._rank == 0 else []]
        if distributed.is_available() and distributed.is_initialized():
            distributed.broadcast_object_list(shared, src=0)
        return shared[0]


def connect_nccl(server: ServerControl, model: Any, rank: int, address: str, timeout: float) -> Sender:
    """Join the server's workers in an NCCL group by vLLM's trainer engine.

    Raises:
        WeightsError: vLLM is not installed here, or there is no GPU.
    """
    try:
        import torch
        from vllm.distributed.weight_transfer.base import ModuleSource  # type: ignore[import-not-found]
        from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient  # type: ignore[import-not-found]
        from vllm.distributed.weight_transfer.factory import (  # type: ignore[import-not-found]
            WeightTransferTrainerFactory,
        )
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo  # type: ignore[import-not-found]
    except ImportError as error:
        raise WeightsError(
            f"NCCL needs vLLM beside the trainer ({error}): install it here, or publish through a folder "
            "(ReloadPublisher, LoraPublisher)"
        ) from error
    if not torch.cuda.is_available():
        raise WeightsError("NCCL needs a GPU in the trainer: publish through a folder (ReloadPublisher, LoraPublisher)")
    workers = server.world_size() if rank == 0 else 0
    init = NCCLTrainerInitInfo(
        master_address=address,
        master_port=_free_port(address) if rank == 0 else 0,  # Only the first process opens the group.
        world_size=workers + 1,
        rank=rank,
    )
    client = HTTPVLLMWeightSyncClient(server.url, timeout=timeout)
    engine = WeightTransferTrainerFactory.trainer_init(init, client=client, source=ModuleSource(model))
    return engine.send_weights  # type: ignore[no-any-return]


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
