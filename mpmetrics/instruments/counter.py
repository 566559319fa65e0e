"""Counter: a total that only grows, summed over all processes, the dead included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmetrics.instruments.base import Instrument
from mpmetrics.instruments.series import CounterSeries

if TYPE_CHECKING:
    from mpmetrics.instruments.contexts import ExceptionCounter, Exceptions

__all__ = ["Counter"]


class Counter(Instrument[CounterSeries]):
    """A total that only grows: requests served, bytes sent. Exposed as ``name_total``.

    Arguments as in :class:`~mpmetrics.instruments.base.Instrument`.
    """

    _kind = "counter"
    _hot = ("inc",)

    def inc(self, amount: float = 1, exemplar: object = None) -> None:
        """Add ``amount``, which is not negative, else ValueError."""
        self._only().inc(amount, exemplar)

    def count_exceptions(self, exception: Exceptions = Exception) -> ExceptionCounter:
        """A context manager and decorator that counts exceptions of these types that leave the code."""
        return self._only().count_exceptions(exception)
