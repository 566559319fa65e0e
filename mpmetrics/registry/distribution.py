"""Distribution: count, sum, mean, variance and percentiles of a histogram or timer. Pure functions of merged words."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mpmetrics._cells import Layout

__all__ = ["Distribution"]


class Distribution:
    """The distribution of all values, from the record and the buckets that ``mpmetrics.storage.format`` describes.

    Without values, all results are 0. Count, sum, min, max, mean, variance (of the whole population) and stddev are
    exact, rounded once. Percentiles have a relative error of at most 1 % for magnitudes from 1 ns to 1 day.
    """

    def __init__(self, layout: Layout, record: Sequence[float], buckets: Mapping[int, float]) -> None:
        self._layout = layout
        self._record = record
        self.buckets = buckets
        """By index of a bucket, how many values it has; without empty buckets."""

    @property
    def count(self) -> int:
        """The number of values."""
        return int(sum(self.buckets.values()))

    @property
    def sum(self) -> float:
        """Their sum."""
        return self._record[0]

    @property
    def min(self) -> float:
        """The smallest."""
        return self._record[4]

    @property
    def max(self) -> float:
        """The largest."""
        return self._record[5]

    @property
    def mean(self) -> float:
        """Their mean."""
        return self.sum / self.count if self.count else 0.0

    @property
    def variance(self) -> float:
        """Mean of the squared distances from the mean."""
        count = self.count
        if not count:
            return 0.0
        total, rest, squares, squares_rest = map(Fraction, self._record[:4])
        mean = (total + rest) / count
        return float(max(Fraction(0), (squares + squares_rest) / count - mean * mean))

    @property
    def stddev(self) -> float:
        """Square root of the variance."""
        return math.sqrt(self.variance)

    def percentiles(self, shares: Iterable[float], buckets: Mapping[int, float] | None = None) -> list[float]:
        """Return the values below which ``shares`` of the values lie, each from 0 to 1; of other ``buckets`` if given.

        The p-th of n ordered values is the one at position p * (n + 1), interpolated between its neighbours.
        Source: Hyndman and Fan, "Sample quantiles in statistical packages" (1996), definition 6.

        ValueError for a share outside of 0 to 1.
        """
        wanted = list(shares)
        for share in wanted:
            if not 0 <= share <= 1:
                msg = f"a percentile must be given as a share from 0 to 1, such as 0.99, not {share!r}"
                raise ValueError(msg)
        counts = self.buckets if buckets is None else buckets
        ordered = sorted((index, int(count)) for index, count in counts.items() if count > 0)
        total = sum(count for _, count in ordered)
        if not total:
            return [0.0] * len(wanted)
        return [self._at(share * (total + 1), ordered, total, is_whole=buckets is None) for share in wanted]

    def _at(self, position: float, ordered: Sequence[tuple[int, int]], total: int, *, is_whole: bool) -> float:
        if position < 1:
            return self.min if is_whole else self._value(ordered[0][0])
        if position >= total:
            return self.max if is_whole else self._value(ordered[-1][0])
        rank = int(position)
        low, high = self._ranked(ordered, rank)
        return low + (position - rank) * (high - low)

    def _ranked(self, ordered: Sequence[tuple[int, int]], rank: int) -> tuple[float, float]:
        """Return the values of this rank, counted from 1, and of the next rank."""
        indices = _neighbours(ordered, rank)
        return self._value(next(indices)), self._value(next(indices))

    def _value(self, index: int) -> float:
        return min(max(self._layout.value(index), self.min), self.max)


def _neighbours(ordered: Sequence[tuple[int, int]], rank: int) -> Iterator[int]:
    below = 0
    wanted = rank
    for index, count in ordered:
        below += count
        while wanted <= min(below, rank + 1):
            yield index
            wanted += 1
