"""Adding the words of dead slabs to what the retired file holds. A pure function; no files."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpmetrics._cells import RECORD, sums
from mpmetrics._cells.arithmetic import distribution_sum, extreme, is_set, latest, sketch_record, total_and_rest
from mpmetrics.storage.kept import kept_of
from mpmetrics.storage.retired import Retired

if TYPE_CHECKING:
    from mpmetrics._cells.vectors import Vector
    from mpmetrics.storage.catalog import Catalog, Series
    from mpmetrics.storage.reader import SlabReader

__all__ = ["retire"]


def retire(olds: list[Retired], slabs: list[tuple[SlabReader, Vector]], catalog: Catalog, generation: int) -> Retired:
    """What ``olds`` and the words of ``slabs`` add up to, for the series of ``catalog`` as of ``generation``.

    Where the later one counts, that is the last of ``olds``. The births are the caller's to say.
    """
    # Nobody has counted anything in the slots past the end of all of them.
    size = min(catalog.next_slot, max([*(len(old.values) for old in olds), *(len(words) for _, words in slabs)]))
    zeros = bytes(8 * size)
    new = Retired(array("d", zeros), array("d", zeros), generation=generation)
    new.incarnation = max(old.incarnation for old in olds) + 1
    new.slabs = {slab.identity for slab, _ in slabs}
    new.folded = sum(old.folded for old in olds) + len(slabs)
    readings = sorted(slabs, key=lambda reading: reading[0].created)
    adding = array("q")
    """Slots that are added up all at once: most of what there is."""
    for series in catalog.by_slot.values():
        first, end = series.first, series.first + series.width
        if end > size:
            continue
        kind = catalog.families[series.family].kind
        if kind == "counter":
            adding.append(first)
            continue
        if kind in ("histogram", "summary"):
            adding.extend(range(first + 2, end))
        known = [old for old in olds if end <= len(old.values) and series.generation <= old.generation]
        share = _Share(
            olds=[old for old in olds if series.generation <= old.generation],
            new=new,
            series=series,
            mode=catalog.families[series.family].mode,
            before=[list(old.values[first:end]) for old in known],
            rests=[list(old.remainders[first:end]) for old in known],
            columns=[(slab.ordinal, words[first:end]) for slab, words in readings if len(words) >= end],
        )
        share.add(kind)
    kept = [kept_of(old, catalog) for old in olds]
    vectors = [vector for each in kept for vector in (each.values, each.remainders)]
    _add_up(new, adding, [*vectors, *(words for _, words in readings)])
    return new


def _add_up(new: Retired, slots: array[int], vectors: list[Vector]) -> None:
    """Store the sums of these slots, and what their rounding leaves over, as :func:`total_and_rest` has them."""
    values = sums(vectors, slots, 1)
    less = array("d", bytes(8 * len(new.values)))
    for slot, value in zip(slots, values, strict=True):
        new.values[slot] = value
        less[slot] = -value if math.isfinite(value) else 0.0
    for slot, value, rest in zip(slots, values, sums([*vectors, less], slots, 1), strict=True):
        new.remainders[slot] = rest if math.isfinite(value) else 0.0


@dataclass
class _Share:
    """One series: its words by retired file, and by dead slab, with the slab's ordinal, the oldest slab first."""

    olds: list[Retired]
    new: Retired
    series: Series
    mode: str
    before: list[list[float]]
    rests: list[list[float]]
    columns: list[tuple[int, Vector]]

    def add(self, kind: str) -> None:
        """Store what the series comes to. Gauges of the live modes come to nothing: zero bits, never set."""
        if kind in ("histogram", "summary"):
            self._add_distribution()
        elif kind == "sketch":
            self._add_sketch()
        elif self.mode.startswith("live"):
            return
        elif self.series.width > 1:
            self._keep_latest()
        elif self.mode == "all":
            self._keep_by_ordinal()
        elif self.mode in ("min", "max"):
            self._keep_extreme()
        else:
            self._add_total()

    def _add_distribution(self) -> None:
        self._store(0, [*self._kept(0), *(distribution_sum(words) for _, words in self.columns)])

    def _add_sketch(self) -> None:
        records = [sketch_record(words) for _, words in self.columns]
        for position in range(4):
            self._store(position, [*self._kept(position), *(words[position] for words in records)])
        for position, mode in ((4, "min"), (5, "max")):
            values = [words[position] for words in (*self.before, *records) if is_set(words[position])]
            if values:
                self.new.values[self.series.first + position] = extreme(mode, values) or -0.0
        for bucket in self._used_buckets():
            self._store(bucket, [*self._kept(bucket), *(words[bucket] for _, words in self.columns)])

    def _used_buckets(self) -> list[int]:
        """Positions of a sketch's buckets that are not zero everywhere, which is most of them."""
        columns = [*self.before, *(words for _, words in self.columns)]
        buckets = range(2 * RECORD, self.series.width)
        return [bucket for bucket in buckets if any(words[bucket] for words in columns)]

    def _add_total(self) -> None:
        addends = [*self._kept(0), *(words[0] for _, words in self.columns)]
        self._store(0, addends)
        if self.new.values[self.series.first] == 0.0 and any(map(is_set, addends)):
            self.new.values[self.series.first] = -0.0

    def _keep_latest(self) -> None:
        words = max([*self.before, *(words for _, words in self.columns)], key=latest, default=[])
        self.new.values[self.series.first : self.series.first + len(words)] = array("d", words)

    def _keep_by_ordinal(self) -> None:
        values: dict[int, float] = {}
        for old in self.olds:
            values.update(old.by_ordinal.get(self.series.first, {}))
        values.update((ordinal, words[0]) for ordinal, words in self.columns if is_set(words[0]))
        if values:
            self.new.by_ordinal[self.series.first] = values

    def _keep_extreme(self) -> None:
        words = [*self.before, *(words for _, words in self.columns)]
        values = [each[0] for each in words if is_set(each[0])]
        if values:
            self.new.values[self.series.first] = extreme(self.mode, values) or -0.0

    def _kept(self, position: int) -> list[float]:
        """What the retired files hold of one of the words, rests included."""
        return [words[position] for words in (*self.before, *self.rests)]

    def _store(self, position: int, addends: list[float]) -> None:
        slot = self.series.first + position
        self.new.values[slot], self.new.remainders[slot] = total_and_rest(addends)
