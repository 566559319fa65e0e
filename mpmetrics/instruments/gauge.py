"""Gauge: a current value, merged over processes by a mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from mpmetrics.instruments.contexts import InprogressTracker, Timer, timer
from mpmetrics.instruments.instrument import DEFAULT_MAX_SERIES, Instrument
from mpmetrics.instruments.series import GaugeSeries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mpmetrics.provider_base import ProviderBase

__all__ = ["Gauge", "GaugeMode", "check_mode"]

GaugeMode = Literal[
    "all", "liveall", "min", "livemin", "max", "livemax", "sum", "livesum", "mostrecent", "livemostrecent"
]


class Gauge(Instrument[GaugeSeries]):
    """A value that goes up and down: a temperature, a pool's size.

    ``multiprocess_mode`` decides what a scrape shows of the values of many processes:

    * ``all``, ``liveall``: one series for each process, labelled ``worker="0"``, ``"1"``, ...
    * ``min``, ``livemin``, ``max``, ``livemax``, ``sum``, ``livesum``: the smallest, the largest, the sum
    * ``mostrecent``, ``livemostrecent``: the value that was set last

    The ``live`` modes drop the value of a process when it ends; the others keep it. The default is ``liveall``. A
    process that never set the gauge has no value. Other arguments as in
    :class:`~mpmetrics.instruments.instrument.Instrument`.
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
        provider: ProviderBase | None = None,
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
        """Return a context manager and decorator that adds 1 on entry and subtracts 1 on exit."""
        return self._only().track_inprogress()

    def set_function(self, f: Callable[[], float]) -> None:
        """Make the value of this process what ``f()`` returns at each scrape; values merge by the mode.

        With a store, each process that called this runs ``f`` at scrape time on a thread of its own. A process that
        does not answer within the collector's time limit keeps its last value for one scrape, and has none after that.
        TypeError unless ``f`` can be called.
        """
        self._only().set_function(f)

    def time(self) -> Timer:
        """Return a context manager and decorator that sets the gauge to the duration of the code in seconds."""
        # As in prometheus_client, labels can also be given to the timer while it runs.
        return timer(self, "set")


def check_mode(name: str, mode: str) -> None:
    """Raise ValueError unless ``mode`` is a :data:`GaugeMode`."""
    if mode not in get_args(GaugeMode):
        modes = ", ".join(get_args(GaugeMode))
        msg = f"gauge {name!r}: multiprocess_mode must be one of {modes}, not {mode!r}"
        raise ValueError(msg)
