"""The series of each kind of instrument: a cell, which does the hot path, and convenience methods."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpmetrics._cells import CounterCell, DistributionCell, GaugeCell, RecentCell, SketchCell, without_gc
from mpmetrics.instruments.contexts import (
    ExceptionCounter,
    Exceptions,
    InprogressTracker,
    Timer,
    exception_counter,
    inprogress,
    timer,
)
from mpmetrics.instruments.gauge_function import serve_function
from mpmetrics.names.naming import text

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics._cells import Cell
    from mpmetrics.names.family import Family

__all__ = [
    "CounterSeries",
    "DistributionSeries",
    "EnumSeries",
    "GaugeSeries",
    "RecentSeries",
    "UpDownSeries",
    "cell_type",
]


@without_gc
class CounterSeries(CounterCell):
    """One series of a counter."""

    __slots__ = ()

    def count_exceptions(self, exception: Exceptions = Exception) -> ExceptionCounter:
        """Return a context manager and decorator that counts the exceptions of these types that leave the code."""
        return exception_counter(self, exception)


@without_gc
class UpDownSeries(GaugeCell):
    """One series of an up-down counter."""

    __slots__ = ()

    set = None  # type: ignore[assignment]  # one process cannot set a sum over processes

    def track_inprogress(self) -> InprogressTracker:
        """Return a context manager and decorator that adds 1 on entry and subtracts 1 on exit."""
        return inprogress(self)


@without_gc
class GaugeSeries(GaugeCell):
    """One series of a gauge."""

    __slots__ = ()

    def set_to_current_time(self) -> None:
        """Set to the Unix time in seconds."""
        self.set(time.time())

    def track_inprogress(self) -> InprogressTracker:
        """Return a context manager and decorator that adds 1 on entry and subtracts 1 on exit."""
        return inprogress(self)

    def time(self) -> Timer:
        """Return a context manager and decorator that sets the gauge to the duration of the code in seconds."""
        return timer(self, "set")

    def set_function(self, f: Callable[[], float]) -> None:
        """As :meth:`mpmetrics.Gauge.set_function`, for this series."""
        serve_function(self, f)


@without_gc
class RecentSeries(RecentCell):
    """One series of a gauge of mode mostrecent: it can be set, but not incremented."""

    __slots__ = ()

    def inc(self, amount: float = 1) -> None:
        """Raise RuntimeError: this mode has no increments."""
        msg = f"gauge {self._name!r} of mode mostrecent can be set, but not moved by {amount!r}; use mode sum for that"
        raise RuntimeError(msg)

    dec = inc
    set_to_current_time = GaugeSeries.set_to_current_time
    time = GaugeSeries.time
    set_function = GaugeSeries.set_function

    def track_inprogress(self) -> InprogressTracker:
        """Raise RuntimeError: this mode has no increments."""
        self.inc()
        raise AssertionError


@without_gc
class DistributionSeries(DistributionCell):
    """One series of a histogram or summary."""

    __slots__ = ()

    def time(self) -> Timer:
        """Return a context manager and decorator that observes the duration of the code in seconds."""
        return timer(self, "observe")


@without_gc
class ObservedSeries(GaugeCell):
    """One series of an observable counter or up-down counter: the total so far is set, not incremented."""

    __slots__ = ()


@without_gc
class EnumSeries(RecentCell):
    """One series of an enum."""

    __slots__ = ()

    def state(self, state: str) -> None:
        """Set the current state. ValueError if it is not one of the metric's states."""
        if self.gone:
            return  # the series was removed, so no value of it shows
        states: tuple[str, ...] = self._children.family.states
        if state not in states:
            state = text(state)  # the states are stored as this text
        if state not in states:
            msg = f"enum {self._name!r}: {state!r} is not one of the states {states}"
            raise ValueError(msg)
        self.set(states.index(state))


_TYPES: dict[str, type[Cell]] = {
    "counter": CounterSeries,
    "updowncounter": UpDownSeries,
    "gauge": GaugeSeries,
    "histogram": DistributionSeries,
    "summary": DistributionSeries,
    "sketch": SketchCell,
    "info": RecentCell,
    "enum": EnumSeries,
}


def cell_type(family: Family) -> type[Cell]:
    """Return the class of the series of ``family``."""
    if family.temporality == "cumulative" and family.kind != "gauge":
        return ObservedSeries
    if family.mode.endswith("mostrecent"):
        return RecentSeries
    return _TYPES[family.kind]
