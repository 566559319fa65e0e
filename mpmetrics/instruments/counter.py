"""Counter: a total that only grows, summed over all processes, the dead included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmetrics._cells import CounterCell
from mpmetrics.instruments.base import Instrument
from mpmetrics.instruments.contexts import ExceptionCounter, Exceptions, exception_counter

if TYPE_CHECKING:
    from mpmetrics._cells import Guard, Segment

__all__ = ["Counter", "CounterSeries"]


class CounterSeries(CounterCell):
    """One series of a counter."""

    __slots__ = ()

    def count_exceptions(self, exception: Exceptions = Exception) -> ExceptionCounter:
        """A context manager and decorator that counts exceptions of these types that leave the code."""
        return exception_counter(self, exception)


class Counter(Instrument[CounterSeries]):
    """A total that only grows: requests served, bytes sent. Exposed as ``name_total``.

    Arguments as in :class:`~mpmetrics.instruments.base.Instrument`.
    """

    _kind = "counter"
    _hot = ("inc",)

    def _make(self, guard: Guard, segment: Segment, index: int) -> CounterSeries:
        return CounterSeries(guard, segment, index, self._family.name)

    def inc(self, amount: float = 1, exemplar: object = None) -> None:
        """Add ``amount``, which is not negative, else ValueError."""
        self._only().inc(amount, exemplar)

    def count_exceptions(self, exception: Exceptions = Exception) -> ExceptionCounter:
        """A context manager and decorator that counts exceptions of these types that leave the code."""
        return self._only().count_exceptions(exception)
