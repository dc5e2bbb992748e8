"""Both lanes of a spool as one sequence, in the order in which the events were put."""

from __future__ import annotations

from toolorch_integrations.spool.lane import LaneReader
from toolorch_integrations.spool.records import Record


class SpoolReader:
    """Merges lanes by number; each lane is in order for itself."""

    def __init__(self, *lanes: LaneReader) -> None:
        self._lanes = lanes

    @property
    def damaged(self) -> int:
        """Stretches that were no whole records."""
        return sum(lane.damaged for lane in self._lanes)

    def rewind(self) -> None:
        """Begin again at the oldest record that is left."""
        for lane in self._lanes:
            lane.rewind()

    def take(self, count: int, after: int = 0, until: int | None = None) -> list[Record]:
        """Return the next records; those with one number, which were decoded from one item, stay together.

        Args:
            count: About how many.
            after: Pass over those with numbers up to this one.
            until: Stop at a number above this one; None: at the end.
        """
        taken: list[Record] = []
        empty: dict[int, int] = {}
        while True:
            heads = self._heads(empty)
            if not heads:
                return taken
            number, place = min(heads)
            full = len(taken) >= count and number != taken[-1].number
            if full or (until is not None and number > until):
                return taken
            lane = self._lanes[place]
            if number > after and (record := lane.peek()) is not None:
                taken.append(record)
            lane.pop()

    def _heads(self, empty: dict[int, int]) -> list[tuple[int, int]]:
        """Return number and lane of the next record of each lane that has one.

        A lane that was found empty is looked at again once another has read on, and not before: what stands in what
        was read was put later than anything smaller that the empty lane had by then.

        Args:
            empty: By lane that was empty, how much had been read in all when it was looked at.
        """
        while True:
            before = self._reads()
            heads = []
            for place, lane in enumerate(self._lanes):
                if empty.get(place) == before:
                    continue
                record = lane.peek()
                if record is None:
                    empty[place] = before
                else:
                    heads.append((record.number, place))
            if self._reads() == before:
                return heads

    def _reads(self) -> int:
        return sum(lane.reads for lane in self._lanes)
