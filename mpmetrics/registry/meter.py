"""Meter: how often something happens."""

from __future__ import annotations

from mpmetrics.registry.metric import RegistryMetric

__all__ = ["Meter", "Rated"]


class Rated(RegistryMetric):
    """Base of metrics with rates, all per second. Each property reads all processes, like a scrape.

    Moving averages belong to the process that reads them, and begin when it reads first; a running driver ticks them.
    """

    @property
    def count(self) -> float:
        """The number of events over all processes."""
        return self.snapshot().count

    @property
    def rate1(self) -> float:
        """Moving average over 1 minute."""
        return self.snapshot().rates[0]

    @property
    def rate5(self) -> float:
        """Moving average over 5 minutes."""
        return self.snapshot().rates[1]

    @property
    def rate15(self) -> float:
        """Moving average over 15 minutes."""
        return self.snapshot().rates[2]

    @property
    def rate_mean(self) -> float:
        """The count, divided by the seconds since the metric was made."""
        return self.snapshot().rate_mean


class Meter(Rated):
    """Counts events, with exponentially weighted moving averages of their rate, in ticks of 5 s."""

    role = "meter"
    _storage = {"kind": "counter"}  # noqa: RUF012 (read only)

    def mark(self, amount: float = 1) -> None:
        """Count ``amount`` events. ValueError, and nothing changes, if it is negative or NaN."""
        self._merged.before_mark()
        self._series.inc(amount)
