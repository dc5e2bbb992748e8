"""Keeps the faiss index in step with the database: loads it, builds it anew when it should be, writes snapshots."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from toolorch_serving.retrieval.database import Database
from toolorch_serving.retrieval.dense import DenseIndex, Shape, chosen_kind
from toolorch_serving.retrieval.documents import Vectors
from toolorch_serving.retrieval.rowset import Rows, RowSet
from toolorch_serving.retrieval.snapshot import Header, SnapshotError, read_snapshot, write_snapshot

_log = logging.getLogger(__name__)

SNAPSHOT_EVERY = 20_000
"""Changes after which a snapshot is written by itself: opening replays at most so many."""
_SAMPLE = 200
"""Documents that stand in for queries when recall is measured."""
_MOST_DEAD = 0.3
_GROWN = 4
"""An inverted file that has grown so many times has lists too long, and centroids of other documents."""
_SMALL = 10_000

Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much."""


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


class Keeper:
    """The faiss index of a database.

    Attributes:
        changing: Held by whoever changes the database, until the faiss index has changed as well.
        version: Grows with each change.
        changes: Documents that came or went since the snapshot.
        failure: Why the index could not be tended lately; empty if all is well.
    """

    def __init__(self, database: Database, path: Path, index_id: str, dimension: int, kind: str, recall: float) -> None:
        self.changing = threading.RLock()
        self.version = 0
        self.changes = 0
        self.failure = ""
        self._database, self._path, self._id = database, path, index_id
        self._dimension, self._kind, self._recall = dimension, kind, recall
        self._dense: DenseIndex | None = None
        self._tending: threading.Thread | None = None

    @property
    def dense(self) -> DenseIndex | None:
        """The faiss index, once it is loaded."""
        return self._dense

    def load(self, progress: Progress = silent) -> DenseIndex:
        """Return the faiss index: from its snapshot and what came after, or built anew."""
        if self._dense is None:
            with self.changing:
                if self._dense is None:
                    self._dense = self._from_snapshot() or self._built(progress)[0]
        return self._dense

    def apply(self, rows: Rows, vectors: Vectors, gone: Rows) -> None:
        """Take over a change of the database; `changing` is held. Nothing to do before the index is loaded."""
        self.version += 1
        self.changes += len(rows) + len(gone)
        if self._dense is not None:
            self._dense.remove(gone)
            self._dense.add(rows, vectors)
            if self._should_rebuild(self._dense) or self.changes >= SNAPSHOT_EVERY:
                self._tend_in_background()

    def snapshot(self) -> int:
        """Write a snapshot, while searches go on and changes wait; return its bytes."""
        with self.changing:
            dense = self.load()
            header = Header(self._id, self._database.last_row(), dense.shape)
            size = write_snapshot(self._path, header, dense.on_processor())
            self.changes = 0
            return size

    def rebuild(self, progress: Progress = silent) -> None:
        """Build the faiss index anew beside the one that serves, and put it in that one's place."""
        built, last = self._built(progress)
        with self.changing:
            for rows, vectors in self._database.vectors(after=last):
                built.add(rows, vectors)
            held = built.alive.rows()
            built.remove(held[~RowSet(self._database.rows()).has(held)])
            self._dense = built

    def tend(self) -> None:
        """Do what is due: build anew, write a snapshot."""
        if self._dense is not None and self._should_rebuild(self._dense):
            self.rebuild()
            self.snapshot()
        elif self.changes >= SNAPSHOT_EVERY:
            self.snapshot()

    def close(self) -> None:
        """Wait for what goes on, and write a snapshot if there is something new."""
        while self._tending is not None and self._tending.is_alive():
            self._tending.join()
        if self.changes and self._dense is not None:
            self.snapshot()

    def _from_snapshot(self) -> DenseIndex | None:
        try:
            header, index = read_snapshot(self._path)
            if header.index != self._id or header.last_row > self._database.last_row():
                raise SnapshotError("it is of another index")
            if header.shape.dimension != self._dimension or index.d != self._dimension:
                raise SnapshotError("its vectors have another dimension")
            alive = RowSet(self._database.rows(header.last_row))
            if len(alive) > index.ntotal:
                raise SnapshotError("it lacks documents")
        except SnapshotError as error:
            if self._path.exists():
                _log.warning("The snapshot %s is not used, since %s; the index is built anew.", self._path, error)
            return None
        dense = DenseIndex(index, header.shape, alive)
        after = self._database.count() - len(alive)
        if after > max(_SMALL, len(alive)) or self._should_rebuild(dense, after):
            return None
        for rows, vectors in self._database.vectors(after=header.last_row):
            dense.add(rows, vectors)
        self.changes = after
        return dense

    def _should_rebuild(self, dense: DenseIndex, coming: int = 0) -> bool:
        count, shape = len(dense) + coming, dense.shape
        wanted = chosen_kind(self._kind, count)
        if wanted != shape.kind:
            # A large kind cannot learn from nothing, and one that shrank a little need not change.
            return count >= _SMALL // 10 if shape.kind == "flat" else count < shape.built // _GROWN
        grown = shape.kind in ("ivf", "ivf_sq8") and count > _GROWN * max(shape.built, _SMALL // 10)
        return grown or dense.dead > max(_SMALL, _MOST_DEAD * count)

    def _built(self, progress: Progress) -> tuple[DenseIndex, int]:
        """Return a new index and the last row that it holds."""
        last = self._database.last_row()
        held = self._database.rows(last)
        kind = chosen_kind(self._kind, len(held))
        if len(held) < _SMALL // 10:
            kind = "flat"  # exact, and quicker than any other at this size
        draw = np.random.default_rng(0)

        def sample(number: int) -> Vectors:
            some = np.sort(draw.choice(held, min(number, len(held)), replace=False))
            return np.concatenate([vectors for _, vectors in self._database.vectors(among=some)])

        dense = DenseIndex.build(
            Shape(kind, self._dimension),
            len(held),
            sample,
            self._database.vectors(last=last),
            lambda done: progress("indexing vectors", done, len(held)),
        )
        if kind != "flat":
            progress("measuring recall", 0, 1)
            dense.tune(sample(_SAMPLE), self._database.vectors(last=last), self._recall)
            progress("measuring recall", 1, 1)
        self.changes = max(self.changes, 1)  # worth a snapshot
        return dense, last

    def _tend_in_background(self) -> None:
        if self._tending is None or not self._tending.is_alive():
            self._tending = threading.Thread(target=self._tend_quietly, name="retrieval-keeper", daemon=True)
            self._tending.start()

    def _tend_quietly(self) -> None:
        try:
            self.tend()
            self.failure = ""
        except Exception as error:  # what serves goes on serving; the failure is in the stats
            self.failure = f"{type(error).__name__}: {error}"
            _log.exception("The index could not be tended; it goes on as it is.")
