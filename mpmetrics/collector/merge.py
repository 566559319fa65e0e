"""Merging the words of many processes into one truth: pure functions of a snapshot.

Counters, up-down counters, histograms and summaries add up over live processes, dead ones and the retired file. Gauges
merge by their mode, over live processes alone in the ``live`` modes. A stateset or info shows what was set last.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import utils

from mpmetrics._cells import RECORD
from mpmetrics.collector.reading import Labels, Reading, Sample
from mpmetrics.storage import format as fmt
from mpmetrics.storage.arithmetic import distribution_sum, extreme, is_set, latest, sketch_record, total, total_and_rest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mpmetrics.collector.snapshot import Column, Snapshot
    from mpmetrics.storage.catalog import Family, Key, Series

__all__ = ["OVERFLOW", "Merger", "merge", "worker_label"]

OVERFLOW: Labels = (("otel_metric_overflow", "true"),)
"""Labels of the series that takes what is past a metric's cap."""


def _always(_family: Family, _series: Series) -> bool:
    return True


_TYPES = {"updowncounter": "gauge", "enum": "stateset"}


def merge(snapshot: Snapshot, is_shown: Callable[[Family, Series], bool] = _always) -> list[Reading]:
    """The metrics of a snapshot, by name, without registries'; of asynchronous ones the series that are shown now."""
    merger = Merger(snapshot, is_shown)
    catalog = snapshot.catalog
    shown = [item for item in catalog.families.items() if not item[1].role]
    by_name = sorted(shown, key=lambda item: item[1].name)
    return [merger.reading(family, catalog.series[number].values()) for number, family in by_name]


class Merger:
    """Merges the words of a snapshot."""

    def __init__(self, snapshot: Snapshot, is_shown: Callable[[Family, Series], bool] = _always) -> None:
        self._is_shown = is_shown
        self._columns = snapshot.columns
        self._live = [column for column in snapshot.columns if column.alive]
        self._retired = snapshot.retired
        self._unsettled = snapshot.unsettled
        self._size = snapshot.catalog.next_slot
        self._sums = self._add_up()

    def _add_up(self) -> list[float]:
        """The sum of each slot over everything: meaningful for words that add up, cheap enough for all."""
        vectors = [self._retired.values.tolist(), self._retired.remainders.tolist()]
        vectors += [column.words for column in self._columns]
        padded = [vector[: self._size] + [0.0] * (self._size - len(vector)) for vector in vectors]
        rows = zip(*padded, strict=True)
        try:
            return list(map(math.fsum, rows))
        except (ValueError, OverflowError):  # an infinity of each sign, or a gauge near the largest double
            return list(map(total, zip(*padded, strict=True)))

    def settled(self, members: Iterable[Series]) -> list[Series]:
        """Those whose words all are of one moment."""
        return [series for series in members if series.first not in self._unsettled]

    def reading(self, family: Family, members: Iterable[Series]) -> Reading:
        """A metric and the samples of its series."""
        members = self.settled(members)
        reading = Reading(
            family.name,
            _TYPES.get(family.kind, family.kind),
            family.help,
            family.unit,
            original=family.original,
            adds=family.kind == "updowncounter",
        )
        if family.scope:
            members = [series for series in members if self._is_shown(family, series)]
        if family.kind == "info":
            reading.samples = list(self._info(family, members))
        else:
            for series in members:
                reading.samples += self._samples(family, series, _labels(family, series.key))
        return reading

    def _samples(self, family: Family, series: Series, labels: Labels) -> Iterable[Sample]:
        if family.kind == "counter":
            return (
                Sample("_total", labels, self.sum(series, 0)),
                Sample("_created", labels, series.created),
            )
        if family.kind in ("histogram", "summary"):
            return self._distribution(family, series, labels)
        if family.kind == "enum":
            return self._states(family, series, labels)
        return self._gauge(family, series, labels)

    def _distribution(self, family: Family, series: Series, labels: Labels) -> Iterator[Sample]:
        width = series.width
        counts = list(accumulate(self.sum(series, bucket) for bucket in range(2, width)))
        addends = [self._retired_word(series), self._retired_rest(series)]
        addends += [distribution_sum(words) for _, words in self._words(series, self._columns)]
        if family.kind == "histogram":
            for bound, count in zip(family.bounds, counts, strict=True):
                yield Sample("_bucket", (*labels, ("le", bound_text(bound))), count)
        yield Sample("_count", labels, counts[-1])
        if family.kind == "summary" or family.bounds[0] >= 0:
            # With negative observations a sum may fall, which a scraper takes for a restart: OpenMetrics leaves it out.
            yield Sample("_sum", labels, total(addends))
        yield Sample("_created", labels, series.created)

    def sketch(self, series: Series) -> tuple[list[float], list[float]]:
        """The record of a sketch, its sums exact in two words each, and its buckets, not cumulative."""
        records = [sketch_record(words) for _, words in self._words(series, self._columns)]
        if self._is_in_retired(series):
            records.append(self._retired.values[series.first : series.first + RECORD])
        rests = self._retired.remainders[series.first : series.first + 4] if self._is_in_retired(series) else []
        merged: list[float] = []
        for position in (0, 2):
            addends = [word for words in records for word in words[position : position + 2]]
            merged += total_and_rest([*addends, *rests[position : position + 2]])
        for position, mode in ((4, "min"), (5, "max")):
            values = [words[position] for words in records if is_set(words[position])]
            merged.append(extreme(mode, values) + 0.0 if values else 0.0)
        return merged, [self.sum(series, position) for position in range(2 * RECORD, series.width)]

    def _gauge(self, family: Family, series: Series, labels: Labels) -> Iterator[Sample]:
        mode = family.mode
        columns = self._live if mode.startswith("live") else self._columns
        kind = mode.removeprefix("live")
        if kind == "mostrecent":
            when, value = self._latest(mode, series)
            if when:
                yield Sample("", labels, value + 0.0)
            return
        words = [(column.ordinal, word[0]) for column, word in self._words(series, columns) if is_set(word[0])]
        if kind == "all":
            kept = mode == "all" and self._is_in_retired(series)
            by_ordinal = dict(self._retired.by_ordinal.get(series.first, {})) if kept else {}
            by_ordinal.update(words)
            for ordinal, value in sorted(by_ordinal.items()):
                yield Sample("", (*labels, ("worker", worker_label(ordinal))), value + 0.0)
            return
        values = [value for _, value in words]
        retired = 0.0 if mode.startswith("live") else self._retired_word(series)
        if is_set(retired):
            values.append(retired)
        if kind == "sum":
            yield Sample("", labels, total([*values, 0.0 if mode == "livesum" else self._retired_rest(series)]))
        elif values:
            yield Sample("", labels, extreme(kind, values) + 0.0)

    def _states(self, family: Family, series: Series, labels: Labels) -> Iterator[Sample]:
        _, current = self._latest("mostrecent", series)
        for number, state in enumerate(family.states):
            yield Sample("", (*labels, (family.name, state)), float(number == current))

    def _info(self, family: Family, members: Iterable[Series]) -> Iterator[Sample]:
        size = len(family.labels)
        said: dict[tuple[str, ...], tuple[float, tuple[str, ...]]] = {}
        for series in members:
            if series.key is None:
                continue
            when, _ = self._latest("mostrecent", series)
            held = said.get(series.key[:size])
            if when and (held is None or when > held[0]):
                said[series.key[:size]] = (when, series.key[size:])
        for values, (_, pairs) in said.items():
            described = tuple(zip(pairs[::2], pairs[1::2], strict=True))
            yield Sample("_info", (*zip(family.labels, values, strict=True), *described), 1.0)

    def _latest(self, mode: str, series: Series) -> tuple[float, float]:
        """Time and value of what was set last; time 0.0 when it never was."""
        live = mode.startswith("live")
        candidates = [latest(words) for _, words in self._words(series, self._live if live else self._columns)]
        if not live and self._is_in_retired(series):
            candidates.append(latest(self._retired.values[series.first : series.first + series.width]))
        return max(candidates, key=lambda pair: pair[0], default=(0.0, 0.0))

    def _words(self, series: Series, columns: list[Column]) -> Iterator[tuple[Column, list[float]]]:
        end = series.first + series.width
        for column in columns:
            if len(column.words) >= end:
                yield column, column.words[series.first : end]

    def sum(self, series: Series, position: int) -> float:
        """The sum of a word over everything."""
        slot = series.first + position
        if self._is_in_retired(series) or slot >= len(self._retired.values):
            return self._sums[slot]
        # What the retired file has there was another series', which had these slots before.
        return total(words[position] for _, words in self._words(series, self._columns))

    def _is_in_retired(self, series: Series) -> bool:
        known = series.first + series.width <= len(self._retired.values)
        return known and series.generation <= self._retired.generation

    def _retired_word(self, series: Series) -> float:
        return self._retired.values[series.first] if self._is_in_retired(series) else 0.0

    def _retired_rest(self, series: Series) -> float:
        return self._retired.remainders[series.first] if self._is_in_retired(series) else 0.0


def worker_label(ordinal: int) -> str:
    """How the owner of the slab of this ordinal is called: by it, or ``beside-0``, ... of those beside the workers."""
    return str(ordinal) if ordinal < fmt.BESIDE else f"beside-{ordinal - fmt.BESIDE}"


def bound_text(bound: float) -> str:
    """A bucket's upper bound as the ``le`` label has it, the same as prometheus_client's."""
    return _go_string(bound)


_go_string: Callable[[float], str] = utils.floatToGoString


def _labels(family: Family, key: Key) -> Labels:
    return OVERFLOW if key is None else family.pairs(key)
