"""One series of each kind of instrument: the cells of the hot path, with what is convenient to have on them."""

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
from mpmetrics.instruments.watched import watch
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
        """A context manager and decorator that counts exceptions of these types that leave the code."""
        return exception_counter(self, exception)


@without_gc
class UpDownSeries(GaugeCell):
    """One series of an up-down counter."""

    __slots__ = ()

    set = None  # type: ignore[assignment]  # a sum over processes cannot be set by one of them

    def track_inprogress(self) -> InprogressTracker:
        """A context manager and decorator that counts up on entry and down on exit."""
        return inprogress(self)


@without_gc
class GaugeSeries(GaugeCell):
    """One series of a gauge."""

    __slots__ = ()

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
        watch(self, f)


@without_gc
class RecentSeries(RecentCell):
    """One series of a gauge of which the latest value of any process counts: it can be set, not moved."""

    __slots__ = ()

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


@without_gc
class DistributionSeries(DistributionCell):
    """One series of a histogram or summary."""

    __slots__ = ()

    def time(self) -> Timer:
        """A context manager and decorator that observes the seconds that the code took."""
        return timer(self, "observe")


@without_gc
class ObservedSeries(GaugeCell):
    """One series of an asynchronous counter or up-down counter: its total so far is set, not moved."""

    __slots__ = ()


@without_gc
class EnumSeries(RecentCell):
    """One series of an enum."""

    __slots__ = ()

    def state(self, state: str) -> None:
        """Say that this is the state now; ValueError when it is none of the metric's states."""
        if self.gone:
            return  # nothing that is done to it shows
        states: tuple[str, ...] = self._children.family.states
        if state not in states:
            state = text(state)  # as it was taken when the metric was made
        if state not in states:
            msg = f"enum {self._name!r}: {state!r} is none of the states {states}"
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
    """What a series of ``family`` is."""
    if family.temporality == "cumulative" and family.kind != "gauge":
        return ObservedSeries
    if family.mode.endswith("mostrecent"):
        return RecentSeries
    return _TYPES[family.kind]
