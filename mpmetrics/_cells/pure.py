"""The cells of the pure-Python twin; the package's docstring is the contract.

Each atomic step is a straight line of code without calls, which begins with the comparison of the cell's stamp. The
interpreter switches threads and runs signal handlers only at the start of a function, after a call and at the next turn
of a loop; it runs finalisers only when it collects garbage, that is when it makes an object that the collector tracks,
such as a tuple; and a fork is a call. The line contains none of these, so nothing can interrupt it.

Each store to a word is one aligned 8-byte store: ``memoryview.cast("d")`` copies an item as a whole.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Self, TypeVar

from mpmetrics._cells.exemplars import warn_exemplar_dropped

if TYPE_CHECKING:
    from mpmetrics._cells.children import Children
    from mpmetrics._cells.slab import Slab

__all__ = ["Cell", "CounterCell", "DistributionCell", "GaugeCell", "RecentCell", "private_words", "without_gc"]

Kind = TypeVar("Kind", bound="type[Cell]")


def without_gc(kind: Kind) -> Kind:
    """The same class of cells; in C, one whose instances the garbage collector does not track."""
    return kind


def _as_number(amount: Any) -> float:
    """An amount of any type as a float. TypeError if it is no number; text is none, although ``float`` accepts it."""
    if isinstance(amount, str | bytes | bytearray):
        msg = f"must be real number, not {type(amount).__name__}"
        raise TypeError(msg)
    return float(amount)


def private_words(width: int) -> tuple[memoryview[float], memoryview[int]]:
    """``width`` words in private memory, all zero, as doubles and as u64."""
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
    """Whether the series has ended: operations on it have no effect."""

    @staticmethod
    def words_of(_family: Any) -> int:
        """The number of words of a series of the family."""
        return 1

    def __new__(cls, *_: object) -> Self:
        """Raise TypeError: only ``Children.make`` makes cells."""
        msg = f"only Children.make makes a {cls.__name__}"
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
        """Give the cell words of this process."""
        if self._words is None:
            msg = f"this series of {self._name!r} has no words yet"
            raise RuntimeError(msg)
        if not self.gone:
            self._children.bind(self)
        if self.gone:  # its words are private memory, in any process
            self._stamp = self._live[0]

    @property
    def _name(self) -> str:
        return self._children.name

    @property
    def place(self) -> int | None:
        """Number of its first word in the process's slab; None if it is not in the slab."""
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

        Raises ValueError, and changes nothing, when it is negative or not a number. ``exemplar`` is accepted for
        compatibility but not kept; the first one logs a warning.
        """
        if exemplar is not None:
            warn_exemplar_dropped()
        if amount.__class__ is not int and amount.__class__ is not float:
            amount = _as_number(amount)
        if not amount >= 0:
            msg = f"counter {self._name!r} can only go up: it cannot be increased by {amount!r}"
            raise ValueError(msg)
        while self._live[0] != self._stamp:
            amount = float(amount)  # an integer that is too large raises before the series gets words
            self._ready()
        self._words[self._at] += amount


class GaugeCell(Cell):
    """One word that goes up and down. All bits zero: never set. A value of zero is stored as -0.0."""

    __slots__ = ()

    def inc(self, amount: float = 1) -> None:
        """Add ``amount``. Safe from any thread, signal handler or finaliser."""
        if amount.__class__ is not int and amount.__class__ is not float:
            amount = _as_number(amount)
        while self._live[0] != self._stamp:
            amount = float(amount)  # as in CounterCell
            self._ready()
        words, at = self._words, self._at
        words[at] = (words[at] + amount) or -0.0

    def dec(self, amount: float = 1) -> None:
        """Subtract ``amount``. Safe from any thread, signal handler or finaliser."""
        self.inc(-_as_number(amount))

    def set(self, value: float) -> None:
        """Set the value. Safe from any thread, signal handler or finaliser."""
        value = float(value) or -0.0
        while self._live[0] != self._stamp:
            self._ready()
        self._words[self._at] = value

    def unset(self) -> None:
        """Return to the state of a gauge that was never set."""
        while self._live[0] != self._stamp:
            self._ready()
        self._words[self._at] = 0.0


class RecentCell(Cell):
    """A value and the time at which it was set, in two copies. The later copy counts."""

    __slots__ = ()

    @staticmethod
    def words_of(_family: Any) -> int:
        """The number of words of a series of the family."""
        return 4

    def set(self, value: float) -> None:
        """Set the value, with the present time. Safe from any thread, signal handler or finaliser."""
        value = float(value)
        process: Any = self._children.process
        now = monotonic_ns() - process.time_offset
        while self._live[0] != self._stamp:
            self._ready()
        bits, at = self._bits, self._at
        older = at if bits[at + 1] <= bits[at + 3] else at + 2
        # A process's later value always gets a later time, even if the clock is coarse.
        if now <= process._last_time:
            now = process._last_time + 1
        process._last_time = now
        self._words[older] = value
        # The commit: with its later time, this copy counts from now on.
        bits[older + 1] = now

    def unset(self) -> None:
        """Return to the state of a gauge that was never set."""
        while self._live[0] != self._stamp:
            self._ready()
        bits, at = self._bits, self._at
        # Clear the older copy first: until the second store, the later copy still counts.
        older = at + 1 if bits[at + 1] <= bits[at + 3] else at + 3
        bits[older] = 0
        bits[2 * at + 4 - older] = 0


class DistributionCell(Cell):
    """Sum and buckets of observations: a histogram or, with one bucket, a summary."""

    __slots__ = ()

    @staticmethod
    def bounds_of(family: Any) -> tuple[float, ...]:
        """The upper bounds of the buckets; ValueError unless they are floats and the last one is infinite."""
        bounds: tuple[float, ...] = family.bounds or (math.inf,)
        if not all(isinstance(bound, float) for bound in bounds) or bounds[-1] != math.inf:
            msg = f"bounds must be floats, the last one infinite, not {bounds!r}"
            raise ValueError(msg)
        return bounds

    @classmethod
    def words_of(cls, family: Any) -> int:
        """The number of words of a series of the family."""
        return 2 + len(cls.bounds_of(family))

    def observe(self, amount: float, exemplar: object = None) -> None:
        """Count ``amount`` in its bucket and add it to the sum. Safe from any thread, signal handler or finaliser.

        Raises ValueError, and changes nothing, when it is NaN. ``exemplar`` as in :class:`CounterCell`.
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
        # Store the new sum into the word that does not count yet; see the format.
        words[at + 1 - (count & 1)] = words[at + (count & 1)] + amount
        # The commit: with one more observation, the other sum counts.
        words[at + bucket] += 1.0
        self._count = count + 1
