"""Gauge: a value of the moment, merged over processes by a mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from mpmetrics.instruments.base import DEFAULT_MAX_SERIES, Instrument
from mpmetrics.instruments.contexts import InprogressTracker, Timer, timer
from mpmetrics.instruments.series import GaugeSeries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mpmetrics.destination import Destination

__all__ = ["Gauge", "GaugeMode", "check_mode"]

GaugeMode = Literal[
    "all", "liveall", "min", "livemin", "max", "livemax", "sum", "livesum", "mostrecent", "livemostrecent"
]


class Gauge(Instrument[GaugeSeries]):
    """A value that goes up and down: a temperature, a pool's size.

    ``multiprocess_mode`` says what one scrape shows of the values of many processes:

    * ``all``, ``liveall``: a series a process, labelled ``worker="0"``, ``"1"``, ...
    * ``min``, ``livemin``, ``max``, ``livemax``, ``sum``, ``livesum``: the smallest, the largest, the sum
    * ``mostrecent``, ``livemostrecent``: what was set last

    The ``live`` modes forget a process as soon as it ends; the others keep its last value. The default is ``liveall``.
    A process that never set the gauge has no value of it. Other arguments as in
    :class:`~mpmetrics.instruments.base.Instrument`.
    """

    _kind = "gauge"
    _hot = ("inc", "dec", "set")

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Iterable[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: None = None,
        *,
        multiprocess_mode: GaugeMode = "liveall",
        provider: Destination | None = None,
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> None:
        check_mode(name, multiprocess_mode)
        self._mode = multiprocess_mode
        super().__init__(
            name,
            documentation,
            labelnames,
            namespace,
            subsystem,
            unit,
            registry,
            provider=provider,
            max_series=max_series,
        )

    def _reserved_labels(self, _name: str) -> tuple[str, ...]:
        return ("worker",) if self._mode.endswith("all") else ()

    def _particulars(self) -> dict[str, Any]:
        return {"mode": self._mode}

    def inc(self, amount: float = 1) -> None:
        """Add ``amount`` to this process's value."""
        self._only().inc(amount)

    def dec(self, amount: float = 1) -> None:
        """Subtract ``amount`` from this process's value."""
        self._only().dec(amount)

    def set(self, value: float) -> None:
        """Set this process's value."""
        self._only().set(value)

    def set_to_current_time(self) -> None:
        """Set this process's value to the Unix time in seconds."""
        self._only().set_to_current_time()

    def track_inprogress(self) -> InprogressTracker:
        """A context manager and decorator that counts up on entry and down on exit."""
        return self._only().track_inprogress()

    def set_function(self, f: Callable[[], float]) -> None:
        """Have the value be what ``f()`` returns in each process, whenever somebody looks, merged by the mode.

        With a store, each process that has called this runs ``f`` at scrape time, on a thread of its own. A process
        that does not answer within the collector's time keeps its last value for one scrape, then has none.
        TypeError unless ``f`` can be called.
        """
        self._only().set_function(f)

    def time(self) -> Timer:
        """A context manager and decorator that sets the gauge to the seconds that the code took."""
        # With labels, prometheus_client lets the labels be chosen on the timer, before it ends.
        return timer(self, "set")


def check_mode(name: str, mode: str) -> None:
    """ValueError unless ``mode`` is a :data:`GaugeMode`."""
    if mode not in get_args(GaugeMode):
        modes = ", ".join(get_args(GaugeMode))
        msg = f"gauge {name!r}: multiprocess_mode is one of {modes}, not {mode!r}"
        raise ValueError(msg)
