"""Histogram: how values are distributed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmetrics.registry.metric import RegistryMetric

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Distributed", "Histogram"]


class Distributed(RegistryMetric):
    """What has a distribution; figures as in :class:`~mpmetrics.registry.distribution.Distribution`."""

    @property
    def count(self) -> float:
        """How many values there are."""
        return self.snapshot().count

    @property
    def sum(self) -> float:
        """Their sum."""
        return self.snapshot().distribution.sum

    @property
    def min(self) -> float:
        """The smallest."""
        return self.snapshot().distribution.min

    @property
    def max(self) -> float:
        """The largest."""
        return self.snapshot().distribution.max

    @property
    def mean(self) -> float:
        """Their mean."""
        return self.snapshot().distribution.mean

    @property
    def variance(self) -> float:
        """Mean of the squared distances from the mean."""
        return self.snapshot().distribution.variance

    @property
    def stddev(self) -> float:
        """Square root of the variance."""
        return self.snapshot().distribution.stddev

    def percentile(self, share: float, *, over: str = "lifetime") -> float:
        """The value below which this share, from 0 to 1, of the values lies; see :meth:`percentiles`."""
        return self.percentiles((share,), over=over)[0]

    def percentiles(self, shares: Iterable[float], *, over: str = "lifetime") -> list[float]:
        """The values below which these shares, from 0 to 1, of the values lie, over the lifetime or the window.

        ValueError for a share that is none, and for ``over`` that is neither "lifetime" nor "window".
        """
        if over not in ("lifetime", "window"):
            msg = f"percentiles are over the 'lifetime' or the 'window', not {over!r}"
            raise ValueError(msg)
        values = self.snapshot()
        return values.distribution.percentiles(shares, values.window if over == "window" else None)


class Histogram(Distributed):
    """Counts values of any sign by buckets on a log scale.

    A percentile is at most 1 % off for magnitudes from 1e-9 to 1e15; smaller ones count as zero, larger ones as 1e15 or
    the largest value. Takes 45 KiB in each process that uses it, whatever it counts. Source of the buckets: DDSketch,
    https://www.vldb.org/pvldb/vol12/p2195-masson.pdf.
    """

    role = "histogram"
    _storage = {"kind": "sketch", "mode": "value"}  # noqa: RUF012 (read only)

    def update(self, value: float) -> None:
        """Count ``value``. ValueError, with nothing changed, unless it is a finite number of at most 1e150."""
        self._series.update(value)
