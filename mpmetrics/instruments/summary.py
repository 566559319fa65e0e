"""Summary: the count of values and their sum."""

from __future__ import annotations

from mpmetrics.instruments.contexts import Timer, timer
from mpmetrics.instruments.instrument import Instrument
from mpmetrics.instruments.series import DistributionSeries

__all__ = ["Summary"]


class Summary(Instrument[DistributionSeries]):
    """Counts observations and their sum. Exposed as ``name_count`` and ``name_sum``, without quantiles.

    Arguments as in :class:`~mpmetrics.instruments.instrument.Instrument`.
    """

    _kind = "summary"
    _hot = ("observe",)

    def _reserved_labels(self, _name: str) -> tuple[str, ...]:
        return ("quantile",)

    def observe(self, amount: float, exemplar: object = None) -> None:
        """Count ``amount``. ValueError, and nothing changes, if it is NaN."""
        self._only().observe(amount, exemplar)

    def time(self) -> Timer:
        """Return a context manager and decorator that observes the duration of the code in seconds."""
        return timer(self, "observe")
