"""Histogram: the distribution of values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmetrics.registry.metric import RegistryMetric

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Distributed", "Histogram"]


class Distributed(RegistryMetric):
    """Base of metrics with a distribution, as in :class:`~mpmetrics.registry.distribution.Distribution`.

    Each property reads all processes, which costs as much as a scrape.
    """

    @property
    def count(self) -> float:
        """The number of values."""
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
        """Return the value below which this share, from 0 to 1, of the values lies; see :meth:`percentiles`."""
        return self.percentiles((share,), over=over)[0]

    def percentiles(self, shares: Iterable[float], *, over: str = "lifetime") -> list[float]:
        """Return the values below which these shares, from 0 to 1, of the values lie, over the lifetime or the window.

        ValueError for a share outside of 0 to 1, and if ``over`` is neither "lifetime" nor "window".
        """
        if over not in ("lifetime", "window"):
            msg = f"percentiles: over must be 'lifetime' or 'window', not {over!r}"
            raise ValueError(msg)
        values = self.snapshot()
        return values.distribution.percentiles(shares, values.window if over == "window" else None)


class Histogram(Distributed):
    """Counts values of any sign by buckets on a log scale.

    A percentile is at most 1 % off for magnitudes from 1e-9 to 1e15. A smaller value counts as zero, a larger one as
    1e15 or as the largest value. It takes 45 KiB in each process that uses it, however many values it has. Source of
    the buckets: DDSketch, https://www.vldb.org/pvldb/vol12/p2195-masson.pdf.
    """

    role = "histogram"
    _storage = {"kind": "sketch", "mode": "value"}  # noqa: RUF012 (read only)

    def update(self, value: float) -> None:
        """Count ``value``. ValueError, and nothing changes, unless it is finite and its magnitude at most 1e150."""
        self._series.update(value)
