"""The record of promotions: an append-only table beside the traces, which several processes share.

Nothing else is kept: where a promotion stands, which version serves and which share of the runs a candidate gets are
all read from it. So a promotion whose process was killed goes on from its last entry.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, func, insert, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from toolorch_integrations.errors import StoreError
from toolorch_integrations.plain import storable, storable_json
from toolorch_integrations.store import TraceStore
from toolorch_integrations.store.engine import WRITES
from toolorch_integrations.store.schema import promotions
from toolorch_integrations.versions import Routes
from toolorch_serving.promotion.errors import PromotionError


class Step(StrEnum):
    """What happened to a candidate."""

    BEGUN = "begun"
    ESTIMATED = "estimated"
    PUBLISHED = "published"
    """The server answers with it, and no live run gets it yet."""
    EVALUATED = "evaluated"
    CANARY = "canary"
    """A share of the live runs goes to it from now on."""
    PROMOTED = "promoted"
    STAYED = "stayed"
    """It was turned down before it had any live run."""
    ROLLED_BACK = "rolled back"
    """It was taken back from live runs."""

    @property
    def ends(self) -> bool:
        """Whether nothing more comes of the promotion."""
        return self in (Step.PROMOTED, Step.STAYED, Step.ROLLED_BACK)


@dataclass(frozen=True, slots=True)
class PromotionRecord:
    """One step of one promotion."""

    promotion: str
    """Id of the promotion; its steps share it."""
    step: Step
    candidate: str
    """Version that is to be promoted: the model name that the server answers with."""
    incumbent: str
    """Version that serves before."""
    folder: str = ""
    """Where the candidate's weights are."""
    share: float = 0.0
    """Of the live runs, from this step on."""
    reason: str = ""
    """Why the step was taken, in words."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)
    number: int = 0
    """Place in the record; 0: not written yet."""


class SupersededError(PromotionError):
    """Another process has taken the promotion's next step."""


class PromotionRecords:
    """The record in the database of a trace store.

    Args:
        store: Where; it is brought to this release's schema.

    Raises:
        StoreError: The database cannot be reached.
    """

    def __init__(self, store: TraceStore) -> None:
        self.store = store
        try:
            store.prepare()
        except SQLAlchemyError as error:
            raise StoreError(f"the record of promotions in {store} cannot be opened: {error}") from error

    def append(self, record: PromotionRecord, last: PromotionRecord | None = None) -> PromotionRecord:
        """Write a step; return it with its number.

        Args:
            record: The step.
            last: The step that it follows; None: it is the promotion's first.

        Raises:
            SupersededError: Another process has written a step since; nothing was written.
            StoreError: The database cannot be written now.
        """
        row = {
            "promotion": record.promotion,
            "step": record.step.value,
            "time": record.time,
            "candidate": storable(record.candidate),
            "incumbent": storable(record.incumbent),
            "folder": storable(record.folder),
            "share": record.share,
            "reason": storable(record.reason),
            "evidence": storable_json(dict(record.evidence)),
        }
        same = promotions.c.promotion == record.promotion
        try:
            with self._writing() as connection:
                newest = connection.scalar(select(func.max(promotions.c.number)).where(same)) or 0
                if newest != (0 if last is None else last.number):
                    raise SupersededError(f"another process has gone on with the promotion of {record.candidate}")
                number = connection.execute(insert(promotions).values(row)).inserted_primary_key
        except IntegrityError as error:
            raise SupersededError(f"another process has gone on with {record.candidate}: {error}") from error
        except SQLAlchemyError as error:
            raise StoreError(f"the record of promotions in {self.store} cannot be written: {error}") from error
        return replace(record, number=0 if number is None else int(number[0]))

    def steps(self, promotion: str) -> list[PromotionRecord]:
        """Return the steps of a promotion, oldest first."""
        return self._read(promotions.c.promotion == promotion)

    def history(self, limit: int | None = None) -> list[PromotionRecord]:
        """Return the newest steps of all promotions, oldest first."""
        found = self._read()
        return found if limit is None else found[-limit:]

    def unfinished(self) -> PromotionRecord | None:
        """Return the last step of the promotion that has not ended, if one has not."""
        last: dict[str, PromotionRecord] = {record.promotion: record for record in self._read()}
        return next((record for record in reversed(last.values()) if not record.step.ends), None)

    def routes(self, initial: str = "") -> Routes:
        """Return which version serves, and which share of the runs goes to which candidate.

        Args:
            initial: The version that serves before anything was promoted.
        """
        current, candidate, share = initial, "", 0.0
        for record in self._read():
            if record.step is Step.CANARY:
                current, candidate, share = record.incumbent, record.candidate, record.share
            elif record.step is Step.PROMOTED:
                current, candidate, share = record.candidate, "", 0.0
            elif record.step is Step.ROLLED_BACK:
                current, candidate, share = record.incumbent, "", 0.0
        return Routes(current, candidate, share)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self.store.engine.connect().execution_options(**WRITES) as connection, connection.begin():
            yield connection

    def _read(self, *conditions: Any) -> list[PromotionRecord]:
        query = select(promotions).where(*conditions).order_by(promotions.c.number)
        try:
            with self.store.engine.connect() as connection:
                rows = connection.execute(query).all()
        except SQLAlchemyError as error:
            raise StoreError(f"the record of promotions in {self.store} cannot be read: {error}") from error
        return [
            PromotionRecord(
                row.promotion,
                Step(row.step),
                row.candidate,
                row.incumbent,
                row.folder,
                row.share,
                row.reason,
                json.loads(row.evidence),
                row.time,
                row.number,
            )
            for row in rows
        ]
