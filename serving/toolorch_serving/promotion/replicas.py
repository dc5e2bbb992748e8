"""Several servers of one policy behind a balancer, as a promotion needs them: as one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from toolorch_integrations.errors import ToolorchError
from toolorch_rl.weights import Precision, Published
from toolorch_serving.promotion.served import ServedAdapters


class ServedReplicas:
    """Versions of a policy in each of several servers: a version serves only where every one of them has proven it.

    Args:
        urls: Of the servers themselves, not of the balancer.
        name: The bare policy's name there.
        base: The bare policy's folder or hub name.
        precision: See `ServedAdapters`.

    Raises:
        WeightsError: A server cannot be reached.
    """

    def __init__(
        self, urls: Sequence[str], name: str, base: str | Path | None = None, precision: Precision | None = None
    ) -> None:
        self._replicas = [ServedAdapters(url, name, base, precision) for url in urls]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for replica in self._replicas:
            replica.close()

    def publish(self, version: str, folder: Path) -> list[Published]:
        """Serve an adapter in every server, or in none.

        Raises:
            PromotionError: The name or the folder cannot be used.
            WeightsError: A server cannot load it, or its probe failed; those that had loaded it have let go of it.
        """
        done: list[Published] = []
        try:
            done.extend(replica.publish(version, folder) for replica in self._replicas)
        except ToolorchError:
            for replica in self._replicas[: len(done)]:
                with contextlib.suppress(ToolorchError):  # the first error is the one that counts
                    replica.retire(version)
            raise
        return done

    def serves(self, version: str) -> bool:
        """Return whether every server answers under a name."""
        return all(replica.serves(version) for replica in self._replicas)

    def retire(self, version: str) -> None:
        """Take a version out of every server.

        Raises:
            WeightsError: One could not be reached; the others have let go of it.
        """
        failed: ToolorchError | None = None
        for replica in self._replicas:
            try:
                replica.retire(version)
            except ToolorchError as error:
                failed = failed or error
        if failed is not None:
            raise failed
