"""Summary: how many values there were, and their sum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mpmetrics.instruments.base import Instrument
from mpmetrics.instruments.contexts import Timer, timer
from mpmetrics.instruments.histogram import DistributionSeries

if TYPE_CHECKING:
    from mpmetrics._cells import Guard, Segment

__all__ = ["Summary"]


class Summary(Instrument[DistributionSeries]):
    """Counts observations and adds them up. Exposed as ``name_count`` and ``name_sum``, without quantiles.

    Arguments as in :class:`~mpmetrics.instruments.base.Instrument`.
    """

    _kind = "summary"
    _hot = ("observe",)

    def _reserved_labels(self, _name: str) -> tuple[str, ...]:
        return ("quantile",)

    def _make(self, guard: Guard, segment: Segment, index: int) -> DistributionSeries:
        return DistributionSeries(guard, segment, index, (math.inf,), self._family.name)

    def observe(self, amount: float, exemplar: object = None) -> None:
        """Count ``amount``; ValueError when it is NaN."""
        self._only().observe(amount, exemplar)

    def time(self) -> Timer:
        """A context manager and decorator that observes the seconds that the code took."""
        return timer(self, "observe")
