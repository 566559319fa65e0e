"""Merge the values of the series of many sources; the pure-Python twin.

Each function takes a table and the sources to merge, and works on all rows at once. Results are row-major: the values
of the first row, then of the second, and so on. In a *mask*, a byte that is not zero says that there is a value. Never
change a result: a later call may return the same object.

Between two scrapes, most words of most processes do not change, and comparing bytes is a hundred times faster here than
adding numbers. So only blocks of rows in which a word changed are computed again.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain, repeat
from operator import or_
from typing import TYPE_CHECKING, Any, Final, cast

from mpmetrics._cells.arithmetic import distribution_sum, extreme, is_set, total, total_and_rest
from mpmetrics._cells.rows import parts_of
from mpmetrics._cells.sketch import RECORD
from mpmetrics._cells.words import differing, runs

if TYPE_CHECKING:
    from mpmetrics._cells.index import Table
    from mpmetrics._cells.source import Source

__all__ = [
    "Vector",
    "distributions",
    "extremes",
    "folded_distributions",
    "levels",
    "recents",
    "retired_ordinals",
    "sums",
    "sums_and_rests",
]

Vector = Sequence[float]
"""A buffer of doubles: here an array, in the compiled twin a memoryview."""

_Group = list["array[float]"]
"""Columns: each holds one word of each row."""

_PAIR: Final = 2
_RECENT: Final = 4


def _recompute_changed(
    table: Table, key: object, groups: list[_Group], compute: Callable[[list[_Group], int], tuple[Any, ...]]
) -> tuple[Any, ...]:
    """Call ``compute(groups, rows)`` for the rows that changed since the last call; keep the results of the others.

    ``compute`` returns arrays with the same number of items for each row. ``key`` identifies the cached results.
    """
    rows = len(table)
    shape = rows, [len(group) for group in groups]
    cached = table.cache.get(key)
    results: tuple[Any, ...]
    if cached is None or cached[0] != shape:
        results = compute(groups, rows)
    else:
        results = cached[2]
        changed: set[tuple[int, int]] = set()
        for now, before in zip(chain.from_iterable(groups), chain.from_iterable(cached[1]), strict=True):
            if now is not before:
                changed.update(differing(now.tobytes(), before.tobytes()))
        if changed:
            results = tuple(result[:] for result in results)
        for low, high in runs(sorted(changed)):
            parts = compute([[column[low:high] for column in group] for group in groups], high - low)
            for result, part in zip(results, parts, strict=True):
                width = len(result) // rows
                result[low * width : high * width] = part
    table.cache[key] = shape, groups, results
    return results


def _row_sums(columns: Sequence[Sequence[float]], rows: int) -> array[float]:
    """The exact sum of each row, rounded once."""
    if not columns:
        return array("d", bytes(8 * rows))
    try:
        return array("d", map(math.fsum, zip(*columns, strict=True)))
    except (ValueError, OverflowError):  # an infinity of each sign, or a number near the largest double
        return array("d", map(total, zip(*columns, strict=True)))


def _addends(table: Table, sources: Iterable[Source], position: int, width: int) -> list[_Group]:
    """For each word, the columns to add: of a retired sum, value and rest; of a retired sketch, the equivalent word."""
    groups: list[_Group] = [[] for _ in range(width)]
    for _, source, part in parts_of(table, sources):
        offset = position - RECORD if source.is_retired and part.width > _PAIR else position
        if source.is_retired and part.width == _PAIR:
            if position == 0 and width == 1:
                both = zip(part.columns(0, len(table)), part.columns(1, len(table)), strict=True)
                groups[0] += chain.from_iterable(both)
        elif 0 <= offset <= part.width - width:
            for at, group in enumerate(groups, offset):
                group.extend(part.columns(at, len(table)))
    return groups


def sums(table: Table, sources: Iterable[Source], position: int = 0, width: int = 1) -> Vector:
    """The exact sums, rounded once, of ``width`` words from ``position`` on, over all series of each row.

    Of a retired sum, both value and rest are addends. A retired sketch has one record, others have two; ``position``
    refers to the others.
    """
    if position < 0 or width < 1:
        msg = f"{width} words at {position}"
        raise ValueError(msg)

    def compute(groups: list[_Group], rows: int) -> tuple[array[float]]:
        values = array("d", bytes(8 * rows * width))
        for at, group in enumerate(groups):
            values[at::width] = _row_sums(group, rows)
        return (values,)

    groups = _addends(table, sources, position, width)
    return cast("Vector", _recompute_changed(table, ("sums", position, width), groups, compute)[0])


def sums_and_rests(table: Table, sources: Iterable[Source], position: int = 0) -> Vector:
    """Two values a row: the sum of the word at ``position``, and the rest that rounding left."""
    (columns,) = _addends(table, sources, position, 1)
    addends = zip(*columns, strict=True) if columns else repeat((), len(table))
    return array("d", chain.from_iterable(map(total_and_rest, addends)))


def _distribution_groups(
    table: Table, sources: Iterable[Source], buckets: int
) -> tuple[list[_Group], tuple[bool, ...]]:
    """The columns of each layer of series, and whether each layer is from a retired file."""
    if buckets < 1:
        msg = f"{buckets} buckets"
        raise ValueError(msg)
    groups: list[_Group] = []
    retired: list[bool] = []
    for _, source, part in parts_of(table, sources):
        if part.width == buckets + 2:
            layers = zip(*(part.columns(at, len(table)) for at in range(part.width)), strict=True)
            groups += map(list, layers)
            retired += repeat(source.is_retired, len(groups) - len(retired))
    return groups, tuple(retired)


def _sums_that_count(groups: list[_Group], retired: tuple[bool, ...]) -> list[Sequence[float]]:
    """The columns to add for the sums of distributions."""
    columns: list[Sequence[float]] = []
    for group, is_retired in zip(groups, retired, strict=True):
        columns += group[:2] if is_retired else [list(map(distribution_sum, zip(*group, strict=True)))]
    return columns


def distributions(table: Table, sources: Iterable[Source], buckets: int) -> Vector:
    """Cumulative counts, count and sum of each row, from the words ``sum, sum, bucket, ...``.

    In a retired file the words are ``sum, rest, bucket, ...``. In a slab the count tells which sum counts.
    """
    groups, retired = _distribution_groups(table, sources, buckets)

    def compute(groups: list[_Group], rows: int) -> tuple[array[float]]:
        values = array("d", bytes(8 * rows * (buckets + 2)))
        counts = [_row_sums([group[at + 2] for group in groups], rows) for at in range(buckets)]
        cumulative = list(chain.from_iterable(map(accumulate, zip(*counts, strict=True))))
        for at in range(buckets):
            values[at :: buckets + 2] = array("d", cumulative[at::buckets])
        values[buckets :: buckets + 2] = array("d", cumulative[buckets - 1 :: buckets])
        values[buckets + 1 :: buckets + 2] = _row_sums(_sums_that_count(groups, retired), rows)
        return (values,)

    return cast("Vector", _recompute_changed(table, ("distributions", buckets, retired), groups, compute)[0])


def folded_distributions(table: Table, sources: Iterable[Source], buckets: int) -> Vector:
    """Sum, rest and buckets of each row, as a retired file has them. Buckets are not cumulative."""
    groups, retired = _distribution_groups(table, sources, buckets)
    rows, width = len(table), buckets + 2
    values = array("d", bytes(8 * rows * width))
    for at in range(2, width):
        values[at::width] = _row_sums([group[at] for group in groups], rows)
    columns = _sums_that_count(groups, retired)
    both = [total_and_rest(addends) for addends in zip(*columns, strict=True)] if columns else [(0.0, 0.0)] * rows
    values[0::width] = array("d", [value for value, _ in both])
    values[1::width] = array("d", [rest for _, rest in both])
    return values


def extremes(table: Table, sources: Iterable[Source], is_max: bool) -> tuple[Vector, bytes]:  # noqa: FBT001 (as in C)
    """The largest or smallest set word of each row, and a mask; NaN only if all words are NaN.

    All words of a retired source are set.
    """
    mode = "max" if is_max else "min"
    groups: list[_Group] = []
    retired: list[bool] = []
    for _, source, part in parts_of(table, sources):
        if part.width == 1:
            columns = part.columns(0, len(table))
            shown = part.shown(len(table)) if source.is_retired else columns
            groups += map(list, zip(columns, shown, strict=True))
            retired += repeat(source.is_retired, len(columns))

    def compute(groups: list[_Group], rows: int) -> tuple[array[float], bytearray]:
        values, mask = array("d", bytes(8 * rows)), bytearray(rows)
        for row in range(rows):
            numbers = [words[row] for words, shown in groups if is_set(shown[row])]
            if numbers:
                values[row], mask[row] = extreme(mode, numbers) + 0.0, 1
        return values, mask

    values, mask = _recompute_changed(table, ("extremes", mode, tuple(retired)), groups, compute)
    return values, bytes(mask)


def levels(table: Table, sources: Iterable[Source], ordinals: array[int], columns: array[int]) -> tuple[Vector, bytes]:
    """The levels: the set words of a gauge, one for each row and ordinal, and a mask.

    ``ordinals`` are those of the sources; ``columns`` are the wanted ordinals, ascending. A retired source has pairs of
    ordinal and value. If two sources have the same row and ordinal, the later source counts.
    """
    sources = list(sources)
    if len(ordinals) != len(sources):
        msg = f"{len(ordinals)} ordinals of {len(sources)} sources"
        raise ValueError(msg)
    width = len(columns)
    column_of = {ordinal: at for at, ordinal in enumerate(columns)}
    values, mask = array("d", bytes(8 * len(table) * width)), bytearray(len(table) * width)
    for number, source, part in parts_of(table, sources):
        at = column_of.get(ordinals[number])
        if source.is_retired:
            for member in part.members():
                first = part.rows[member] * width
                for ordinal, word in _pairs(part.words_of(member)):
                    if ordinal in column_of:
                        values[first + column_of[ordinal]], mask[first + column_of[ordinal]] = word + 0.0, 1
        elif part.width == 1 and at is not None:
            for words in part.columns(0, len(table)):
                shown = bytes(map(bool, array("Q", words.tobytes())))  # all bits zero: never set
                mask[at::width] = bytes(map(or_, mask[at::width], shown))
                now = zip(words, values[at::width], shown, strict=True)
                values[at::width] = array("d", [word + 0.0 if is_there else before for word, before, is_there in now])
    return values, bytes(mask)


def _pairs(words: array[float]) -> list[tuple[int, float]]:
    """The pairs of ordinal and value in the words of a retired series."""
    numbers = array("q", words.tobytes())
    return list(zip(numbers[0::2], words[1::2], strict=False))


def retired_ordinals(table: Table, sources: Iterable[Source]) -> set[int]:
    """All ordinals that retired sources have values of."""
    parts = (part for _, source, part in parts_of(table, sources) if source.is_retired)
    return {ordinal for part in parts for at in part.members() for ordinal, _ in _pairs(part.words_of(at))}


def recents(table: Table, sources: Iterable[Source]) -> tuple[Vector, Sequence[int], Sequence[int]]:
    """The last set value of each row, its time and its source; 0.0, 0 and -1 where none was set.

    The words are ``value, time, value, time``, in a retired source ``value, time`` and 16 bytes of identity. Of equal
    times, the greater identity counts.
    """
    groups: list[_Group] = []
    layers: list[tuple[int, bool, bytes]] = []
    for number, source, part in parts_of(table, sources):
        if part.width == _RECENT:
            found = list(zip(*(part.columns(at, len(table)) for at in range(_RECENT)), strict=True))
            groups += map(list, found)
            layers += repeat((number, source.is_retired, source.identity), len(found))

    def compute(groups: list[_Group], rows: int) -> tuple[Any, ...]:
        values, times, winners = array("d", bytes(8 * rows)), array("Q", bytes(8 * rows)), array("q", [-1]) * rows
        identities = [b""] * rows
        for group, (number, is_retired, own) in zip(groups, layers, strict=True):
            for row, (identity, value, time) in enumerate(_recent_entries(group, is_retired, own)):
                if time > times[row] or (time == times[row] and time and identity > identities[row]):
                    values[row], times[row], winners[row], identities[row] = value + 0.0, time, number, identity
        return values, times, winners

    values, times, winners = _recompute_changed(table, ("recents", tuple(layers)), groups, compute)
    return values, times, winners


def _recent_entries(group: _Group, is_retired: bool, identity: bytes) -> Iterable[tuple[bytes, float, int]]:  # noqa: FBT001
    """Identity, value and time of each row."""
    values, first, others, second = group
    times, later = array("Q", first.tobytes()), array("Q", second.tobytes())
    if is_retired:
        ids = map(struct.pack, repeat("=dd"), others, second)
        return zip(ids, values, times, strict=True)
    return (
        (identity, value, time) if time >= last else (identity, other, last)
        for value, time, other, last in zip(values, times, others, later, strict=True)
    )
