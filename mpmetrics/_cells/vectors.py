"""The pure-Python twin of reading, merging and writing down the words of many processes.

A *vector* holds the words of one process, slot 0 first; slots past its end are zero. It is never changed. Here it is an
array, or of a few words a list; in the compiled twin a view of doubles. ``firsts`` are the first slots of the series of
one family, as an array of format ``q``: each makes a row of the result, and rows stand one after another. A *mask* says
of each value, by a byte that is not zero, that there is one.

Between two scrapes most words of most processes stay as they were, and comparing bytes is a hundred times quicker here
than adding numbers. So words are loaded, and sums are made, anew by blocks in which something changed.
"""

from __future__ import annotations

import math
from array import array
from itertools import accumulate, chain, repeat
from operator import eq, itemgetter
from typing import TYPE_CHECKING, Any, cast

from mpmetrics._cells.arithmetic import distribution_sum, extreme, is_set, latest, total

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Vector = list[float] | array[float]
    Around = tuple[bytes, bytes, bytes]

__all__ = ["distributions", "extremes", "levels", "lines", "load", "number", "recents", "sums"]

RETRIES = 256
"""How often words that belong together are read again before they are taken as they are."""

BLOCK = 64
"""Words that are compared as bytes, and loaded or added up anew together."""


def load(words: memoryview[Any], count: int, spans: array[int], held: Vector | None = None) -> Vector:
    """A copy of the first ``count`` words of a map that others write to, each loaded whole.

    ``spans`` are pairs of a first slot and a width: the words of each belong together, and are of one moment unless
    that cannot be had in a bounded number of attempts. ``held`` is what the last call for these words returned; it is
    returned again when nothing has changed.
    """
    words = words[:count]
    # A copy of bytes may tear a word. One that is torn differs from what is held, or has the bytes of the old word.
    seen = words.tobytes()
    if not isinstance(held, array):
        values = array("d", words.tolist())  # of a view in native format this loads item by item
    elif seen == held.tobytes():
        return held
    else:
        values = held[: len(words)]
        values.frombytes(bytes(8 * (len(words) - len(values))))
        for changed in _runs(_differing(seen, values.tobytes())):
            values[changed] = array("d", words[changed].tolist())
    if spans and words.tobytes() != values.tobytes():
        again = array("d", words.tolist())
        pairs = iter(spans)
        for first, width in zip(pairs, pairs, strict=True):
            end = first + width
            if values[first:end] != again[first:end]:
                values[first:end] = array("d", _settle(words, first, end))
    return values


def _differing(some: bytes, others: bytes) -> list[tuple[int, int]]:
    """First word and end of each block in which these words, as many here as there, are not the same."""
    width = 8 * BLOCK
    starts = range(0, len(some), width)
    return [(at // 8, (at + width) // 8) for at in starts if some[at : at + width] != others[at : at + width]]


def _settle(words: memoryview[Any], start: int, end: int) -> list[float]:
    """Words from start to end, read until two readings agree, a bounded number of times.

    The readings are copies of bytes, which are so quick that a busy writer pauses for long enough: as numbers, the
    words of a sketch take ten times as long as its writer does. Such a copy may tear a word, but the next one then
    differs from it; if none ever agree, each word is loaded whole, at least.
    """
    earlier = words[start:end].tobytes()
    for _ in range(RETRIES):
        later = words[start:end].tobytes()
        if earlier == later:
            return cast("list[float]", memoryview(later).cast("d").tolist())
        earlier = later
    return cast("list[float]", words[start:end].tolist())


def sums(
    vectors: Sequence[Vector], firsts: array[int], width: int, memo: dict[str, Any] | None = None
) -> Vector:
    """The exact sum, rounded once, of each of the ``width`` words of each row.

    ``memo`` is a dict that is the same in each call for these rows; what this keeps there is its own business.
    """
    if memo is not None and width == 1 and firsts:
        return _sums_of_changed(vectors, firsts, memo)
    slots = firsts if width == 1 else [slot for first in firsts for slot in range(first, first + width)]
    columns = _gathered(vectors, slots)
    return _added(columns) if columns else [0.0] * len(slots)


def _added(columns: Sequence[Sequence[float]]) -> list[float]:
    try:
        return list(map(math.fsum, zip(*columns, strict=True)))
    except (ValueError, OverflowError):  # an infinity of each sign, or a number near the largest double
        return list(map(total, zip(*columns, strict=True)))


def _sums_of_changed(vectors: Sequence[Vector], firsts: array[int], memo: dict[str, Any]) -> Vector:
    """The sums of one word of each row, made anew only where a word has changed since they were made before."""
    if "is_run" not in memo:
        memo["is_run"] = firsts == array("q", range(firsts[0], firsts[0] + len(firsts)))
    known: Sequence[Vector] | None = memo.get("vectors")
    if not memo["is_run"] or known is None or len(known) != len(vectors):
        memo["sums"] = sums(vectors, firsts, 1)
    else:
        start, end = firsts[0], firsts[-1] + 1
        changed: set[tuple[int, int]] = set()
        for vector, before in zip(vectors, known, strict=True):
            if vector is not before:
                changed.update(_differing(_bytes(vector, start, end), _bytes(before, start, end)))
        values = memo["sums"] = memo["sums"][:]
        for rows in _runs(sorted(changed)):
            values[rows] = sums(vectors, firsts[rows], 1)
    memo["vectors"] = vectors
    return cast("Vector", memo["sums"])


def _runs(blocks: list[tuple[int, int]]) -> list[slice]:
    """Blocks in ascending order, those put together that touch each other."""
    runs: list[slice] = []
    for start, end in blocks:
        if runs and runs[-1].stop == start:
            runs[-1] = slice(runs[-1].start, end)
        else:
            runs.append(slice(start, end))
    return runs


def _bytes(vector: Vector, start: int, end: int) -> bytes:
    return array("d", vector[start:end]).tobytes().ljust(8 * (end - start), b"\0")


def _gathered(vectors: Sequence[Vector], slots: Sequence[int]) -> list[Sequence[float]]:
    """The words in these slots of each vector that has any of them."""
    if not slots:
        return []
    first, end, size = min(slots), max(slots) + 1, len(slots)
    is_run = end - first == size and all(map(eq, slots, range(first, end)))
    pick = itemgetter(*slots) if size > 1 else itemgetter(slice(first, end))
    columns: list[Sequence[float]] = []
    for vector in vectors:
        if len(vector) <= first:
            continue
        if is_run:
            found = vector[first:end]
            columns.append(found if len(found) == size else [*found, *repeat(0.0, size - len(found))])
        else:
            columns.append(pick(vector if len(vector) >= end else [*vector, *repeat(0.0, end - len(vector))]))
    return columns


def extremes(vectors: Sequence[Vector], firsts: array[int], is_max: bool) -> tuple[Vector, bytes]:  # noqa: FBT001
    """The largest, or the smallest, word of each row that was ever set; NaN counts where there is nothing else."""
    mode = "max" if is_max else "min"
    values = []
    mask = bytearray(len(firsts))
    columns = _gathered(vectors, firsts)
    for row, words in enumerate(zip(*columns, strict=True) if columns else repeat((), len(firsts))):
        numbers = list(filter(is_set, words))
        mask[row] = bool(numbers)
        values.append(extreme(mode, numbers) + 0.0 if numbers else 0.0)
    return values, bytes(mask)


def levels(vectors: Sequence[Vector], places: array[int], width: int, firsts: array[int]) -> tuple[Vector, bytes]:
    """The words that were ever set: each vector's in its place of a row; of two in one place, the latter's."""
    values = [0.0] * (len(firsts) * width)
    mask = bytearray(len(values))
    for vector, place in zip(vectors, places, strict=True):
        if place >= width:
            continue
        for words in _gathered([vector], firsts):
            for row, word in enumerate(words):
                if is_set(word):
                    values[row * width + place] = word + 0.0
                    mask[row * width + place] = 1
    return values, bytes(mask)


def recents(vectors: Sequence[Vector], firsts: array[int]) -> Vector:
    """What was set last, and when: two values a row, of rows of the words ``value, time, value, time``."""
    rows = []
    for first in firsts:
        candidates = [latest(vector[first : first + 4]) for vector in vectors if len(vector) >= first + 4]
        time, value = max(candidates, key=itemgetter(0), default=(0.0, 0.0))
        rows.append((value + 0.0, time))
    return list(chain.from_iterable(rows))


def distributions(vectors: Sequence[Vector], plain: int, firsts: array[int], buckets: int) -> Vector:
    """Cumulative counts, the count, and the sum, of each row: of the words ``sum, sum, bucket, ...``.

    The sum of the first ``plain`` vectors is their first word; which it is of the others, their count says.
    """
    values: list[float] = []
    counts = sums(vectors, _shifted(firsts, 2), buckets)
    for row, first in enumerate(firsts):
        end = first + 2 + buckets
        addends = [vector[first] for vector in vectors[:plain] if first < len(vector)]
        addends += [distribution_sum(vector[first:end]) for vector in vectors[plain:] if len(vector) >= end]
        values += accumulate(counts[row * buckets : (row + 1) * buckets])
        values += (values[-1], total(addends))
    return values


def _shifted(firsts: array[int], by: int) -> array[int]:
    return type(firsts)("q", (first + by for first in firsts))


def number(value: float) -> str:
    """A value as the text formats write it: the shortest decimal that reads back to the same double."""
    if math.isfinite(value):
        return repr(value)
    return "NaN" if value != value else ("+Inf" if value > 0 else "-Inf")  # noqa: PLR0124 (NaN alone does)


def lines(
    shapes: tuple[Around | None, ...],
    rows: list[bytes],
    values: Vector,
    mask: bytes | None,
    more: list[bytes] | None,
) -> bytes:
    """The lines of a family: for each row and shape a name, labels and a value; behind each row that has any, ``more``.

    ``rows`` are the labels as text; a shape says what stands before and behind them, and what stands there alone when
    there are none. The values of a shape that is None are left out.
    """
    numbers = _numbers(values)
    if not any(shapes) or b"" in rows or (mask is not None and 0 in mask):
        return _lines_one_by_one(shapes, rows, numbers, mask, more)
    width = len(shapes)
    columns: list[Iterable[bytes]] = []
    for at, shape in enumerate(shapes):
        if shape is not None:
            opening, closing, _ = shape
            columns += [repeat(opening), rows, repeat(closing), numbers[at::width], repeat(b"\n")]
    if more is not None:
        columns.append(more)
    return b"".join(chain.from_iterable(zip(*columns, strict=False)))  # what is repeated has no end


def _numbers(values: Vector) -> list[bytes]:
    write = repr if all(map(math.isfinite, values)) else number
    return "\n".join(map(write, values)).encode().split(b"\n")


def _lines_one_by_one(
    shapes: tuple[Around | None, ...],
    rows: list[bytes],
    numbers: list[bytes],
    mask: bytes | None,
    more: list[bytes] | None,
) -> bytes:
    parts: list[bytes] = []
    position = 0
    for row, labels in enumerate(rows):
        is_any = False
        for shape in shapes:
            if shape is not None and (mask is None or mask[position]):
                is_any = True
                opening, closing, alone = shape
                parts += (opening, labels, closing) if labels else (alone,)
                parts += (numbers[position], b"\n")
            position += 1
        if is_any and more is not None:
            parts.append(more[row])
    return b"".join(parts)
