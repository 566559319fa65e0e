"""A sketch: a distribution that gives any percentile. Log-scale buckets, exact sums, smallest and largest value.

Source of the buckets: Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
guarantees" (VLDB 2019). Bucket i holds the values in (L * g^(i-1), L * g^i] with g = (1 + a) / (1 - a); the value
2 * L * g^i / (g + 1) differs from each of them by at most the relative error a. Sketches of one layout merge by adding
their buckets.

Source of the sums: Ogita, Rump, Oishi: "Accurate sum and dot product" (2005), and Dekker: "A floating-point technique
for extending the available precision" (1971). Sum and sum of squares take two words each, the rounded value and the
rest: a variance, the difference of two large sums, stays accurate.
"""

from __future__ import annotations

import math
from typing import Any, Final

from mpmetrics._cells.pure import Cell

__all__ = ["BUCKETS", "LAYOUTS", "RECORD", "Layout", "SketchCell"]

RECORD: Final = 6
"""Words of a record: sum, its rest, sum of squares, its rest, minimum, maximum."""

BUCKETS: Final = 2 * RECORD
"""Where the buckets start: behind two records. One of these counts."""

ERROR: Final = 0.0098
"""Relative error of the value that stands for a bucket; with rounding it stays below 1 %."""

LARGEST: Final = 1e150
"""Largest accepted magnitude: its square is still finite."""

_GROWTH: Final = (1 + ERROR) / (1 - ERROR)
_LOG_GROWTH: Final = math.log(_GROWTH)
_MIDDLE: Final = 2 / (_GROWTH + 1)
_SPLIT: Final = 134217729.0  # 2^27 + 1, halves a double's digits


class Layout:
    """The buckets of a sketch: for magnitudes from ``lowest`` to ``highest``, of negative values, too, if ``signed``.

    Values nearer to zero than ``lowest`` count as ``lowest`` or, if ``signed``, as zero; values beyond ``highest``
    count as ``highest``.
    """

    def __init__(self, lowest: float, highest: float, *, signed: bool) -> None:
        self.lowest = lowest
        self.highest = highest
        self.signed = signed
        self.log_growth = _LOG_GROWTH
        self.side = math.ceil(math.log(highest / lowest) / _LOG_GROWTH) + 1
        self.zero = self.side if signed else -1
        self.size = 2 * self.side + 1 if signed else self.side
        """How many buckets there are."""

    def index(self, value: float) -> int:
        """The bucket of ``value``."""
        magnitude = abs(value)
        if magnitude < self.lowest:
            return self.zero if self.signed else 0
        step = min(max(0, math.ceil(math.log(magnitude / self.lowest) / self.log_growth)), self.side - 1)
        return self.zero + 1 + step if value > 0 else self.zero - 1 - step

    def value(self, index: int) -> float:
        """The value that stands for all values of a bucket."""
        if index == self.zero:
            return 0.0
        step = index - self.zero - 1 if index > self.zero else self.zero - 1 - index
        magnitude = self.lowest * (_GROWTH**step * _MIDDLE if step else 1.0)
        return magnitude if index > self.zero else -magnitude


LAYOUTS: Final = {
    "duration": Layout(1e-9, 86400.0, signed=False),
    "value": Layout(1e-9, 1e15, signed=True),
}
"""By the ``mode`` of a sketch's family: durations in seconds from 1 ns to 1 day, and values of any sign."""


class SketchCell(Cell):
    """Two records and the buckets of a layout. The number of values tells which record counts."""

    __slots__ = ()

    @staticmethod
    def words_of(family: Any) -> int:
        """Words that a series of the family has."""
        return BUCKETS + LAYOUTS[family.mode].size

    def update(self, value: float) -> None:
        """Count ``value``. Safe from any thread, signal handler or finaliser.

        Raises ValueError, and changes nothing, for NaN, for a magnitude above 1e150, and for a negative value if the
        layout is not signed.
        """
        value = float(value)
        layout: Any = self._children.layout
        if not -LARGEST <= value <= LARGEST or (value < 0 and not layout.signed):
            what = "a duration is not negative" if -LARGEST <= value < 0 else "it accepts magnitudes up to 1e150"
            msg = f"{self._name!r} cannot count {value!r}: {what}"
            raise ValueError(msg)
        bucket = BUCKETS + layout.index(value)
        while self._live[0] != self._stamp:
            self._ready()
        words, count = self._words, self._count
        old = new = self._at
        if count & 1:
            old += RECORD
        else:
            new += RECORD
        # The rest that rounding leaves: Knuth's two-sum. Written out twice, since nothing may be called here.
        before = words[old]
        total = before + value
        part = total - before
        words[new] = total
        words[new + 1] = words[old + 1] + ((before - (total - part)) + (value - part))
        square = value * value
        wide = _SPLIT * value
        high = wide - (wide - value)
        low = value - high
        before = words[old + 2]
        total = before + square
        part = total - before
        words[new + 2] = total
        # The rest of the square: Dekker's product.
        left = low * low - ((square - high * high) - 2 * high * low)
        words[new + 3] = words[old + 3] + ((before - (total - part)) + (square - part)) + left
        # All bits zero mean no value yet, so zero is stored as -0.0.
        least, most = words[old + 4], words[old + 5]
        words[new + 4] = least if count and least < value else value or -0.0
        words[new + 5] = most if count and most > value else value or -0.0
        # The commit: with one more value, the other record counts.
        words[self._at + bucket] += 1.0
        self._count = count + 1
