"""The series of a family as rows, with what was made of their labels: all of it is kept until series are removed."""

from __future__ import annotations

from array import array
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

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

    Rows never change, so what was merged of them may be looked at by any thread, at any later time. More rows are other
    rows, which take over what was made of these.
    """

    def __init__(self, before: Rows | None, firsts: Iterable[int], labels: list[Labels], created: list[float]) -> None:
        """The rows of ``before``, and these behind them."""
        self.firsts = array("q", firsts)
        self.labels = labels
        self.created = created
        self.memo: dict[str, Any] = {}
        """What merging these rows left for the next time; for whoever merges, one thread at a time."""
        # Threads that look one of these up at the same time may both make it: the same, and one of them is kept.
        self._columns: dict[object, list[Any]] = {}
        self._views: dict[object, _View] = {}
        self._old_columns: dict[object, list[Any]] = {}
        self._old_views: dict[object, _View] = {}
        if before is not None:
            self.firsts = before.firsts + self.firsts
            self.labels = before.labels + labels
            self.created = before.created + created
            self._old_columns, self._old_views = before.made()

    @classmethod
    def of(cls, family: Family, members: Iterable[Series], before: Rows | None = None) -> Rows:
        """The rows of ``before``, and those of these series of ``family``."""
        members = list(members)
        labels = [labels_of(family, series.key) for series in members]
        return cls(before, (series.first for series in members), labels, [series.created for series in members])

    def __len__(self) -> int:
        return len(self.labels)

    def made(self) -> tuple[dict[object, list[Any]], dict[object, _View]]:
        """What was made of these rows, or of fewer of them: columns and views by their keys."""
        return self._old_columns | self._columns, self._old_views | self._views

    def column(self, key: object, make: Callable[[Labels, float], Made]) -> list[Made]:
        """``make(labels, created)`` of each row; ``key`` stands for ``make``, which is called once a row."""
        column: list[Made] | None = self._columns.get(key)
        if column is None:
            old: list[Made] = self._old_columns.get(key, [])
            start = len(old)
            column = [*old, *map(make, islice(self.labels, start, None), islice(self.created, start, None))]
            self._columns[key] = column
            self._old_columns.pop(key, None)
        return column

    def view(self, key: object, relabel: Callable[[Labels], Labels]) -> Rows | None:
        """The same rows with other labels; None when two of them would have the same. ``key`` as in :meth:`column`."""
        view = self._views.get(key)
        if view is None:
            old = self._old_views.get(key, _NO_VIEW)
            start = len(old.rows)
            labels = [relabel(labels) for labels in islice(self.labels, start, None)]
            view = _View(Rows(old.rows, (), labels, self.created[start:]), old.distinct.union(labels))
            self._views[key] = view
            self._old_views.pop(key, None)
        return view.rows if len(view.distinct) == len(self) else None


class _View(NamedTuple):
    """Rows with other labels, and which these are."""

    rows: Rows
    distinct: frozenset[Labels]


_NO_VIEW = _View(Rows(None, (), [], []), frozenset())


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
        removals = catalog.removals[number]
        known, rows = self._rows.get(number, (removals, None))
        if known != removals:
            rows = None
        if rows is None or len(rows) < len(members):
            rows = Rows.of(catalog.families[number], islice(members, 0 if rows is None else len(rows), None), rows)
            self._rows[number] = removals, rows
        return rows
