"""Rows: the series of one metric at one moment. Labels and their texts are made when they are first used."""

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
"""Labels of the overflow series, which counts what is past a metric's cap."""


class Rows:
    """The rows of ``table`` as ``sources`` have them now. Any thread may use it, at any later time.

    A table only grows, so it keeps the texts of each row's labels for the next scrapes.
    """

    def __init__(self, table: Table, sources: Sequence[Source]) -> None:
        self._table = table
        self._size = len(table)
        self.present = present(table, sources)
        """A byte for each row: 1 if any source has a series of it."""
        self.created = created(table, sources)
        """For each row, the Unix time in seconds at which its first series was made."""
        self._relabel: Relabel | None = None
        self._key: object = None

    def __len__(self) -> int:
        return self._size

    def labels(self, row: int) -> Labels:
        """Return the labels of a row, also of one that is not present."""
        labels = self._table.labels(row)
        return labels if self._relabel is None else self._relabel(labels)

    def spread(self, width: int, mask: bytes | None = None) -> bytes:
        """Return ``mask``, by default :attr:`present`, with the byte of each row repeated for ``width`` values."""
        spread = bytearray(self._size * width)
        for at in range(width):
            spread[at::width] = self.present if mask is None else mask
        return bytes(spread)

    def texts(self, key: object, make: Callable[[Labels], bytes] | None) -> Texts:
        """Return ``make(labels)`` of each row. ``key`` identifies ``make`` in the cache; it is called once a row.

        If ``make`` is None, the text is ``name="value",...``, as in the text formats if names need no quotes.
        """
        relabel = self._relabel
        if relabel is None:
            return self._table.texts((None, key), make)
        if make is None:
            msg = "relabelled rows need a function that writes their labels"
            raise ValueError(msg)
        return self._table.texts((self._key, key), lambda labels: make(relabel(labels)))

    def relabelled(self, key: object, relabel: Relabel) -> Rows | None:
        """Return the rows with other labels; None if two present rows would get equal ones. ``key`` as above."""
        shown = self._table.texts((key, "labels"), lambda labels: repr(relabel(labels)).encode())
        if not shown.are_distinct(self.present):
            return None
        rows = Rows.__new__(Rows)
        rows.__dict__.update(self.__dict__, _relabel=relabel, _key=key)
        return rows
