"""Summary: how many values there were, and their sum."""

from __future__ import annotations

from mpmetrics.instruments.base import Instrument
from mpmetrics.instruments.contexts import Timer, timer
from mpmetrics.instruments.series import DistributionSeries

__all__ = ["Summary"]


class Summary(Instrument[DistributionSeries]):
    """Counts observations and adds them up. Exposed as ``name_count`` and ``name_sum``, without quantiles.

    Arguments as in :class:`~mpmetrics.instruments.base.Instrument`.
    """

    _kind = "summary"
    _hot = ("observe",)

    def _reserved_labels(self, _name: str) -> tuple[str, ...]:
        return ("quantile",)

    def observe(self, amount: float, exemplar: object = None) -> None:
        """Count ``amount``; ValueError when it is NaN."""
        self._only().observe(amount, exemplar)

    def time(self) -> Timer:
        """A context manager and decorator that observes the seconds that the code took."""
        return timer(self, "observe")
