"""The levels of a gauge of mode ``all``, one by one: a table of all rows and ordinals would be mostly empty."""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING

from mpmetrics._cells import levels

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator, Sequence

    from mpmetrics._cells import Source, Table

__all__ = ["single_levels"]


def single_levels(
    table: Table, sources: Sequence[Source], own: array[int], wanted: array[int], most: int
) -> Iterator[tuple[int, int, float]]:
    """Row, ordinal and value of each set level; those of one row in the order of the ordinals.

    ``own`` are the ordinals of the sources, ``wanted`` the ordinals to look for, ascending. They are processed in
    batches of about ``most`` values.
    """
    step = max(1, most // len(table))
    for start in range(0, len(wanted), step):
        some = wanted[start : start + step]
        values, mask = levels(table, sources, own, some)
        for at in compress(range(len(mask)), mask):
            row, place = divmod(at, len(some))
            yield row, some[place], values[at]
