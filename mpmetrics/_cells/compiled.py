"""The compiled twin of the hot words; its sources are in ``src``. ImportError where it was not built."""

from __future__ import annotations

from importlib import import_module

from mpmetrics._cells import pure

__all__ = [
    "CounterCell",
    "DistributionCell",
    "GaugeCell",
    "Guard",
    "Labelled",
    "RecentCell",
    "Removals",
    "Segment",
    "SketchCell",
    "distributions",
    "extremes",
    "levels",
    "lines",
    "load",
    "number",
    "recents",
    "sums",
]

CONTRACT = 4
"""What this package expects of the extension: one that was built for another is not used."""

_native = import_module("mpmetrics._cells._native")

if _native.CONTRACT != CONTRACT:
    msg = f"{_native.__file__} was built from other sources than these: install the package anew"
    raise ImportError(msg)


class Guard(_native.Guard):  # type: ignore[misc, name-defined]
    """Makes operations on cells atomic within a process, without ever waiting."""

    __slots__ = ()

    settle = pure.Guard.settle


CounterCell = _native.CounterCell
DistributionCell = _native.DistributionCell
GaugeCell = _native.GaugeCell
Labelled = _native.Labelled
RecentCell = _native.RecentCell
Removals = _native.Removals
Segment = _native.Segment
SketchCell = _native.SketchCell
distributions = _native.distributions
extremes = _native.extremes
levels = _native.levels
lines = _native.lines
load = _native.load
number = _native.number
recents = _native.recents
sums = _native.sums
