"""Merge of the words of all processes: pure functions of a snapshot.

Counters, up-down counters, histograms and summaries add up over living processes, dead ones and the retired file.
Gauges merge by their mode; the ``live`` modes use living processes only. A stateset or info shows what was set last.

A metric is merged as a whole: each function returns a vector of the values of all rows, without an object a sample.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection
from itertools import compress
from operator import and_
from typing import TYPE_CHECKING

from prometheus_client import utils

from mpmetrics._cells import (
    LAYOUTS,
    distributions,
    extremes,
    levels,
    recents,
    retired_ordinals,
    sums,
)
from mpmetrics._cells.arithmetic import merged_sketch
from mpmetrics._cells.sparse import single_levels
from mpmetrics.collector.reading import Ending, Grid, Reading, Sample
from mpmetrics.collector.rows import OVERFLOW, Rows
from mpmetrics.storage import format as fmt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mpmetrics._cells import Source
    from mpmetrics._cells.merging import Vector
    from mpmetrics.collector.snapshot import Column, Snapshot
    from mpmetrics.names.family import Family
    from mpmetrics.storage.shapes import Shape

    Values = tuple[Sequence[Ending | None], Vector, bytes | None]
    """The endings, values and mask of a grid."""

__all__ = ["OVERFLOW", "Merger", "bound_text", "merge", "worker_label"]

_TYPES = {"updowncounter": "gauge", "enum": "stateset"}
_PLAIN = (Ending(""),)
_TOTAL = (Ending("_total"),)
_WITH_CREATED = frozenset({"counter", "histogram", "summary"})

MOST_CELLS = 1 << 22
"""Most values in the grid of a gauge of mode ``all``. A larger grid is mostly empty, so it is made in pieces."""

ShownRows = Callable[["Shape"], Collection[int]]


def merge(snapshot: Snapshot, shown_rows: ShownRows | None = None, stale: Collection[str] = ()) -> list[Reading]:
    """Return the metrics of a snapshot, by name, without those of registries.

    ``shown_rows`` returns the rows of an observable metric that are shown; None: all rows are shown. Workers whose
    slabs are ``stale`` did not answer: the gauges that their callbacks have set do not count, but their totals do.
    """
    readings = []
    for _, (shape, *_) in sorted(snapshot.shapes.items()):
        family = shape.family
        if family.role:
            continue
        columns = snapshot.columns
        if _is_set_by_workers(family):
            columns = [column for column in columns if column.identity not in stale]
        is_limited = bool(family.scope) and shown_rows is not None
        readings.append(Merger(shape, columns).reading(shown_rows(shape) if shown_rows and is_limited else None))
    return readings


def _is_set_by_workers(family: Family) -> bool:
    """True if callbacks of workers set its values, and these are no totals."""
    return family.scope == "worker" and family.kind != "counter" and family.temporality != "delta"


class Merger:
    """Merges the series of one metric over ``columns``."""

    def __init__(self, shape: Shape, columns: Sequence[Column]) -> None:
        self.family = shape.family
        self._table = shape.table
        self._columns = columns
        self._sources = _sources(columns)
        self._live = [column for column in columns if column.alive and not column.is_retired]
        self.rows = Rows(shape.table, self._sources)

    def reading(self, only: Collection[int] | None = None) -> Reading:
        """Return the metric with the samples of all rows, or of the rows ``only``."""
        family, present = self.family, self.rows.present
        shown = present if only is None else _chosen(present, only)
        samples: list[Sample] | None = None
        grid: Grid | None = None
        if family.kind == "info":
            samples = list(self._info(shown))
        elif family.mode == "all" and self._is_sparse():
            samples = list(self._single_levels(shown))
        else:
            endings, values, mask = self._values()
            if only is not None:
                mask = shown if mask is None else bytes(map(and_, mask, self.rows.spread(len(endings), shown)))
            has_created = family.kind in _WITH_CREATED
            grid = Grid(self.rows, tuple(endings), values, mask, has_created=has_created)
        return Reading(
            family.name,
            _TYPES.get(family.kind, family.kind),
            family.help,
            family.unit,
            samples,
            original=family.original,
            adds=family.kind == "updowncounter",
            grid=grid,
        )

    def sums(self) -> Vector:
        """Return the sum of each row of a counter or gauge."""
        return sums(self._table, self._sources)

    def sketch(self, row: int) -> tuple[Sequence[float], Sequence[float]]:
        """Return the record of a sketch, whose sums are exact in two words each, and its non-cumulative buckets."""
        return merged_sketch(self._table, row, self._sources, LAYOUTS[self.family.mode].size)

    def _values(self) -> Values:  # noqa: PLR0911 (one for each kind)
        family, table = self.family, self._table
        if family.kind == "counter":
            return _TOTAL, self.sums(), None
        if family.kind in ("histogram", "summary"):
            return self._distributions()
        if family.kind == "enum":
            return self._states()
        kind = family.mode.removeprefix("live")
        sources = _sources(self._live) if family.mode.startswith("live") else self._sources
        if kind == "sum":
            return _PLAIN, sums(table, sources), None
        if kind == "mostrecent":
            values, times, _ = recents(table, sources)
            return _PLAIN, values, bytes(map(bool, times))
        if kind == "all":
            return self._levels()
        return _PLAIN, *extremes(table, sources, kind == "max")

    def _distributions(self) -> Values:
        bounds = self.family.bounds
        values = distributions(self._table, self._sources, max(1, len(bounds)))
        count, sum_ = Ending("_count"), Ending("_sum")
        if self.family.kind == "summary":
            return (None, count, sum_), values, None
        buckets = [Ending("_bucket", ("le", bound_text(bound))) for bound in bounds]
        # With negative observations a sum may fall, which a scraper takes for a restart. So OpenMetrics omits it.
        return (*buckets, count, sum_ if bounds[0] >= 0 else None), values, None

    def _states(self) -> Values:
        family = self.family
        numbers = range(len(family.states))
        current, _, _ = recents(self._table, self._sources)
        values = array("d", (float(state == number) for state in current for number in numbers))
        return [Ending("", (family.name, state)) for state in family.states], values, None

    def _levels(self) -> Values:
        columns = self._live if self.family.mode == "liveall" else self._columns
        ordinals = self._ordinals(columns)
        values, mask = levels(self._table, _sources(columns), _ordinals(columns), ordinals)
        return [Ending("", ("worker", worker_label(ordinal))) for ordinal in ordinals], values, mask

    def _ordinals(self, columns: Sequence[Column]) -> array[int]:
        """Return the ordinals of all processes that may have set a value, sorted."""
        retired = [column.source for column in columns if column.is_retired]
        own = {column.ordinal for column in columns if not column.is_retired}
        return array("q", sorted(own.union(retired_ordinals(self._table, retired))))

    def _is_sparse(self) -> bool:
        """True if a grid of all workers that ever lived would be too large, and mostly empty."""
        places = len(self._ordinals(self._columns))
        return places > len(self._columns) and places * len(self.rows) > MOST_CELLS

    def _single_levels(self, shown: bytes) -> Iterable[Sample]:
        """Yield the values of a gauge of mode ``all`` one by one, from grids of a few workers at a time."""
        ordinals, own = self._ordinals(self._columns), _ordinals(self._columns)
        found: dict[int, list[tuple[int, float]]] = {}
        for row, ordinal, value in single_levels(self._table, self._sources, own, ordinals, MOST_CELLS):
            found.setdefault(row, []).append((ordinal, value))
        for row, pairs in sorted(found.items()):
            if shown[row]:
                labels = self.rows.labels(row)
                for ordinal, value in pairs:
                    yield Sample("", (*labels, ("worker", worker_label(ordinal))), value)

    def _info(self, shown: bytes) -> Iterable[Sample]:
        """Yield the pairs that were set last for each set of label values."""
        _, times, winners = recents(self._table, self._sources)
        said: dict[object, tuple[int, bytes, int]] = {}
        for row in compress(range(len(shown)), shown):
            if row != self._table.overflow and times[row]:
                about = frozenset(pair for pair in self.rows.labels(row) if pair[0] in self.family.labels and pair[1])
                latest = times[row], self._identity(row, self._columns[winners[row]]), row
                said[about] = max(latest, said.get(about, latest))
        for _, _, row in said.values():
            yield Sample("_info", self.rows.labels(row), 1.0)

    def _identity(self, row: int, column: Column) -> bytes:
        """Return the identity of the slab that set a row last. It breaks ties in time."""
        if not column.is_retired:
            return column.source.identity
        words = column.source.words(self._table, row)
        return b"" if words is None else array("d", words[2:4]).tobytes()


def _sources(columns: Iterable[Column]) -> list[Source]:
    return [column.source for column in columns]


def _ordinals(columns: Iterable[Column]) -> array[int]:
    return array("q", (column.ordinal for column in columns))


def _chosen(present: bytes, rows: Collection[int]) -> bytes:
    """Return ``present`` limited to these rows."""
    chosen = bytearray(len(present))
    for row in rows:
        chosen[row] = present[row]
    return bytes(chosen)


def worker_label(ordinal: int) -> str:
    """Return the ``worker`` label of a process: its ordinal, or ``beside-0``, ... of a process beside the workers."""
    return str(ordinal) if ordinal < fmt.AUXILIARY else f"beside-{ordinal - fmt.AUXILIARY}"


def bound_text(bound: float) -> str:
    """Return a bucket's upper bound as the ``le`` label shows it, like prometheus_client."""
    return _go_string(bound)


_go_string: Callable[[float], str] = utils.floatToGoString
