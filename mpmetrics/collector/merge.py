"""Merging the words of many processes into one truth: pure functions of a snapshot.

Counters, up-down counters, histograms and summaries add up over live processes, dead ones and the retired file. Gauges
merge by their mode, over live processes alone in the ``live`` modes. A stateset or info shows what was set last.

A family is merged as a whole, by functions of vectors; there is no object for each of its samples.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import utils

from mpmetrics._cells import RECORD, distributions, extremes, levels, recents, sums
from mpmetrics._cells.arithmetic import extreme, is_set, sketch_record, total_and_rest
from mpmetrics.collector.reading import Reading, Sample, Shape, Table
from mpmetrics.collector.rows import OVERFLOW, Rows, RowsCache
from mpmetrics.storage import format as fmt
from mpmetrics.storage.kept import kept_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mpmetrics._cells.vectors import Vector
    from mpmetrics.collector.snapshot import Column, Snapshot
    from mpmetrics.storage.catalog import Family, Series

    Values = tuple[Sequence[Shape | None], Vector, bytes | None]

__all__ = ["OVERFLOW", "Merger", "bound_text", "merge", "worker_label"]

_TYPES = {"updowncounter": "gauge", "enum": "stateset"}
_PLAIN = (Shape(""),)
_TOTAL = (Shape("_total"),)
_WITH_CREATED = frozenset({"counter", "histogram", "summary"})

MOST_CELLS = 1 << 22
"""Values in the table of a gauge of mode ``all``; a larger one is made only of workers that have a slab."""

IsShown = Callable[["Family", "Series"], bool]


def merge(snapshot: Snapshot, is_shown: IsShown | None = None, cache: RowsCache | None = None) -> list[Reading]:
    """The metrics of a snapshot, by name, without registries'.

    Of asynchronous ones the series that are shown now, if ``is_shown`` says which. ``cache`` has the rows of the
    snapshot before.
    """
    cache = cache or RowsCache()
    merger = Merger(snapshot)
    catalog = snapshot.catalog
    readings = []
    for number, family in sorted(catalog.families.items(), key=lambda item: item[1].name):
        if family.role:
            continue
        if (family.scope and is_shown is not None) or family.kind == "info":
            members = merger.settled(catalog.series[number].values())
            if family.scope and is_shown is not None:
                members = [series for series in members if is_shown(family, series)]
            readings.append(merger.reading(family, members))
        else:
            readings.append(merger.table(family, cache.rows(catalog, number)))
    return readings


class Merger:
    """Merges the words of a snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._columns = snapshot.columns
        self._live = [column for column in snapshot.columns if column.alive]
        self._kept = kept_of(snapshot.retired, snapshot.catalog)
        self._unsettled = snapshot.unsettled

    def settled(self, members: Iterable[Series]) -> list[Series]:
        """Those whose words all are of one moment."""
        return [series for series in members if series.first not in self._unsettled]

    def reading(self, family: Family, members: Iterable[Series]) -> Reading:
        """A metric and the samples of these series."""
        members = list(members)
        if family.kind != "info":
            return self.table(family, Rows.of(family, members))
        reading = Reading(family.name, "info", family.help, family.unit, original=family.original)
        reading.samples = list(self._info(family, members))
        return reading

    def table(self, family: Family, rows: Rows) -> Reading:
        """A metric, other than an info, and the samples of the series in ``rows``."""
        if family.mode == "all" and self._are_few(rows):
            samples = list(self._single_levels(rows))
            return Reading(family.name, "gauge", family.help, family.unit, samples, original=family.original)
        shapes, values, mask = self._values(family, rows)
        mask = self._settled_mask(mask, rows, len(shapes))
        return Reading(
            family.name,
            _TYPES.get(family.kind, family.kind),
            family.help,
            family.unit,
            original=family.original,
            adds=family.kind == "updowncounter",
            table=Table(rows, tuple(shapes), values, mask, has_created=family.kind in _WITH_CREATED),
        )

    def _settled_mask(self, mask: bytes | None, rows: Rows, width: int) -> bytes | None:
        """``mask`` without the rows whose words are not all of one moment."""
        left_out = [row for row, first in enumerate(rows.firsts) if first in self._unsettled] if self._unsettled else []
        if not left_out:
            return mask
        shown = bytearray(b"\1" * (len(rows) * width) if mask is None else mask)
        for row in left_out:
            shown[row * width : (row + 1) * width] = bytes(width)
        return bytes(shown)

    def _values(self, family: Family, rows: Rows) -> Values:  # noqa: PLR0911 (one for each kind)
        firsts = rows.firsts
        if family.kind == "counter":
            return _TOTAL, sums(self._vectors(), firsts, 1, rows.memo), None
        if family.kind in ("histogram", "summary"):
            return self._distributions(family, firsts)
        if family.kind == "enum":
            return self._states(family, firsts)
        kind = family.mode.removeprefix("live")
        is_live = family.mode.startswith("live")
        if kind == "sum":
            return _PLAIN, sums(_words(self._live) if is_live else self._vectors(), firsts, 1, rows.memo), None
        if kind == "mostrecent":
            found = self._recents(firsts, is_live=is_live)
            return _PLAIN, array("d", found[0::2]), bytes(time != 0.0 for time in found[1::2])
        if kind == "all":
            return self._levels(family.mode, firsts)
        vectors = _words(self._live) if is_live else [self._kept.values, *_words(self._columns)]
        return _PLAIN, *extremes(vectors, firsts, kind == "max")

    def _vectors(self) -> list[Vector]:
        """The words of everything that adds up."""
        return [self._kept.values, self._kept.remainders, *_words(self._columns)]

    def _distributions(self, family: Family, firsts: array[int]) -> Values:
        buckets = max(1, len(family.bounds))
        values = distributions(self._vectors(), 2, firsts, buckets)
        count, sum_ = Shape("_count"), Shape("_sum")
        if family.kind == "summary":
            return (None, count, sum_), values, None
        shapes = [Shape("_bucket", ("le", bound_text(bound))) for bound in family.bounds]
        # With negative observations a sum may fall, which a scraper takes for a restart: OpenMetrics leaves it out.
        return (*shapes, count, sum_ if family.bounds[0] >= 0 else None), values, None

    def _levels(self, mode: str, firsts: array[int]) -> Values:
        columns = self._live if mode == "liveall" else self._columns
        kept = {} if mode == "liveall" else self._kept.by_ordinal
        rows = {first: row for row, first in enumerate(firsts)} if kept else {}
        kept = {first: values for first, values in kept.items() if first in rows}
        ordinals = {column.ordinal for column in columns}.union(*kept.values())
        places = {ordinal: place for place, ordinal in enumerate(sorted(ordinals))}
        own = array("q", (places[column.ordinal] for column in columns))
        values, mask = levels(_words(columns), own, len(places), firsts)
        shown = bytearray(mask)
        for first, by_ordinal in kept.items():
            for ordinal, value in by_ordinal.items():
                at = rows[first] * len(places) + places[ordinal]
                if not shown[at]:
                    values[at] = value + 0.0
                    shown[at] = 1
        return [Shape("", ("worker", worker_label(ordinal))) for ordinal in places], values, bytes(shown)

    def _are_few(self, rows: Rows) -> bool:
        """Whether a table of all workers that ever were would be too large, and for the most part empty."""
        places = len(set().union(*self._kept.by_ordinal.values())) if self._kept.by_ordinal else 0
        return places > len(self._columns) and places * len(rows) > MOST_CELLS

    def _single_levels(self, rows: Rows) -> Iterable[Sample]:
        """The values of a gauge of mode ``all``, one by one."""
        for first, labels in zip(rows.firsts, rows.labels, strict=True):
            if first in self._unsettled:
                continue
            values = {ordinal: value + 0.0 for ordinal, value in self._kept.by_ordinal.get(first, {}).items()}
            for column in self._columns:
                if first < len(column.words) and is_set(column.words[first]):
                    values[column.ordinal] = column.words[first] + 0.0
            for ordinal, value in sorted(values.items()):
                yield Sample("", (*labels, ("worker", worker_label(ordinal))), value)

    def _states(self, family: Family, firsts: array[int]) -> Values:
        current = list(self._recents(firsts, is_live=False))[0::2]
        size = len(family.states)
        values = array("d", (float(state == number) for number in current for state in range(size)))
        return [Shape("", (family.name, state)) for state in family.states], values, None

    def _recents(self, firsts: array[int], *, is_live: bool) -> list[float]:
        """What was set last, and when, of each series; time 0.0 when it never was."""
        vectors = _words(self._live) if is_live else [*_words(self._columns), self._kept.values]
        return list(recents(vectors, firsts))

    def _info(self, family: Family, members: list[Series]) -> Iterable[Sample]:
        size = len(family.labels)
        said: dict[tuple[str, ...], tuple[float, tuple[str, ...]]] = {}
        found = self._recents(array("q", (series.first for series in members)), is_live=False)
        for series, when in zip(members, found[1::2], strict=True):
            if series.key is None:
                continue
            held = said.get(series.key[:size])
            if when and (held is None or when > held[0]):
                said[series.key[:size]] = (when, series.key[size:])
        for values, (_, pairs) in said.items():
            described = tuple(zip(pairs[::2], pairs[1::2], strict=True))
            yield Sample("_info", (*zip(family.labels, values, strict=True), *described), 1.0)

    def sketch(self, series: Series) -> tuple[list[float], list[float]]:
        """The record of a sketch, its sums exact in two words each, and its buckets, not cumulative."""
        first, end = series.first, series.first + series.width
        records = [sketch_record(column.words[first:end]) for column in self._columns if len(column.words) >= end]
        if len(self._kept.values) >= end:
            records.append(self._kept.values[first : first + RECORD])
        rests = self._kept.remainders[first : first + 4]
        merged: list[float] = []
        for position in (0, 2):
            addends = [word for words in records for word in words[position : position + 2]]
            merged += total_and_rest([*addends, *rests[position : position + 2]])
        for position, mode in ((4, "min"), (5, "max")):
            values = [words[position] for words in records if is_set(words[position])]
            merged.append(extreme(mode, values) + 0.0 if values else 0.0)
        buckets = array("q", (first + 2 * RECORD,))
        return merged, list(sums(self._vectors(), buckets, series.width - 2 * RECORD))

    def sum(self, series: Series, position: int) -> float:
        """The sum of a word over everything."""
        return sums(self._vectors(), array("q", (series.first + position,)), 1)[0]


def _words(columns: Iterable[Column]) -> list[Vector]:
    return [column.words for column in columns]


def worker_label(ordinal: int) -> str:
    """How the owner of the slab of this ordinal is called: by it, or ``beside-0``, ... of those beside the workers."""
    return str(ordinal) if ordinal < fmt.BESIDE else f"beside-{ordinal - fmt.BESIDE}"


def bound_text(bound: float) -> str:
    """A bucket's upper bound as the ``le`` label has it, the same as prometheus_client's."""
    return _go_string(bound)


_go_string: Callable[[float], str] = utils.floatToGoString
