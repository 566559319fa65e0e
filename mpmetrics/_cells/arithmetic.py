"""Sums, extremes and sketches over the words of several processes. Pure functions of numbers; no files.

Sums are exact and rounded once (``math.fsum``), so they do not depend on the order of the addends. A total does not
change by a rounding error when a dead process's share moves into the retired file: that file also keeps the rest that
rounding leaves.
"""

from __future__ import annotations

import functools
import math
import operator
from typing import TYPE_CHECKING

from mpmetrics._cells.sketch import RECORD

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mpmetrics._cells import Source, Table

__all__ = ["distribution_sum", "extreme", "is_set", "merged_sketch", "sketch_record", "total", "total_and_rest"]


def total(addends: Iterable[float]) -> float:
    """The exact sum, rounded once; infinities and NaN add up as in IEEE 754."""
    addends = list(addends)
    try:
        return math.fsum(addends)
    except (ValueError, OverflowError):  # inf - inf, or a partial sum past the largest double
        return functools.reduce(operator.add, addends, 0.0)  # not sum(), whose rounding depends on Python's version


def total_and_rest(addends: Sequence[float]) -> tuple[float, float]:
    """The exact sum in two doubles: the rounded sum, and the rest that rounding left."""
    value = total(addends)
    rest = total([*addends, -value]) if math.isfinite(value) else 0.0
    return value, rest


def is_set(value: float) -> bool:
    """Whether a gauge's word was ever set. All bits zero: never set. A value of zero is stored as -0.0."""
    return value != 0.0 or math.copysign(1.0, value) < 0.0


def extreme(mode: str, values: Sequence[float]) -> float:
    """The ``min`` or ``max``, by ``mode``, of one or more values; NaN only if all are NaN."""
    numbers = [value for value in values if not math.isnan(value)]
    if not numbers:
        return math.nan
    return min(numbers) if mode == "min" else max(numbers)


def distribution_sum(words: Sequence[float]) -> float:
    """The sum that counts, of a slab's words ``sum, sum, bucket, ...``."""
    count = sum(words[2:])
    # A count that is not finite comes from a damaged file: then either word will do.
    return words[int(count) & 1 if math.isfinite(count) else 0]


def sketch_record(words: Sequence[float]) -> Sequence[float]:
    """The record that counts, of the words of a sketch in a slab."""
    count = sum(words[2 * RECORD :])
    first = RECORD * (int(count) & 1) if math.isfinite(count) else 0
    return words[first : first + RECORD]


def merged_sketch(table: Table, row: int, sources: Iterable[Source], size: int) -> tuple[list[float], list[float]]:
    """The record of a row, merged over all sources, and its ``size`` buckets, not cumulative.

    In the record, sum and sum of squares are exact, in two words each. Minimum and maximum are 0.0 when nothing was
    counted.
    """
    records: list[Sequence[float]] = []
    columns: list[Sequence[float]] = []
    for source in sources:
        words = source.words(table, row)
        if words is not None:
            records.append(words[:RECORD] if source.is_retired else sketch_record(words))
            columns.append(words[-size:])
    record: list[float] = []
    for position in (0, 2):
        record += total_and_rest([word for words in records for word in words[position : position + 2]])
    for position, mode in ((4, "min"), (5, "max")):
        values = [words[position] for words in records if is_set(words[position])]
        record.append(extreme(mode, values) + 0.0 if values else 0.0)
    return record, [total(counts) for counts in zip(*columns, strict=True)] if columns else [0.0] * size
