"""Which rows many sources have, and the series of a retired file made from them; the pure-Python twin.

Never change a result: a later call may return the same object.
"""

from __future__ import annotations

import math
from array import array
from itertools import compress
from typing import TYPE_CHECKING, Any, cast

from mpmetrics._cells.encoding import encode_record
from mpmetrics._cells.offsets import SERIES, SERIES_HEAD
from mpmetrics._cells.part import CREATED, GENERATION, Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mpmetrics._cells.index import Table
    from mpmetrics._cells.source import Source

__all__ = ["created", "pack_rows", "parts_of", "present"]


def parts_of(table: Table, sources: Iterable[Source]) -> list[tuple[int, Source, Part]]:
    """Number, source and part of each source that has series of the table."""
    found = ((at, source, source.parts.get(table)) for at, source in enumerate(sources))
    return [(at, source, part) for at, source, part in found if part is not None and part.loaded > 0]


def _cached(table: Table, name: str, sources: Iterable[Source], make: Callable[[list[Part]], Any]) -> Any:
    """``make(parts)``; the result is cached until series come or go."""
    parts = [part for _, _, part in parts_of(table, sources)]
    stamps = len(table), [part.stamp for part in parts]
    cached = table.cache.get(name)
    if cached is None or cached[0] != stamps:
        cached = table.cache[name] = stamps, make(parts)
    return cached[1]


def present(table: Table, sources: Iterable[Source]) -> bytes:
    """A byte for each row: 1 if a source has a series of it."""

    def make(parts: list[Part]) -> bytes:
        mask = bytearray(len(table))
        for part in parts:
            for at in part.members():
                mask[part.rows[at]] = 1
        return bytes(mask)

    return cast("bytes", _cached(table, "present", sources, make))


def created(table: Table, sources: Iterable[Source]) -> Sequence[float]:
    """When the first series of each row was made, Unix time in seconds; 0.0 if it has no series."""
    return cast("Sequence[float]", _cached(table, "created", sources, lambda parts: array("d", _created(table, parts))))


def _created(table: Table, parts: Iterable[Part]) -> list[float]:
    times = [math.inf] * len(table)
    for part in parts:
        for at in part.members():
            times[part.rows[at]] = min(times[part.rows[at]], part.heads[at][CREATED])
    return [0.0 if time == math.inf else time for time in times]


def pack_rows(
    table: Table,
    sources: Iterable[Source],
    values: Sequence[float],
    mask: bytes,
    width: int,
    first_word: int,
    numbers: Sequence[int],
) -> tuple[bytes, bytes]:
    """Words and SERIES records for a retired file, of the rows whose byte in ``mask`` is not zero.

    ``values`` has ``width`` values for each row of the table. The words begin at ``first_word``, without gaps.
    ``numbers`` are the numbers of the table's families in the file. A series gets the earliest creation and the
    greatest generation of the row's series in the sources.
    """
    if len(numbers) < len(table.families):
        msg = f"{len(numbers)} numbers of {len(table.families)} families"
        raise ValueError(msg)
    parts = [part for _, _, part in parts_of(table, sources)]
    times, generations = _created(table, parts), [0] * len(table)
    for part in parts:
        for at in part.members():
            generations[part.rows[at]] = max(generations[part.rows[at]], part.heads[at][GENERATION])
    words, records = array("d"), []
    for row in compress(range(len(table)), mask):
        family, key = table.keys[row]
        first = first_word + len(words)
        body = SERIES_HEAD.pack(numbers[family], width, first, times[row], generations[row]) + key
        records.append(encode_record(SERIES, body))
        words.extend(values[row * width : (row + 1) * width])
    return words.tobytes(), b"".join(records)
