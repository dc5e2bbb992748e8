"""LoRA adapters, each version under a name of its own."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path

from toolorch_rl.weights.checkpoints import check_adapter
from toolorch_rl.weights.control import ServerControl
from toolorch_rl.weights.errors import ProbeError, WeightsError
from toolorch_rl.weights.probe import Probe, Reference
from toolorch_rl.weights.publisher import Connected, Published
from toolorch_rl.weights.reference import folder_logprobs

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class LoraPublisher(Connected):
    """Publishes adapters to vLLM or to the embedded engine.

    Old versions stay for the rollouts that began with them, and go when newer ones leave them behind. A name is never
    used for other weights: the prefix cache goes by the name (vllm#42125).

    Args:
        url: Of the server.
        name: Name of the bare policy.
        probe: Proves each swap.
        folder: The bare policy's folder, for references that are computed from folders; by default the one that the
            adapter names.
        max_staleness: How many versions behind the newest are still served. vLLM needs room for two more than that:
            `VllmServer(max_loras=max_staleness + 2)`.
        timeout: Seconds that a request to the server may take.

    Raises:
        WeightsError: The server cannot be reached, or does not serve `name`.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        probe: Probe,
        folder: str | Path | None = None,
        max_staleness: int = 2,
        timeout: float = 600,
    ) -> None:
        self._server = ServerControl(url, timeout=timeout)
        self._server.attach()
        self._name = name
        self._probe = probe
        self._folder = folder
        self._max_staleness = max_staleness
        models = self._server.models()
        if name not in models:
            raise WeightsError(f"{url} does not serve {name}, but {', '.join(models)}")
        # Of versions that another trainer left there, none is known to be good; they go as new ones come.
        self._versions = [model for model in models if model.startswith(f"{name}-")]
        self._current = name
        self._left: set[str] = set()  # versions that were refused, and could not be unloaded at once

    @property
    def current(self) -> str:
        """Name of the version that was published last, and passed its probe."""
        return self._current

    def publish(self, version: str, folder: str | Path, *, reference: Reference | None = None) -> Published:
        """Serve an adapter as NAME-VERSION. See `Publisher.publish`."""
        check_version(version)
        check_adapter(folder)
        name = f"{self._name}-{version}"
        reference = reference or folder_logprobs(folder, base=self._folder)
        served = self._server.models()
        if self._current not in served:  # The server was started again, and has lost what it was given.
            self._current, self._versions = self._name, [one for one in self._versions if one in served]
        self._left.intersection_update(served)
        before = self._server.sample(self._current, self._probe)
        started = time.perf_counter()
        try:
            if name not in served:  # A trainer that was killed may have loaded it.
                self._server.load_adapter(name, str(Path(folder).absolute()))
            seconds = time.perf_counter() - started
            result = self._probe.compare(self._server.sample(name, self._probe), before, reference)
        except Exception as error:
            self._take_back(name)
            if isinstance(error, ProbeError):
                raise ProbeError(f"{name} is not served: {error}. {self._current} stays") from error
            raise
        self._left.discard(name)
        self._versions = [*(other for other in self._versions if other != name), name]
        self._current = name
        return Published(version, name, name, seconds, result, self._drop_stale())

    def _take_back(self, name: str) -> None:
        """Unload a version that has not passed its probe; where that fails, it goes with the next version."""
        if name == self._current:
            return
        self._versions = [other for other in self._versions if other != name]
        self._left.add(name)
        with suppress(WeightsError):  # What went wrong first says more.
            self._server.unload_adapter(name)
            self._left.discard(name)

    def _drop_stale(self) -> tuple[str, ...]:
        stale, dropped = self._versions[: -(self._max_staleness + 1)], []
        for name in (*self._left, *stale):
            try:
                self._server.unload_adapter(name)
            except WeightsError:
                continue  # Requests still run on it: it goes with the next version.
            dropped.append(name)
        self._versions = [name for name in self._versions if name not in dropped]
        self._left.difference_update(dropped)
        return tuple(dropped)


def check_version(version: str) -> None:
    """Refuse what cannot be part of a model's name.

    Raises:
        WeightsError: It cannot.
    """
    if not _VERSION.fullmatch(version):
        raise WeightsError(f"version is {version!r}; it must be letters, digits, dots, underscores and hyphens")
