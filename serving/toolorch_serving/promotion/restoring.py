"""A server that was started again has lost its adapters: they are published again from what the record knows."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from toolorch_serving.promotion.publisher import Publisher
from toolorch_serving.promotion.records import PromotionRecords

logger = logging.getLogger(__name__)


def restore(records: PromotionRecords, publisher: Publisher, versions: Iterable[str] | None = None) -> list[str]:
    """Publish the versions that runs are routed to and that the server no longer has, each proven by the probe.

    The bare policy, and whatever else was never a candidate, is left alone: there is no folder on record.

    Args:
        records: The record.
        publisher: Of the server.
        versions: Which; None: the one that serves, and the candidate of a canary.

    Returns:
        Those that were published.

    Raises:
        ToolorchError: The server cannot be reached, or one cannot be published.
    """
    if versions is None:
        routes = records.routes()
        versions = (routes.current, routes.candidate)
    folders = {record.candidate: record.folder for record in records.history()}
    lost = [version for version in versions if version in folders and not publisher.serves(version)]
    for version in lost:
        publisher.publish(version, Path(folders[version]))
        logger.warning("the server had lost version %s, and has it again", version)
    return lost
