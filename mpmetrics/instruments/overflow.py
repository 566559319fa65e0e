"""The self-metric that counts uses of overflow series, by metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmetrics.instruments.metric import DEFAULT_MAX_SERIES, Metric
from mpmetrics.names.family import Family

if TYPE_CHECKING:
    from mpmetrics.provider_base import ProviderBase

__all__ = ["OverflowCount"]

_FAMILY = Family("mpmetrics_series_overflows", "counter", "Uses of label sets past a metric's cap.", "", ("metric",))


class OverflowCount:
    """Counts the uses of label sets for which a metric of ``provider`` has no room. The first use makes the counter."""

    def __init__(self, provider: ProviderBase) -> None:
        self._provider = provider
        self._counter: Metric[Any] | None = None

    def __call__(self, metric: str) -> None:
        """Count one use for the metric of this name."""
        if metric == _FAMILY.name:
            return  # this counter's own overflow would count itself without end
        if self._counter is None:
            self._counter = Metric(_FAMILY, self._provider, DEFAULT_MAX_SERIES)
        self._counter.series((metric,)).inc()
