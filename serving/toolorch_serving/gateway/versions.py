"""Policy versions as the gateway sees them: who serves, what was decided, and decisions by hand.

A decision by hand is a record among those of promotions, with its reason: whatever routes by them follows it.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from toolorch_integrations.versions import Routes, VersionRouter
from toolorch_serving.gateway.errors import ConflictError
from toolorch_serving.gateway.policy_client import PolicyClient
from toolorch_serving.promotion.ending import following, roll_back
from toolorch_serving.promotion.errors import PromotionError
from toolorch_serving.promotion.records import PromotionRecord, PromotionRecords, Step


class Versions:
    """The versions of one policy.

    Attributes:
        router: Follows the record without ever waiting for the database; `refresh` has to be called now and then.

    Args:
        records: The record of promotions.
        upstream: The policy server.
        initial: Version that serves before anything was promoted.

    Raises:
        StoreError: The record cannot be read.
    """

    def __init__(self, records: PromotionRecords, upstream: PolicyClient, initial: str) -> None:
        self._records = records
        self._upstream = upstream
        self._initial = initial
        self._routes = records.routes(initial)
        self.router = VersionRouter(lambda: self._routes, refresh=0.0)

    def refresh(self) -> Routes:
        """Read the record; the router goes by it from now on.

        Raises:
            StoreError: It cannot be read now; the routes that were read last hold.
        """
        self._routes = self._records.routes(self._initial)
        return self._routes

    def history(self, limit: int) -> list[PromotionRecord]:
        """Return the newest steps of all promotions, newest first.

        Raises:
            StoreError: The record cannot be read now.
        """
        return self._records.history(limit)[::-1]

    def promote(self, version: str, reason: str, who: str) -> PromotionRecord:
        """Let a version serve from now on.

        Args:
            version: Name that the server answers under: the candidate on its way, or any other.
            reason: Why, in words.
            who: Decides it.

        Raises:
            ConflictError: It serves already, another candidate is on its way, or the server does not have it.
            UpstreamError: The server cannot be asked.
            StoreError: The record cannot be written now.
        """
        current = self.refresh().current
        if version == current:
            raise ConflictError(f"{version} serves already", param="version")
        under_way = self._records.unfinished()
        if under_way is not None and under_way.candidate != version:
            raise ConflictError(
                f"candidate {under_way.candidate} is on its way ({under_way.step.value}): roll it back first",
                param="version",
            )
        served = self._upstream.names()
        if version not in served:
            others = ", ".join(served) or "nothing"
            raise ConflictError(
                f"the policy server does not answer as {version}, but as {others}: load it first", param="version"
            )
        words, evidence = f"by hand ({who}): {reason}", {"by": who}
        if under_way is None:
            record = PromotionRecord(
                uuid.uuid4().hex,
                Step.PROMOTED,
                version,
                current,
                self._folder(version),
                reason=words,
                evidence=evidence,
            )
        else:
            record = following(under_way, Step.PROMOTED, words, evidence)
        return self._written(record, under_way)

    def roll_back(self, reason: str, who: str) -> PromotionRecord:
        """Take back the candidate on its way, or else the newest version that was promoted.

        Raises:
            ConflictError: There is nothing to take back, or the server no longer has the version from before.
            UpstreamError: The server cannot be asked.
            StoreError: The record cannot be written now.
        """
        try:
            written = roll_back(self._records, _Served(self._upstream), f"by hand ({who}): {reason}")
        except PromotionError as error:
            raise ConflictError(str(error)) from error
        self.refresh()
        return written

    def _written(self, record: PromotionRecord, last: PromotionRecord | None) -> PromotionRecord:
        try:
            written = self._records.append(record, last)
        except PromotionError as error:
            raise ConflictError(f"{error}; look again") from error
        self.refresh()
        return written

    def _folder(self, version: str) -> str:
        """Return where the weights of a version are, as its earlier steps say."""
        return next((one.folder for one in reversed(self._records.history()) if one.candidate == version), "")


class _Served:
    """The policy server, as a roll back needs it."""

    def __init__(self, upstream: PolicyClient) -> None:
        self._upstream = upstream

    def publish(self, version: str, folder: Path) -> Any:
        raise PromotionError(f"the gateway publishes no weights: load {version} with toolorch promote")

    def serves(self, version: str) -> bool:
        return version in self._upstream.names()

    def retire(self, version: str) -> None:
        self._upstream.unload(version)
