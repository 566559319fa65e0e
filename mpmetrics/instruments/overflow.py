"""The count of label sets that went to a metric's overflow series."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmetrics.instruments.metric import DEFAULT_MAX_SERIES, Metric
from mpmetrics.names.family import Family

if TYPE_CHECKING:
    from mpmetrics.destination import Destination

__all__ = ["OverflowCount"]

_FAMILY = Family("mpmetrics_series_overflows", "counter", "Uses of label sets past a metric's cap.", "", ("metric",))


class OverflowCount:
    """Counts uses of label sets that a metric of ``provider`` has no room for; the counter comes with the first one."""

    def __init__(self, provider: Destination) -> None:
        self._provider = provider
        self._counter: Metric[Any] | None = None

    def __call__(self, metric: str) -> None:
        """Count one use for the metric of this name."""
        if metric == _FAMILY.name:
            return  # it would count itself for ever
        if self._counter is None:
            self._counter = Metric(_FAMILY, self._provider, DEFAULT_MAX_SERIES)
        self._counter.series((metric,)).inc()
