"""How a promotion ends without its candidate: turned down, taken back by the gate, or taken back by a person."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from toolorch_integrations.errors import ToolorchError
from toolorch_serving.promotion.errors import PromotionError
from toolorch_serving.promotion.publisher import Publisher
from toolorch_serving.promotion.records import PromotionRecord, PromotionRecords, Step
from toolorch_serving.promotion.restoring import restore

logger = logging.getLogger(__name__)

_SERVED = (Step.ESTIMATED, Step.PUBLISHED, Step.EVALUATED, Step.CANARY)
"""Steps after which the server may know the candidate; after the first it may have been about to."""


def following(
    last: PromotionRecord,
    step: Step,
    reason: str,
    evidence: Mapping[str, Any] | None = None,
    share: float = 0.0,
    at: float | None = None,
) -> PromotionRecord:
    """Return the step after `last`, not written yet."""
    now = time.time() if at is None else at
    return replace(last, step=step, reason=reason, evidence=evidence or {}, share=share, time=now, number=0)


def end(
    last: PromotionRecord,
    publisher: Publisher,
    write: Callable[[PromotionRecord, PromotionRecord], PromotionRecord],
    reason: str,
    evidence: Mapping[str, Any] | None = None,
    at: float | None = None,
) -> PromotionRecord:
    """End a promotion with the incumbent serving.

    The record comes first: from then on no run is routed to the candidate. It is taken out of the server afterwards,
    and if that fails it only takes up room there.
    """
    step = Step.ROLLED_BACK if last.step is Step.CANARY else Step.STAYED
    written = write(following(last, step, reason, evidence, at=at), last)
    if last.step in _SERVED:
        try:
            publisher.retire(last.candidate)
        except (ToolorchError, OSError) as error:
            logger.warning("version %s could not be taken out of the server: %s", last.candidate, error)
    return written


def roll_back(records: PromotionRecords, publisher: Publisher, reason: str) -> PromotionRecord:
    """Take back the candidate that is on its way, or else the newest version that was promoted.

    Args:
        records: The record.
        publisher: Of the server.
        reason: Why, in words.

    Raises:
        PromotionError: There is nothing to take back, or the server no longer has the version from before.
    """
    under_way = records.unfinished()
    if under_way is not None:
        return end(under_way, publisher, records.append, reason)
    last: dict[str, PromotionRecord] = {record.promotion: record for record in records.history()}
    promoted = next((record for record in reversed(last.values()) if record.step is Step.PROMOTED), None)
    if promoted is None:
        raise PromotionError("there is nothing to roll back: no version was promoted, and none is on its way")
    restore(records, publisher, [promoted.incumbent])
    if not publisher.serves(promoted.incumbent):
        raise PromotionError(
            f"the server does not answer as {promoted.incumbent}, which served before {promoted.candidate}: "
            "load it first"
        )
    return records.append(following(promoted, Step.ROLLED_BACK, reason), promoted)
