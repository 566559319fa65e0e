"""One metric of a registry as it is at one moment, over all processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpmetrics._cells import LAYOUTS
from mpmetrics.registry.distribution import Distribution

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MetricValues"]


def _nothing() -> Distribution:
    return Distribution(LAYOUTS["value"], (0.0,) * 6, {})


@dataclass(frozen=True)
class MetricValues:
    """What :meth:`snapshot` of a metric returns.

    ``role`` is counter, gauge, meter, histogram, timer or healthcheck. ``count`` is that of counters, meters,
    histograms and timers; ``value`` that of gauges and healthchecks (1: healthy, 0: not), None when it was never set.
    ``has_fallen`` says whether a counter ever did. ``rates`` are per second over 1, 5 and 15 minutes.
    ``window`` are the buckets of the values of the sliding window.
    """

    name: str
    role: str
    labels: tuple[tuple[str, str], ...] = ()
    created: float = 0.0
    count: float = 0
    value: float | None = None
    has_fallen: bool = False
    distribution: Distribution = field(default_factory=_nothing)
    window: Mapping[int, float] = field(default_factory=dict)
    rates: tuple[float, ...] = (0.0, 0.0, 0.0)
    rate_mean: float = 0.0
