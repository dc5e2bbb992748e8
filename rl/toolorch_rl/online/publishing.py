"""Each step's weights to the policy server, beside the training."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from toolorch_rl.rollouts.errors import RolloutError
from toolorch_rl.training.checkpoints import reason_not_written
from toolorch_rl.training.plan import Plan
from toolorch_rl.weights import ProbeError, Published, Publisher, WeightsError, model_logprobs
from toolorch_rl.weights.probe import Reference

logger = logging.getLogger(__name__)

_TRIES = 3


class WeightStream:
    """Publishes versions one after the other in a thread of its own; a newer one waits for the one before.

    What is saved are the trainer's weights at that moment, and training goes on meanwhile. The server is then probed
    against the saved weights; without `background`, against the trainer's model itself. Where the server cannot be
    reached, as when it has just died, the next version is tried, three times in a row at most; a version that the probe
    refuses ends it at once.

    Args:
        publisher: Knows the server.
        folder: Where versions are saved; by default a temporary folder. Whatever else lies there is left alone.
        keep: How many of the newest versions that are served stay in the folder: as many as the server may still have
            to read. 6 is for adapters and the default `max_staleness` of 4.
        background: Publish beside the training; False waits for each version.
        mark: What the versions' names end in. A server may still hold versions that a trainer which was killed has
            published, and a name must never stand for other weights.
        training: Output folder of the training, whose plan says what the versions were trained on.

    Raises:
        RolloutError: `keep` is less than 1.
    """

    def __init__(
        self,
        publisher: Publisher,
        folder: Path | None = None,
        *,
        keep: int = 6,
        background: bool = True,
        mark: str = "",
        training: Path | None = None,
    ) -> None:
        if keep < 1:
            raise RolloutError(f"keep is {keep}: the version that is served has to stay, so it must be at least 1")
        self._publisher = publisher
        self._own = tempfile.TemporaryDirectory(prefix="toolorch-versions-") if folder is None else None
        self._folder = Path(self._own.name) if self._own is not None else Path(folder or ".")
        self._keep = keep
        self._background = background
        self._mark = mark
        self._training = training
        self._marks = [mark] if mark else []  # without one nobody can tell versions from the user's own folders
        self._saved: list[Path] = []
        self._served: list[Path] = []
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._unreached = 0
        self._published: Published | None = None
        self.number = 0
        self.seconds = 0.0
        """How long the last version took from its step to being served."""

    @property
    def model(self) -> str | None:
        """Name to ask the server for; None before the first version."""
        return None if self._published is None else self._published.model

    @property
    def name(self) -> str | None:
        """What traces call the newest version that is served."""
        return None if self._published is None else self._published.name

    @property
    def marks(self) -> list[str]:
        """The marks of all versions of this run, for `restore`."""
        return list(self._marks)

    def send(self, step: int, model: Any) -> None:
        """Publish the weights of a step.

        Raises:
            RolloutError: The version before was refused by the probe, or could not be swapped in; there is more
                than one training process; or the version's folder is there already, or cannot be written.
        """
        refuse_several_processes()
        self.wait()
        began = time.monotonic()
        version = f"v{step}{self._mark}"
        folder = self._folder / version
        if folder.exists():
            raise RolloutError(f"{folder} is there already, and would be written over: give another folder or `mark`")
        self._saved.append(folder)
        self._save(model, folder)
        if not self._background:
            self._publish(version, folder, model_logprobs(model), began)
            self.wait()
            return
        self._thread = threading.Thread(
            target=self._publish, args=(version, folder, None, began), name="publish", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait for the version on its way.

        Raises:
            RolloutError: It was refused.
        """
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise RolloutError(f"the new weights are not served: {error}") from error

    def again(self) -> None:
        """Serve the newest version once more: a server that was started again has lost it."""
        with self._lock:
            if self._published is not None:
                self._published = self._publisher.publish(self._published.version, self._served[-1])

    def restore(self, marks: Iterable[str]) -> None:
        """Take over the versions that this run saved before it was resumed: they go as new ones come."""
        for mark in marks:
            if mark in self._marks or not self._folder.is_dir():
                continue
            self._marks.append(mark)
            name = re.compile(rf"v\d+{re.escape(mark)}")
            found = [path for path in self._folder.iterdir() if name.fullmatch(path.name)]
            found.sort(key=lambda path: path.stat().st_mtime)
            self._saved += found
            self._served += found

    def close(self) -> None:
        """Let the version on its way end, and remove a temporary folder; the server goes on with what it has."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            logger.warning(
                "the newest weights are not served, but %s: %s", self.name or "those from before", self._error
            )
            self._error = None
        if self._own is not None:
            self._own.cleanup()

    def _save(self, model: Any, folder: Path) -> None:
        try:
            model.save_pretrained(str(folder))
            if self._training is not None:
                Plan.after(self._training).write(folder)
        except Exception as error:
            reason = reason_not_written(error, self._folder)
            if reason is None:
                raise
            shutil.rmtree(folder, ignore_errors=True)
            raise RolloutError(
                f"version {folder.name} cannot be saved: {reason}; make room, or name another folder (versions), and "
                "give the same command again"
            ) from error

    def _publish(self, version: str, folder: Path, reference: Reference | None, began: float) -> None:
        try:
            with self._lock:
                self._published = self._publisher.publish(version, folder, reference=reference)
                self._served.append(folder)
                self._unreached = 0
        except BaseException as error:
            self._unreached += 1
            passing = isinstance(error, WeightsError) and not isinstance(error, ProbeError)
            if not passing or self._unreached >= _TRIES:
                self._error = error
            else:
                logger.warning("version %s is not served: %s", version, error)
            return
        self.number += 1
        self.seconds = time.monotonic() - began
        self._drop_old()

    def _drop_old(self) -> None:
        """Remove what this run has saved and the server needs no more; nothing else, for the folder is the user's."""
        self._served = self._served[-self._keep :]
        for folder in set(self._saved).difference(self._served):
            shutil.rmtree(folder, ignore_errors=True)
        self._saved = [folder for folder in self._saved if folder.exists()]


def refuse_several_processes() -> None:
    """Refuse to publish from one of several training processes: each would, and of sharded weights only its part.

    Raises:
        RolloutError: There are several.
    """
    from torch import distributed

    # Before the trainer has joined the processes, their launcher's variable says how many there are.
    joined = distributed.is_available() and distributed.is_initialized()
    number = distributed.get_world_size() if joined else int(os.environ.get("WORLD_SIZE") or 1)
    if number > 1:
        raise RolloutError(
            f"online training publishes from one process, and there are {number}: start it with one (accelerate launch "
            "--num_processes 1), or capture runs and train with method=replay, which takes several"
        )
