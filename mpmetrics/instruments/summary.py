"""Summary: how many values there were, and their sum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

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
    _reserved = ("quantile",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self._family.labels:
            self.__dict__["observe"] = self._only().observe

    def _make(self, guard: Guard, segment: Segment, index: int) -> DistributionSeries:
        return DistributionSeries(guard, segment, index, (math.inf,))

    def observe(self, amount: float, exemplar: object = None) -> None:
        """Count ``amount``; ValueError when it is NaN."""
        self._only().observe(amount, exemplar)

    def time(self) -> Timer:
        """A context manager and decorator that observes the seconds that the code took."""
        return timer(self, "observe")
