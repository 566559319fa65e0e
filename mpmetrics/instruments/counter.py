"""Counter: a total that only grows, summed over all processes, dead ones included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmetrics.instruments.instrument import Instrument
from mpmetrics.instruments.series import CounterSeries

if TYPE_CHECKING:
    from mpmetrics.instruments.contexts import ExceptionCounter, Exceptions

__all__ = ["Counter"]


class Counter(Instrument[CounterSeries]):
    """A total that only grows: requests served, bytes sent. Exposed as ``name_total``.

    Arguments as in :class:`~mpmetrics.instruments.instrument.Instrument`.
    """

    _kind = "counter"
    _hot = ("inc",)

    def inc(self, amount: float = 1, exemplar: object = None) -> None:
        """Add ``amount``. ValueError, and nothing changes, if it is negative or NaN."""
        self._only().inc(amount, exemplar)

    def count_exceptions(self, exception: Exceptions = Exception) -> ExceptionCounter:
        """Return a context manager and decorator that counts the exceptions of these types that leave the code."""
        return self._only().count_exceptions(exception)
