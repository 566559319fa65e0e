"""Instruments that applications hold: with prometheus_client's signatures, and those of the Meter API."""

from mpmetrics.instruments.counter import Counter
from mpmetrics.instruments.enum import Enum
from mpmetrics.instruments.gauge import Gauge
from mpmetrics.instruments.histogram import Histogram
from mpmetrics.instruments.info import Info
from mpmetrics.instruments.summary import Summary
from mpmetrics.instruments.updowncounter import UpDownCounter

__all__ = ["Counter", "Enum", "Gauge", "Histogram", "Info", "Summary", "UpDownCounter"]
