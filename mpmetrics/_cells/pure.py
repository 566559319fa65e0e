"""The cells of the pure-Python twin; see the package for the contract.

What has to be one step stands in a straight line of code without calls, and begins with the comparison of a cell's
stamp. The interpreter lets threads and signal handlers in where a function begins, after a call and where a loop begins
anew; finalisers run where the garbage collector does, which is when an object is made that it looks after, such as a
tuple; and a fork is a call. None of these is in the line, so nothing comes between its beginning and its end.

Every store to words is one aligned 8-byte store: ``memoryview.cast("d")`` copies an item as a whole.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Self, TypeVar

from mpmetrics._cells.amount import as_number
from mpmetrics._cells.exemplars import warn_exemplar_dropped

if TYPE_CHECKING:
    from mpmetrics._cells.children import Children
    from mpmetrics._cells.slab import Slab

__all__ = ["Cell", "CounterCell", "DistributionCell", "GaugeCell", "RecentCell", "private_words", "without_gc"]

Kind = TypeVar("Kind", bound="type[Cell]")


def without_gc(kind: Kind) -> Kind:
    """The same kind of cell, as a class that the garbage collector has nothing to do with: in C alone."""
    return kind


def private_words(width: int) -> tuple[memoryview[float], memoryview[int]]:
    """So many words in memory, all zero, as numbers and as bits."""
    memory = memoryview(bytearray(8 * width))
    return memory.cast("d"), memory.cast("Q")


class Cell:
    """One series in this process; made by :meth:`Children.make` alone."""

    __slots__ = ("_at", "_bits", "_children", "_count", "_key", "_live", "_slab", "_stamp", "_words", "gone")

    _children: Children
    _key: tuple[str, ...] | None
    _live: memoryview[int]
    _stamp: int
    _words: memoryview[float]
    _bits: memoryview[int]
    _slab: Slab | None
    _at: int
    _count: int
    gone: bool
    """Whether it was ended: what is done to it has no effect."""

    @staticmethod
    def words_of(_family: Any) -> int:
        """Words that a series of the family has."""
        return 1

    def __new__(cls, *_: object) -> Self:
        """TypeError: only a metric makes its series."""
        msg = f"a {cls.__name__} is made by Children.make"
        raise TypeError(msg)

    @classmethod
    def new(cls, children: Children, key: tuple[str, ...] | None) -> Self:
        """A cell without words yet."""
        self = object.__new__(cls)
        self._children = children
        self._key = key
        self._live = children.process._counting
        self._stamp = -1  # no token
        self._words = self._bits = None  # type: ignore[assignment]
        self._slab = None
        self._at = 0
        self._count = 0
        self.gone = False
        return self

    def _ready(self) -> None:
        """See to it that the words are this process's."""
        if self._words is None:
            msg = f"this series of {self._name!r} is not made yet"
            raise RuntimeError(msg)
        if not self.gone:
            self._children.bind(self)
        if self.gone:  # it has memory of its own, in whatever process
            self._stamp = self._live[0]

    @property
    def _name(self) -> str:
        return self._children.name

    @property
    def place(self) -> int | None:
        """Number of its first word in the process's slab; None: it is not there."""
        process = self._children.process
        is_there = self._slab is not None and self._slab is process.slab and process.begun == process.token
        return self._at if is_there and self._stamp == process.token and not self.gone else None

    def values(self) -> list[float]:
        """Its words."""
        return [*self._words[self._at : self._at + self._children.width]]


class CounterCell(Cell):
    """One word that only grows."""

    __slots__ = ()

    def inc(self, amount: float = 1, exemplar: object = None) -> None:
        """Add ``amount``. Safe from any thread, signal handler or finaliser.

        Raises ValueError when it is negative or not a number; the value is unchanged then. ``exemplar`` is accepted
        for compatibility and not kept, which is said once in the log.
        """
        if exemplar is not None:
            warn_exemplar_dropped()
        if amount.__class__ is not int and amount.__class__ is not float:
            amount = as_number(amount)
        if not amount >= 0:
            msg = f"counter {self._name!r} can only go up: it cannot be increased by {amount!r}"
            raise ValueError(msg)
        while self._live[0] != self._stamp:
            self._ready()
        self._words[self._at] += amount


class GaugeCell(Cell):
    """One word that goes up and down; all bits zero mean that it was never set, so zero is stored as -0.0."""

    __slots__ = ()

    def inc(self, amount: float = 1) -> None:
        """Add ``amount``. Safe from any thread, signal handler or finaliser."""
        if amount.__class__ is not int and amount.__class__ is not float:
            amount = as_number(amount)
        while self._live[0] != self._stamp:
            self._ready()
        words, at = self._words, self._at
        words[at] = (words[at] + amount) or -0.0

    def dec(self, amount: float = 1) -> None:
        """Subtract ``amount``. Safe from any thread, signal handler or finaliser."""
        self.inc(-as_number(amount))

    def set(self, value: float) -> None:
        """Set the value. Safe from any thread, signal handler or finaliser."""
        value = float(value) or -0.0
        while self._live[0] != self._stamp:
            self._ready()
        self._words[self._at] = value

    def unset(self) -> None:
        """Be as if it had never been set."""
        while self._live[0] != self._stamp:
            self._ready()
        self._words[self._at] = 0.0


class RecentCell(Cell):
    """A value and the time it was set, in two copies of which the later counts."""

    __slots__ = ()

    @staticmethod
    def words_of(_family: Any) -> int:
        """Words that a series of the family has."""
        return 4

    def set(self, value: float) -> None:
        """Set the value as of now. Safe from any thread, signal handler or finaliser."""
        value = float(value)
        process: Any = self._children.process
        now = monotonic_ns() - process.time_offset
        while self._live[0] != self._stamp:
            self._ready()
        bits, at = self._bits, self._at
        older = at if bits[at + 1] <= bits[at + 3] else at + 2
        # Of two values of one process, the later one has the later time, however coarse the clock is.
        if now <= process._last_time:
            now = process._last_time + 1
        process._last_time = now
        self._words[older] = value
        # The commit: with the later time this copy counts, until then the other one does.
        bits[older + 1] = now

    def unset(self) -> None:
        """Be as if it had never been set."""
        while self._live[0] != self._stamp:
            self._ready()
        bits, at = self._bits, self._at
        # The older copy first: while only the later one is left, it is the one that counts, as before.
        older = at + 1 if bits[at + 1] <= bits[at + 3] else at + 3
        bits[older] = 0
        bits[2 * at + 4 - older] = 0


class DistributionCell(Cell):
    """Sum and buckets of observations: a histogram, or with one bucket a summary."""

    __slots__ = ()

    @staticmethod
    def bounds_of(family: Any) -> tuple[float, ...]:
        """The upper bounds of its buckets; ValueError unless they are floats, the last one infinite."""
        bounds: tuple[float, ...] = family.bounds or (math.inf,)
        if not all(isinstance(bound, float) for bound in bounds) or bounds[-1] != math.inf:
            msg = f"bounds are floats, the last one infinite: {bounds!r}"
            raise ValueError(msg)
        return bounds

    @classmethod
    def words_of(cls, family: Any) -> int:
        """Words that a series of the family has."""
        return 2 + len(cls.bounds_of(family))

    def observe(self, amount: float, exemplar: object = None) -> None:
        """Count ``amount`` in its bucket and add it to the sum. Safe from any thread, signal handler or finaliser.

        Raises ValueError when it is not a number; nothing is changed then. ``exemplar`` as in :class:`CounterCell`.
        """
        if exemplar is not None:
            warn_exemplar_dropped()
        amount = float(amount)
        if amount != amount:  # noqa: PLR0124 (only NaN differs from itself; math.isnan costs a call)
            msg = f"{self._name!r} cannot observe {amount!r}, which is not a number: it belongs to no bucket"
            raise ValueError(msg)
        bounds: Any = self._children.bounds
        bucket = 2 + bisect_left(bounds, amount)
        while self._live[0] != self._stamp:
            self._ready()
        words, at = self._words, self._at
        count = self._count
        # Whether the number of observations is odd tells which of the two sums counts; see the format.
        words[at + 1 - (count & 1)] = words[at + (count & 1)] + amount
        # The commit: with one observation more, the other sum counts.
        words[at + bucket] += 1.0
        self._count = count + 1
