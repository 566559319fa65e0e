"""The series of a family as rows, with what was made of their labels: all of it is kept until series are removed."""

from __future__ import annotations

from array import array
from itertools import compress, islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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

    Rows never change, so what was merged of them may be looked at by any thread, at any later time. More of them, or
    fewer, are other rows, which take over what was made of these.
    """

    def __init__(
        self, firsts: array[int], labels: list[Labels], created: list[float], made: _Made | None = None
    ) -> None:
        """``made`` is what was made of the first rows of these."""
        self.firsts = firsts
        self.labels = labels
        self.created = created
        self.memo: dict[str, Any] = {}
        """What merging these rows left for the next time; for whoever merges, one thread at a time."""
        # Threads that look one of these up at the same time may both make it: the same, and one of them is kept.
        self._columns: dict[object, list[Any]] = {}
        self._views: dict[object, _View] = {}
        self._old_columns, self._old_views = made or _Made({}, {})

    @classmethod
    def of(cls, family: Family, members: Iterable[Series]) -> Rows:
        """The rows of these series of ``family``."""
        members = list(members)
        labels = [labels_of(family, series.key) for series in members]
        return cls(array("q", (series.first for series in members)), labels, [series.created for series in members])

    def __len__(self) -> int:
        return len(self.labels)

    def followed_by(self, more: Rows) -> Rows:
        """These rows, and ``more`` behind them."""
        return Rows(
            self.firsts + more.firsts, self.labels + more.labels, self.created + more.created, self._made()
        )

    def only(self, kept: Sequence[bool]) -> Rows:
        """Those of these rows that are to be ``kept``."""
        columns, views = self._made()
        made = _Made({key: list(compress(column, kept)) for key, column in columns.items()}, {})
        for key, view in views.items():
            rows = view.rows.only(kept)
            made.views[key] = _View(rows, frozenset(rows.labels))
        labels, created = list(compress(self.labels, kept)), list(compress(self.created, kept))
        return Rows(array("q", compress(self.firsts, kept)), labels, created, made)

    def _made(self) -> _Made:
        return _Made(self._old_columns | self._columns, self._old_views | self._views)

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
            rows = old.rows.followed_by(Rows(array("q"), labels, self.created[start:]))
            view = _View(rows, old.distinct.union(labels))
            self._views[key] = view
            self._old_views.pop(key, None)
        return view.rows if len(view.distinct) == len(self) else None


class _Made(NamedTuple):
    """Columns and views by their keys; they may be of the first rows alone."""

    columns: dict[object, list[Any]]
    views: dict[object, _View]


class _View(NamedTuple):
    """Rows with other labels, and which these are."""

    rows: Rows
    distinct: frozenset[Labels]


_NO_VIEW = _View(Rows(array("q"), [], []), frozenset())


class RowsCache:
    """The rows of all families of a store, kept from one snapshot to the next; for one thread at a time."""

    def __init__(self) -> None:
        self._catalog: Catalog | None = None
        self._kept: dict[int, _Kept] = {}

    def rows(self, catalog: Catalog, number: int) -> Rows:
        """The rows of all series of family ``number``."""
        if self._catalog is not catalog:
            self._catalog = catalog
            self._kept = {}
        family, members = catalog.families[number], catalog.series[number]
        rows, serials, removals = self._kept.get(number) or _Kept(Rows.of(family, ()), array("Q"), 0)
        if removals != catalog.removals[number]:
            now = {series.serial for series in members.values()}
            stay = [serial in now for serial in serials]
            rows, serials = rows.only(stay), array("Q", compress(serials, stay))
        # What there is stands in the order in which it was made, so what is new stands behind all else.
        if len(rows) < len(members):
            more = list(islice(members.values(), len(rows), None))
            rows = rows.followed_by(Rows.of(family, more))
            serials = serials + array("Q", (series.serial for series in more))
        self._kept[number] = _Kept(rows, serials, catalog.removals[number])
        return rows


class _Kept(NamedTuple):
    """The rows of a family, the serials of their series, and how many of its series had been removed by then."""

    rows: Rows
    serials: array[int]
    removals: int
