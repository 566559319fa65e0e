"""The series of a family as rows, with what was made of their labels: all of it is kept until series are removed."""

from __future__ import annotations

from array import array
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mpmetrics.collector.reading import Labels
    from mpmetrics.storage.catalog import Catalog, Family, Key, Series

__all__ = ["OVERFLOW", "Rows", "RowsCache", "labels_of"]

Made = TypeVar("Made")

OVERFLOW: Labels = (("otel_metric_overflow", "true"),)
"""Labels of the series that takes what is past a metric's cap."""


def labels_of(family: Family, key: Key) -> Labels:
    """The labels of a series."""
    return OVERFLOW if key is None else family.pairs(key)


class Rows:
    """Labels and time of creation of many series; ``firsts`` are their first slots, where they have slots.

    Rows are only ever added.
    """

    def __init__(self) -> None:
        self.firsts = array("q")
        self.labels: list[Labels] = []
        self.created: list[float] = []
        self._columns: dict[object, list[Any]] = {}
        self._views: dict[object, Rows] = {}

    @classmethod
    def of(cls, family: Family, members: Iterable[Series]) -> Rows:
        """The rows of these series of ``family``."""
        rows = cls()
        rows.add(family, members)
        return rows

    def __len__(self) -> int:
        return len(self.labels)

    def add(self, family: Family, members: Iterable[Series]) -> None:
        """Add the rows of more series of ``family``."""
        for series in members:
            self.firsts.append(series.first)
            self.labels.append(labels_of(family, series.key))
            self.created.append(series.created)

    def column(self, key: object, make: Callable[[Labels, float], Made]) -> list[Made]:
        """``make(labels, created)`` of each row; ``key`` stands for ``make``, which is called once a row."""
        column: list[Made] = self._columns.setdefault(key, [])
        if len(column) < len(self):
            start = len(column)
            column += map(make, islice(self.labels, start, None), islice(self.created, start, None))
        return column

    def view(self, key: object, relabel: Callable[[Labels], Labels]) -> Rows | None:
        """The same rows with other labels; None when two of them would have the same. ``key`` as in :meth:`column`."""
        view = cast("_View", self._views.setdefault(key, _View()))
        view.follow(self, relabel)
        return view if view.is_distinct else None


class _View(Rows):
    """Rows with other labels."""

    def __init__(self) -> None:
        super().__init__()
        self._distinct: set[Labels] = set()

    def follow(self, rows: Rows, relabel: Callable[[Labels], Labels]) -> None:
        added = list(map(relabel, islice(rows.labels, len(self), None)))
        self.labels += added
        self.created += islice(rows.created, len(self.created), None)
        self._distinct.update(added)

    @property
    def is_distinct(self) -> bool:
        return len(self._distinct) == len(self.labels)


class RowsCache:
    """The rows of all families of a store, kept from one snapshot to the next; for one thread at a time."""

    def __init__(self) -> None:
        self._catalog: Catalog | None = None
        self._rows: dict[int, tuple[int, Rows]] = {}

    def rows(self, catalog: Catalog, number: int) -> Rows:
        """The rows of all series of family ``number``."""
        if self._catalog is not catalog:
            self._catalog = catalog
            self._rows = {}
        members = catalog.series[number].values()
        removals, rows = self._rows.get(number, (-1, Rows()))
        if removals != catalog.removals[number]:
            rows = Rows()
            self._rows[number] = catalog.removals[number], rows
        rows.add(catalog.families[number], islice(members, len(rows), None))
        return rows
