"""All weights of a policy, replaced in a running server."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolorch_integrations.tokens.reply import UNCERTAIN
from toolorch_rl.weights.checkpoints import check_same_model, is_tied, untie
from toolorch_rl.weights.control import ServerControl
from toolorch_rl.weights.errors import ProbeError, WeightsError
from toolorch_rl.weights.lora import check_version
from toolorch_rl.weights.probe import Probe, Reference
from toolorch_rl.weights.publisher import Connected, Published
from toolorch_rl.weights.reference import folder_logprobs


class ReloadPublisher(Connected):
    """Publishes whole models to vLLM (started with `training=True`) or to the embedded engine, from a folder.

    Requests in flight end on the weights that they began with; those that come meanwhile wait. The server goes on
    under its name, and tells with sampled ids which version sampled them. A version that fails its probe is taken
    back: the folder before is loaded again.

    Args:
        url: Of the server.
        name: Name that the policy is served under.
        folder: What the server serves now: the folder that it was started on, or that of `version`.
        version: Version that it serves now; None: the one that it was started on.
        probe: Proves each swap.
        timeout: Seconds that a request to the server may take; longer than the longest answer.

    Raises:
        WeightsError: The server cannot be reached, has no controls, or cannot reload a tied output head.
    """

    def __init__(
        self,
        url: str,
        name: str,
        folder: str | Path,
        *,
        probe: Probe,
        version: str | None = None,
        timeout: float = 600,
    ) -> None:
        self._server = ServerControl(url, timeout=timeout)
        self._server.attach()
        self._name = name
        self._folder = Path(folder)
        self._probe = probe
        self._current = f"{name}-{version}" if version else name
        models = self._server.models()
        if name not in models:
            raise WeightsError(f"{url} does not serve {name}, but {', '.join(models)}")
        self._is_vllm = models[name].get("owned_by") == "vllm"
        refuse_tied_head(models[name].get("root"), self._is_vllm)
        if self._server.uncertain() or (self._server.version() or name) != self._current:
            self._swap(self._folder, self._current)  # A trainer was killed in the middle of it.

    @property
    def current(self) -> str:
        """Name of the version that was published last, and passed its probe."""
        return self._current

    def publish(self, version: str, folder: str | Path, *, reference: Reference | None = None) -> Published:
        """Serve a model. See `Publisher.publish`."""
        check_version(version)
        check_same_model(folder, self._folder)
        name = f"{self._name}-{version}"
        reference = reference or folder_logprobs(folder)
        before = self._server.sample(self._name, self._probe)
        started = time.perf_counter()
        self._swap(Path(folder), name)
        seconds = time.perf_counter() - started
        try:
            result = self._probe.compare(self._server.sample(self._name, self._probe), before, reference)
        except Exception as error:
            outcome = self._take_back()
            if isinstance(error, ProbeError):
                raise ProbeError(f"{name} was refused: {error}. {outcome}") from error
            raise
        self._folder, self._current = Path(folder), name
        return Published(version, name, self._name, seconds, result)

    def _take_back(self) -> str:
        """Load the folder before once more, and say what came of it."""
        try:
            self._swap(self._folder, self._current)
        except WeightsError as error:
            return f"{self._current} could not be loaded again: {error}"
        return f"It was taken back, and {self._current} is served again"

    def _swap(self, folder: Path, name: str) -> None:
        with _with_own_head(folder, self._is_vllm) as ready, self._server.drained():
            self._server.set_version(f"{UNCERTAIN}{name}")
            try:
                self._server.reload(str(ready.absolute()))
            except WeightsError as error:
                raise WeightsError(
                    f"{error}. Restart the server: a vLLM that failed to reload does not go on"
                ) from error
            self._server.set_version(None if name == self._name else name)


@contextmanager
def _with_own_head(folder: Path, is_vllm: bool) -> Iterator[Path]:
    """Give the folder, or a copy of it that holds the output head: vLLM loads a head only where there is one."""
    if not is_vllm or not is_tied(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix=".untied-", dir=folder.absolute().parent) as temporary:
        yield untie(folder, temporary)


def refuse_tied_head(root: object, is_vllm: bool) -> None:
    """Refuse a server that would keep its old output head.

    Args:
        root: What the server was started on, as it says; nothing is known of folders of other machines.
        is_vllm: Whether it is vLLM.

    Raises:
        WeightsError: It would.
    """
    folder = Path(str(root))
    if is_vllm and (folder / "config.json").is_file() and is_tied(folder):
        raise WeightsError(
            f"the server was started on {folder}, whose output head is tied to its embeddings, and would keep the old "
            "head. Start it on an untied copy: toolorch_rl.weights.untie(folder, into); or publish LoRA adapters"
        )
