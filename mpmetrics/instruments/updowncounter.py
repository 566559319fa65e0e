"""UpDownCounter: a total that goes up and down, summed over processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from mpmetrics.instruments.instrument import DEFAULT_MAX_SERIES, Instrument
from mpmetrics.instruments.series import UpDownSeries

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpmetrics.instruments.contexts import InprogressTracker
    from mpmetrics.provider_base import ProviderBase

__all__ = ["UpDownCounter"]


class UpDownCounter(Instrument[UpDownSeries]):
    """A total that goes up and down: open jobs, items in stock. Exposed as a gauge.

    ``multiprocess_mode`` is ``"sum"`` (the default: the total over all processes, dead ones included) or ``"livesum"``
    (the total over living processes). Other arguments as in :class:`~mpmetrics.instruments.instrument.Instrument`.
    """

    _kind = "updowncounter"
    _hot = ("inc", "dec")

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
        multiprocess_mode: Literal["sum", "livesum"] = "sum",
        provider: ProviderBase | None = None,
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> None:
        if multiprocess_mode not in ("sum", "livesum"):
            msg = f"up-down counter {name!r}: multiprocess_mode must be 'sum' or 'livesum', not {multiprocess_mode!r}"
            raise ValueError(msg)
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

    def _particulars(self) -> dict[str, Any]:
        return {"mode": self._mode}

    def inc(self, amount: float = 1) -> None:
        """Add ``amount``."""
        self._only().inc(amount)

    def dec(self, amount: float = 1) -> None:
        """Subtract ``amount``."""
        self._only().dec(amount)

    def track_inprogress(self) -> InprogressTracker:
        """Return a context manager and decorator that adds 1 on entry and subtracts 1 on exit."""
        return self._only().track_inprogress()
