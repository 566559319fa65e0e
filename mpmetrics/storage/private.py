"""Series whose values are in private memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mpmetrics._cells import CounterCell, DistributionCell, GaugeCell, RecentCell, Segment
    from mpmetrics.storage.catalog import Family, Key

    Cell = CounterCell | GaugeCell | RecentCell | DistributionCell

__all__ = ["PrivateSeries", "PrivateValue"]


class PrivateSeries(NamedTuple):
    """A series that has no place in the store yet, and when it was made (Unix time, s)."""

    family: Family
    key: Key
    cell: Cell
    segment: Segment
    created: float

    def value(self) -> PrivateValue:
        """Its words at this moment."""
        words = self.segment.words
        return PrivateValue(self.family, self.key, self.created, [words[at] for at in range(self.family.width)])


class PrivateValue(NamedTuple):
    """A series and its words, as they were in private memory at one moment."""

    family: Family
    key: Key
    created: float
    words: list[float]
