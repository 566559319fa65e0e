"""One series of each kind of instrument: the cells of the hot path, with what is convenient to have on them."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from mpmetrics._cells import LAYOUTS, CounterCell, DistributionCell, GaugeCell, RecentCell, SketchCell
from mpmetrics.instruments.contexts import (
    ExceptionCounter,
    Exceptions,
    InprogressTracker,
    Timer,
    exception_counter,
    inprogress,
    timer,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics._cells import Guard, Segment
    from mpmetrics.storage.catalog import Family

__all__ = ["CounterSeries", "DistributionSeries", "GaugeSeries", "RecentSeries", "UpDownSeries", "make_series"]


class CounterSeries(CounterCell):
    """One series of a counter."""

    __slots__ = ()

    def count_exceptions(self, exception: Exceptions = Exception) -> ExceptionCounter:
        """A context manager and decorator that counts exceptions of these types that leave the code."""
        return exception_counter(self, exception)


class UpDownSeries(GaugeCell):
    """One series of an up-down counter."""

    __slots__ = ()

    set = None  # type: ignore[assignment]  # a sum over processes cannot be set by one of them

    def track_inprogress(self) -> InprogressTracker:
        """A context manager and decorator that counts up on entry and down on exit."""
        return inprogress(self)


class GaugeSeries(GaugeCell):
    """One series of a gauge."""

    __slots__ = ("_watch",)

    _watch: Callable[[Any, Callable[[], float]], None]

    def set_to_current_time(self) -> None:
        """Set to the Unix time in seconds."""
        self.set(time.time())

    def track_inprogress(self) -> InprogressTracker:
        """A context manager and decorator that counts up on entry and down on exit."""
        return inprogress(self)

    def time(self) -> Timer:
        """A context manager and decorator that sets the gauge to the seconds that the code took."""
        return timer(self, "set")

    def set_function(self, f: Callable[[], float]) -> None:
        """As :meth:`mpmetrics.Gauge.set_function`, for this series."""
        self._watch(self, f)


class RecentSeries(RecentCell):
    """One series of a gauge of which the latest value of any process counts: it can be set, not moved."""

    __slots__ = ("_watch",)

    _watch: Callable[[Any, Callable[[], float]], None]

    def inc(self, amount: float = 1) -> None:
        """Not for this mode: RuntimeError."""
        msg = f"gauge {self._name!r} of mode mostrecent can only be set, not moved by {amount!r}; mode sum adds up"
        raise RuntimeError(msg)

    dec = inc
    set_to_current_time = GaugeSeries.set_to_current_time
    time = GaugeSeries.time
    set_function = GaugeSeries.set_function

    def track_inprogress(self) -> InprogressTracker:
        """Not for this mode: RuntimeError."""
        self.inc()
        raise AssertionError


class DistributionSeries(DistributionCell):
    """One series of a histogram or summary."""

    __slots__ = ()

    def time(self) -> Timer:
        """A context manager and decorator that observes the seconds that the code took."""
        return timer(self, "observe")


class ObservedSeries(GaugeCell):
    """One series of an asynchronous counter or up-down counter: its total so far is set, not moved."""

    __slots__ = ()


def make_series(family: Family, guard: Guard, segment: Segment, index: int) -> Any:
    """The cell of a series of ``family`` whose words are at ``index`` of ``segment``."""
    if family.kind in ("histogram", "summary"):
        return DistributionSeries(guard, segment, index, family.bounds or (math.inf,), family.name)
    if family.kind == "sketch":
        return SketchCell(guard, segment, index, LAYOUTS[family.mode], family.name)
    if family.temporality == "cumulative" and family.kind != "gauge":
        return ObservedSeries(guard, segment, index, family.name)
    if family.kind == "gauge":
        recent = family.mode.endswith("mostrecent")
        return (RecentSeries if recent else GaugeSeries)(guard, segment, index, family.name)
    return (CounterSeries if family.kind == "counter" else UpDownSeries)(guard, segment, index, family.name)
