"""MetricValues: the values of one registry metric at one moment, merged over all processes."""

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
    """What the method ``snapshot`` of a metric and ``Registry.read`` return.

    ``role`` is counter, gauge, meter, histogram, timer or healthcheck. ``created`` is a Unix time in seconds. Counters,
    meters, histograms and timers have a ``count``. Gauges and healthchecks (1: healthy, 0: not) have a ``value``, None
    if it was never set. ``has_fallen``: the counter has gone down at some time. ``rates`` are per second, over 1, 5 and
    15 minutes. ``window`` has the buckets of the values in the sliding window.
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
