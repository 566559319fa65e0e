"""UpDownCounter: a total that goes up and down, summed over processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from mpmetrics._cells import GaugeCell
from mpmetrics.instruments.base import Instrument
from mpmetrics.instruments.contexts import InprogressTracker, inprogress

if TYPE_CHECKING:
    from mpmetrics._cells import Guard, Segment

__all__ = ["UpDownCounter", "UpDownSeries"]


class UpDownSeries(GaugeCell):
    """One series of an up-down counter."""

    __slots__ = ()

    set = None  # type: ignore[assignment]  # a sum over processes cannot be set by one of them

    def track_inprogress(self) -> InprogressTracker:
        """A context manager and decorator that counts up on entry and down on exit."""
        return inprogress(self)


class UpDownCounter(Instrument[UpDownSeries]):
    """A total that goes up and down: jobs open, items in stock. Exposed as a gauge.

    ``multiprocess_mode`` is ``"sum"`` (the default: adds up over processes, the dead included) or ``"livesum"`` (what
    a process added is forgotten when it ends). Other arguments as in :class:`~mpmetrics.instruments.base.Instrument`.
    """

    _kind = "updowncounter"

    def __init__(self, *args: Any, multiprocess_mode: Literal["sum", "livesum"] = "sum", **kwargs: Any) -> None:
        if multiprocess_mode not in ("sum", "livesum"):
            msg = f"an up-down counter's multiprocess_mode is 'sum' or 'livesum', not {multiprocess_mode!r}"
            raise ValueError(msg)
        super().__init__(*args, mode=multiprocess_mode, **kwargs)
        if not self._family.labels:
            self.__dict__["inc"] = self._only().inc
            self.__dict__["dec"] = self._only().dec

    def _make(self, guard: Guard, segment: Segment, index: int) -> UpDownSeries:
        return UpDownSeries(guard, segment, index)

    def inc(self, amount: float = 1) -> None:
        """Add ``amount``."""
        self._only().inc(amount)

    def dec(self, amount: float = 1) -> None:
        """Subtract ``amount``."""
        self._only().dec(amount)

    def track_inprogress(self) -> InprogressTracker:
        """A context manager and decorator that counts up on entry and down on exit."""
        return self._only().track_inprogress()
