"""The pure-Python twin of the hot words; see the package for the contract.

The way through the guard stands in each of the hot operations, and once more in the sketch's: a call has its price.

Every store to ``words`` is one aligned 8-byte store: ``memoryview.cast("d")`` copies an item as a whole.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import Protocol

from mpmetrics._cells.amount import as_number
from mpmetrics._cells.exemplars import say_not_kept
from mpmetrics._cells.guard import Guard, Queue

__all__ = ["CounterCell", "DistributionCell", "GaugeCell", "Guard", "RecentCell", "Segment", "Words"]


class Words(Protocol):
    """Words of 8 bytes: a ``memoryview`` of format ``d``, or what stands in for one before the slab is leased."""

    def __getitem__(self, index: int, /) -> float:
        """Load a word."""

    def __setitem__(self, index: int, value: float, /) -> None:
        """Store a word."""


class Segment:
    """A run of words that cells write to; ``words`` is replaced by the segment's owner only."""

    __slots__ = ("words",)

    def __init__(self, words: Words) -> None:
        self.words = words


class _Cell:
    __slots__ = ("_guard", "_index", "_name", "_segment")

    def __init__(self, guard: Guard, segment: Segment, index: int, name: str = "") -> None:
        self._name = name
        self._guard = guard
        self._segment = segment
        self._index = index

    def place(self, segment: Segment, index: int) -> None:
        """Have all later writes go to the words at ``index`` of ``segment``. Call it under the guard."""
        self._segment = segment
        self._index = index


class CounterCell(_Cell):
    """One word that only grows."""

    __slots__ = ()

    def inc(self, amount: float = 1, exemplar: object = None) -> None:
        """Add ``amount``. Safe from any thread, signal handler or finaliser.

        Raises ValueError when it is negative or not a number; the value is unchanged then. ``exemplar`` is accepted
        for compatibility and not kept, which is said once in the log.
        """
        if exemplar is not None:
            say_not_kept()
        if amount.__class__ is not int and amount.__class__ is not float:
            amount = as_number(amount)
        if not amount >= 0:
            msg = f"counter {self._name!r} can only go up: it cannot be increased by {amount!r}"
            raise ValueError(msg)
        guard = self._guard
        free = guard.free
        try:
            del free[0]
        except KeyError:
            guard.later(self._add, float(amount))
            return
        try:
            self._segment.words[self._index] += amount
        finally:
            free[0] = None
        if guard.queue:
            try:
                guard.drain()
            except BaseException:  # a signal that came in above is handled when the call begins
                guard.drain()
                raise

    def _add(self, amount: float) -> None:
        queue = self._guard.queue
        self._segment.words[self._index] += amount
        if queue:
            del queue[0]


class GaugeCell(_Cell):
    """One word that goes up and down; all bits zero mean that it was never set, so zero is stored as -0.0."""

    __slots__ = ()

    def inc(self, amount: float = 1) -> None:
        """Add ``amount``. Safe from any thread, signal handler or finaliser."""
        if amount.__class__ is not int and amount.__class__ is not float:
            amount = as_number(amount)
        guard = self._guard
        free = guard.free
        try:
            del free[0]
        except KeyError:
            guard.later(self._add, float(amount))
            return
        try:
            words, index = self._segment.words, self._index
            words[index] = (words[index] + amount) or -0.0
        finally:
            free[0] = None
        if guard.queue:
            try:
                guard.drain()
            except BaseException:  # a signal that came in above is handled when the call begins
                guard.drain()
                raise

    def dec(self, amount: float = 1) -> None:
        """Subtract ``amount``. Safe from any thread, signal handler or finaliser."""
        self.inc(-as_number(amount))

    def set(self, value: float) -> None:
        """Set the value. Safe from any thread, signal handler or finaliser."""
        value = float(value) or -0.0
        guard = self._guard
        free = guard.free
        try:
            del free[0]
        except KeyError:
            guard.later(self._set, value)
            return
        try:
            self._segment.words[self._index] = value
        finally:
            free[0] = None
        if guard.queue:
            try:
                guard.drain()
            except BaseException:  # a signal that came in above is handled when the call begins
                guard.drain()
                raise

    def unset(self) -> None:
        """Be as if it had never been set."""
        self._guard.later(self._set, 0.0)

    def _add(self, amount: float) -> None:
        queue, words, index = self._guard.queue, self._segment.words, self._index
        words[index] = (words[index] + amount) or -0.0
        if queue:
            del queue[0]

    def _set(self, value: float) -> None:
        queue = self._guard.queue
        self._segment.words[self._index] = value
        if queue:
            del queue[0]


class RecentCell(_Cell):
    """A value and the time it was set, in two copies of which the later counts."""

    __slots__ = ()

    def set(self, value: float) -> None:
        """Set the value as of now. Safe from any thread, signal handler or finaliser."""
        self._guard.later(self._set, (float(value), time.time()))

    def _set(self, pair: tuple[float, float]) -> None:
        value, now = pair
        queue = self._guard.queue
        words, index = self._segment.words, self._index
        first, second = words[index + 1], words[index + 3]
        older = index if first <= second else index + 2
        # Times must grow for the copies to be told apart, whatever the clock does.
        latest = max(first, second)
        words[older] = value
        # The commit: with the later time this copy counts, until then the other one does.
        words[older + 1] = now if now > latest else _next_time(latest)
        if queue:
            del queue[0]

    def unset(self) -> None:
        """Be as if it had never been set."""
        self._guard.later(self._unset, None)

    def _unset(self, _: None) -> None:
        queue, words, index = self._guard.queue, self._segment.words, self._index
        # The older copy first: while only the later one is left, it is the one that counts, as before.
        for at in sorted((index, index + 2), key=lambda at: words[at + 1]):
            words[at + 1] = 0.0
        if queue:
            del queue[0]


def _next_time(latest: float) -> float:
    return latest + 1e-6


class DistributionCell(_Cell):
    """Sum and buckets of observations: a histogram, or with one bucket a summary."""

    __slots__ = ("_bounds", "_counted", "_odd")

    def __init__(self, guard: Guard, segment: Segment, index: int, bounds: tuple[float, ...], name: str = "") -> None:
        super().__init__(guard, segment, index, name)
        self._bounds = bounds
        self._counted: Words | None = None
        self._odd = 0

    def observe(self, amount: float, exemplar: object = None) -> None:
        """Count ``amount`` in its bucket and add it to the sum. Safe from any thread, signal handler or finaliser.

        Raises ValueError when it is not a number; nothing is changed then. ``exemplar`` as in :class:`CounterCell`.
        """
        if exemplar is not None:
            say_not_kept()
        amount = float(amount)
        if amount != amount:  # noqa: PLR0124 (only NaN differs from itself; math.isnan costs a call)
            msg = f"{self._name!r} cannot observe {amount!r}, which is not a number: it belongs to no bucket"
            raise ValueError(msg)
        guard = self._guard
        free = guard.free
        try:
            del free[0]
        except KeyError:
            guard.later(self._observe_queued, amount)
            return
        try:
            self._observe(amount)
        finally:
            free[0] = None
        if guard.queue:
            try:
                guard.drain()
            except BaseException:  # a signal that came in above is handled when the call begins
                guard.drain()
                raise

    def _observe_queued(self, amount: float) -> None:
        self._observe(amount, self._guard.queue)

    def _observe(self, amount: float, queue: Queue | tuple[()] = ()) -> None:
        words, index = self._segment.words, self._index
        bucket = index + 2 + bisect_left(self._bounds, amount)
        # Whether the number of observations is odd tells which of the two sums counts; see the format.
        odd = self._odd if words is self._counted else self._count_odd(words, index)
        self._counted = None
        words[index + 1 - odd] = words[index + odd] + amount
        # The commit: with one observation more, the other sum counts.
        words[bucket] += 1.0
        if queue:
            del queue[0]
        self._odd = 1 - odd
        self._counted = words

    def _count_odd(self, words: Words, index: int) -> int:
        """Count the observations, in words that this cell has not written to before."""
        return int(sum(words[position] for position in range(index + 2, index + 2 + len(self._bounds)))) & 1
