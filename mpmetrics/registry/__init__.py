"""Registries of counters, gauges, meters, histograms, timers and healthchecks, merged over all processes."""

from mpmetrics.registry.counter import Counter
from mpmetrics.registry.distribution import Distribution
from mpmetrics.registry.gauge import Gauge
from mpmetrics.registry.healthcheck import Healthcheck
from mpmetrics.registry.histogram import Histogram
from mpmetrics.registry.meter import Meter
from mpmetrics.registry.metric_values import MetricValues
from mpmetrics.registry.registry import Registry, default_registry
from mpmetrics.registry.timer import Timer

__all__ = [
    "Counter",
    "Distribution",
    "Gauge",
    "Healthcheck",
    "Histogram",
    "Meter",
    "MetricValues",
    "Registry",
    "Timer",
    "default_registry",
]
