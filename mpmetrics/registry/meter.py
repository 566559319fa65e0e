"""Meter: how often something happens."""

from __future__ import annotations

from mpmetrics.registry.metric import RegistryMetric

__all__ = ["Meter", "Rated"]


class Rated(RegistryMetric):
    """What has rates, all per second. The moving averages are those of this process's looks; see the drivers."""

    @property
    def count(self) -> float:
        """How much was marked, over all processes."""
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
        """Count by the seconds since the metric was made."""
        return self.snapshot().rate_mean


class Meter(Rated):
    """Counts events and tells their rates, exponentially weighted, by ticks of 5 s."""

    role = "meter"
    _storage = {"kind": "counter"}  # noqa: RUF012 (read only)

    def mark(self, amount: float = 1) -> None:
        """Count ``amount`` events. ValueError, with nothing changed, for a negative one and NaN."""
        self._merged.before_mark()
        self._series.inc(amount)
