"""The series of one metric at one moment, as rows: what is made of their labels is made when somebody asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmetrics._cells import created, present

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpmetrics._cells import Source, Table, Texts
    from mpmetrics.collector.reading import Labels

    Relabel = Callable[[Labels], Labels]

__all__ = ["OVERFLOW", "Rows"]

OVERFLOW: Labels = (("otel_metric_overflow", "true"),)
"""Labels of the series that takes what is past a metric's cap."""


class Rows:
    """The rows of ``table`` as ``sources`` have them now. May be used by any thread, at any later time.

    Tables only grow, so what was made of a row's labels is kept there, for the rows of the next scrape.
    """

    def __init__(self, table: Table, sources: Sequence[Source]) -> None:
        self._table = table
        self._size = len(table)
        self.present = present(table, sources)
        """A byte for each row: whether any source has a series of it."""
        self.created = created(table, sources)
        """When the first series of each row was made: Unix time in seconds."""
        self._relabel: Relabel | None = None
        self._key: object = None

    def __len__(self) -> int:
        return self._size

    def labels(self, row: int) -> Labels:
        """The labels of a row, also of one that is not present."""
        labels = self._table.labels(row)
        return labels if self._relabel is None else self._relabel(labels)

    def spread(self, width: int, mask: bytes | None = None) -> bytes:
        """``mask``, by default :attr:`present`, with the byte of each row for each of ``width`` values."""
        spread = bytearray(self._size * width)
        for at in range(width):
            spread[at::width] = self.present if mask is None else mask
        return bytes(spread)

    def texts(self, key: object, make: Callable[[Labels], bytes] | None) -> Texts:
        """What ``make`` makes of the labels of each row; ``key`` stands for ``make``, which is called once a row.

        None makes ``name="value",...`` of them, as the text formats have names that need no quotes.
        """
        relabel = self._relabel
        if relabel is None:
            return self._table.texts((None, key), make)
        if make is None:
            msg = "labels that are shown under other names need a function that writes them"
            raise ValueError(msg)
        return self._table.texts((self._key, key), lambda labels: make(relabel(labels)))

    def relabelled(self, key: object, relabel: Relabel) -> Rows | None:
        """The same rows with other labels; None when two that are present would have the same. ``key`` as above."""
        shown = self._table.texts((key, "labels"), lambda labels: repr(relabel(labels)).encode())
        if not shown.are_distinct(self.present):
            return None
        rows = Rows.__new__(Rows)
        rows.__dict__.update(self.__dict__, _relabel=relabel, _key=key)
        return rows
