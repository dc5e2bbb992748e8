"""Adapters in a running server, as a promotion needs them: published with a probe, and taken out by hand only."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from toolorch_rl.weights import (
    BFLOAT16,
    FLOAT32,
    LoraPublisher,
    Precision,
    Probe,
    Published,
    Reference,
    ServerControl,
    WeightsError,
    folder_logprobs,
)
from toolorch_rl.weights.probe import distance
from toolorch_rl.weights.publisher import Connected
from toolorch_serving.promotion.errors import PromotionError

_KEPT = 1_000_000
"""Versions that the publisher may leave behind before it drops one: never, since the incumbent may be an old one."""
_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between tries to take a version out."""


class ServedAdapters(Connected):
    """Versions of a policy in a server with LoRA: vLLM or the embedded engine.

    A version is known by the name that the server answers under, such as `orchestrator-v12`.

    Args:
        url: Of the server.
        name: The bare policy's name there.
        base: The bare policy's folder or hub name: the probe's log-probabilities are computed from it.
        precision: How well the server can agree with a trainer in float32, which decides what the probe allows and
            what it tells from rounding. None: found out, by what the server says as the bare policy. Servers do not say
            what they compute in, and that is what counts.

    Raises:
        WeightsError: The server cannot be reached.
    """

    def __init__(self, url: str, name: str, base: str | Path | None = None, precision: Precision | None = None) -> None:
        self.name = name
        self._url = url
        self._base = base
        self._precision = precision
        self._server = ServerControl(url, timeout=120)

    def publish(self, version: str, folder: Path) -> Published:
        """Serve an adapter under a version's name, and prove by a probe that the server answers with it.

        Raises:
            PromotionError: The name is not one of this policy's versions, or the folder holds no adapter.
            WeightsError: The adapter cannot be loaded, or the probe failed.
        """
        if not version.startswith(f"{self.name}-"):
            raise PromotionError(f"version {version!r} must begin with the policy's name: {self.name}-{version}")
        if not (folder / "adapter_config.json").is_file():
            raise PromotionError(
                f"{folder} holds no adapter (adapter_config.json): a canary needs both versions in one server, "
                "so train with an adapter (--lora-rank 16)"
            )
        return self._publisher.publish(version.removeprefix(f"{self.name}-"), folder)

    def serves(self, version: str) -> bool:
        """Return whether the server answers under a name."""
        return version in self._server.models()

    def retire(self, version: str) -> None:
        """Take a version out; the bare policy, and one that is not there, are left alone.

        A server keeps a version as long as requests use it: those of a canary end within seconds.

        Raises:
            WeightsError: It could not be taken out, on any of several tries.
        """
        if version == self.name or not self.serves(version):
            return
        for pause in _PAUSES:
            try:
                self._server.unload_adapter(version)
            except WeightsError:
                time.sleep(pause)
            else:
                return
        self._server.unload_adapter(version)

    def close(self) -> None:
        """Close the connections; the server goes on with what it has."""
        publisher: LoraPublisher | None = self.__dict__.get("_publisher")  # made with the first version
        if publisher is not None:
            publisher.close()
        super().close()

    @cached_property
    def _publisher(self) -> LoraPublisher:
        from transformers import AutoConfig

        if self._base is None:
            raise PromotionError("base is needed to publish an adapter: give the bare policy's folder (--base)")
        vocabulary = int(AutoConfig.from_pretrained(str(self._base)).get_text_config().vocab_size)
        probe = Probe.random(vocabulary)
        precision = self._precision or self._found_precision(probe, folder_logprobs(self._base))
        probe = replace(probe, precision=precision)
        return LoraPublisher(self._url, self.name, probe=probe, folder=self._base, max_staleness=_KEPT)

    def _found_precision(self, probe: Probe, bare: Reference) -> Precision:
        """Return the precision in which the server agrees with the bare policy's folder."""
        error = distance(self._server.sample(self.name, probe), bare)
        found = next((one for one in (FLOAT32, BFLOAT16) if error <= one.tolerance), None)
        if found is None:
            raise PromotionError(
                f"the server's {self.name} is not the policy in {self._base}: their log-probabilities differ by "
                f"{error:.2g}, and rounding explains {BFLOAT16.tolerance:g} at most. Give the folder that the server "
                "was started on (--base)"
            )
        return found
