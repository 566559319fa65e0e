"""Compute the contents of the next retired file from the present one and dead slabs. Touches no files itself."""

from __future__ import annotations

from array import array
from itertools import compress
from typing import TYPE_CHECKING

from mpmetrics._cells import (
    LAYOUTS,
    RECORD,
    created,
    extremes,
    folded_distributions,
    pack_rows,
    present,
    recents,
    retired_ordinals,
    sums_and_rests,
)
from mpmetrics._cells.arithmetic import merged_sketch, total, total_and_rest
from mpmetrics._cells.sparse import single_levels
from mpmetrics.storage import format as fmt
from mpmetrics.storage.shapes import Shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpmetrics.storage.reader import SlabReader
    from mpmetrics.storage.shapes import Shape

    ReadAll = Callable[[Shapes], Sequence[SlabReader]]

__all__ = ["Contents", "retire"]

MOST_ROWS = 100_000
"""Series of a metric that the retired file keeps; the others are added to the metric's overflow series."""

MOST_SHAPES = 4
"""Shapes of a metric that the retired file keeps although no living process declares them."""

_MOST_CELLS = 1 << 22
"""Values to gather at a time, at most."""


class Contents:
    """The words and records of a retired file that contains the files of ``readers``."""

    def __init__(self, readers: Sequence[SlabReader]) -> None:
        self.readers = readers
        self.words: list[bytes] = []
        self.records: list[bytes] = []
        self.next_word = fmt.FIRST_WORD
        self._families = 0

    def add(self, words: bytes, records: bytes) -> None:
        """Add records, and the words of their series."""
        self.words.append(words)
        self.records.append(records)
        self.next_word += len(words) // fmt.WORD

    def add_record(self, kind: int, body: bytes) -> None:
        """Add a record without words."""
        self.add(b"", fmt.encode_record(kind, body))

    def add_families(self, shape: Shape) -> list[int]:
        """Add the declarations of a shape; returns their numbers, in the order of its table's families."""
        numbers = {}
        for family, declared in shape.families.items():
            self.add_record(fmt.FAMILY, fmt.FAMILY_HEAD.pack(self._families, 0, declared) + family.pack())
            numbers[family.labels] = self._families
            self._families += 1
        return [numbers[labels] for labels, _ in shape.table.families]


def retire(
    shapes: Shapes,
    retired: SlabReader | None,
    dead: Sequence[SlabReader],
    read_all: ReadAll,
) -> Contents:
    """The contents of the retired file once it contains the slabs ``dead``.

    ``read_all(shapes)`` reads all present slabs; it is called only when not all series of the dead can be kept.
    """
    oldest_first = sorted(dead, key=lambda reader: reader.created)
    contents = Contents([*([] if retired is None else [retired]), *oldest_first])
    for rivals in shapes.by_name().values():
        kept = rivals
        if len(rivals) > MOST_SHAPES:
            alive = (each.families for each in read_all(Shapes()) if each.is_alive)
            living = {(family.name, family.shape) for families in alive for family in families}
            gone = [shape for shape in rivals if (shape.family.name, shape.family.shape) not in living]
            dropped = sorted(gone, key=lambda shape: shape.latest)[:-MOST_SHAPES]
            kept = [shape for shape in rivals if shape not in dropped]
        for shape in kept:
            _ShapeWriter(contents, shape, read_all).add()
    return contents


class _ShapeWriter:
    """Adds the series of one shape to the contents."""

    def __init__(self, contents: Contents, shape: Shape, read_all: ReadAll) -> None:
        self._contents = contents
        self._family = shape.family
        self._table = shape.table
        self._readers = contents.readers
        self._sources = [reader.source for reader in self._readers]
        self._retired = [reader.source for reader in self._readers if reader.is_retired]
        self._read_all = read_all
        self._numbers = contents.add_families(shape)

    def add(self) -> None:
        """Add the series. Of the live modes only ``livesum`` has any; its dead series show as zero."""
        kind, mode, width = self._family.kind, self._family.mode, self._family.retired_width
        table, sources = self._table, self._sources
        if not len(table):
            return
        mask = present(table, sources)
        if mode.startswith("live"):
            if mode == "livesum":
                self._add(array("d", bytes(8 * len(table))), mask, 1)
        elif kind in ("histogram", "summary"):
            self._add_capped(folded_distributions(table, sources, width - 2), mask, width)
        elif kind == "sketch":
            self._add_sketches(mask, width)
        elif kind in ("info", "enum") or mode == "mostrecent":
            self._add_recents(mask)
        elif mode == "all":
            self._add_levels()
        elif mode in ("min", "max"):
            values, mask = extremes(table, sources, mode == "max")
            self._add(array("d", (value or -0.0 for value in values)), mask, 1)
        else:
            self._add_capped(sums_and_rests(table, sources), mask, width)

    def _add(self, values: Sequence[float], mask: bytes, width: int) -> None:
        """Add the series of the rows in ``mask``, each with ``width`` values."""
        first = self._contents.next_word
        self._contents.add(*pack_rows(self._table, self._sources, values, mask, width, first, self._numbers))

    def _add_capped(self, values: Sequence[float], mask: bytes, width: int) -> None:
        """Add sums. Beyond MOST_ROWS, new rows that no living slab has go to the overflow series."""
        excess = self._excess(mask)
        if excess:
            table, row = self._table, self._table.overflow
            added = [*excess, *([row] if row >= 0 and mask[row] else [])]
            shown = bytearray(mask)
            for each in added:
                shown[each] = 0
            sums, rests, *buckets = ([values[each * width + at] for each in added] for at in range(width))
            words = array("d", [*total_and_rest([*sums, *rests]), *map(total, buckets)])
            times = created(table, self._sources)
            first, since = self._contents.next_word, min(times[each] for each in added)
            body = fmt.SERIES_HEAD.pack(self._numbers[0], width, first, since, 0) + fmt.pack_texts(None)
            self._contents.add(words.tobytes(), fmt.encode_record(fmt.SERIES, body))
            mask = bytes(shown)
        self._add(values, mask, width)

    def _excess(self, mask: bytes) -> list[int]:
        """Rows beyond MOST_ROWS that neither the retired file nor a living slab has."""
        rows = sum(mask)
        if rows <= MOST_ROWS:
            return []
        known = present(self._table, self._retired)
        own = Shapes()
        living = [reader.source for reader in self._read_all(own) if reader.is_alive]
        others = own.find(self._family)
        held = present(others.table, living) if others is not None else b""
        excess = []
        for row, is_there in enumerate(mask):
            if is_there and not known[row] and row != self._table.overflow:
                other = -1 if others is None else others.table.find(self._table.labels(row))
                if other < 0 or not held[other]:
                    excess.append(row)
        return excess[: rows - MOST_ROWS]

    def _add_sketches(self, mask: bytes, width: int) -> None:
        values = array("d", bytes(8 * width * len(self._table)))
        for row, is_there in enumerate(mask):
            if is_there:
                record, buckets = merged_sketch(self._table, row, self._sources, LAYOUTS[self._family.mode].size)
                limits = [number or -0.0 for number in record[4:RECORD]] if any(buckets) else [0.0, 0.0]
                values[row * width : (row + 1) * width] = array("d", [*record[:4], *limits, *buckets])
        self._add(values, mask, width)

    def _add_recents(self, mask: bytes) -> None:
        found, times, winners = recents(self._table, self._sources)
        values = array("d", bytes(32 * len(self._table)))
        numbers = memoryview(values).cast("B").cast("Q")
        shown = bytearray(mask)
        for row, winner in enumerate(winners):
            if winner < 0:
                # Never set. An unset enum shows its first state, so its series is kept.
                shown[row] &= self._family.kind == "enum"
                continue
            source = self._sources[winner]
            values[4 * row] = found[row]
            numbers[4 * row + 1] = times[row]
            if not self._readers[winner].is_retired:
                values[4 * row + 2 : 4 * row + 4] = array("d", source.identity)
            elif words := source.words(self._table, row):
                values[4 * row + 2 : 4 * row + 4] = array("d", words[2:4])
        if self._family.kind == "info":
            self._keep_latest(shown, times)
        numbers.release()
        self._add(values, bytes(shown), 4)

    def _keep_latest(self, shown: bytearray, times: Sequence[int]) -> None:
        """Of an info, keep the latest series of each set of label values."""
        size = len(self._family.labels)
        latest: dict[object, int] = {}
        for row in compress(range(len(shown)), shown):
            about = self._table.labels(row)[:size]
            latest[about] = max(row, latest.get(about, row), key=times.__getitem__)
        kept = set(latest.values())
        shown[:] = bytes(row in kept for row in range(len(shown)))

    def _add_levels(self) -> None:
        """Add pairs of ordinal and value. Rows with the same number of pairs are added together."""
        own = array("q", (-1 if reader.ordinal is None else reader.ordinal for reader in self._readers))
        columns = array("q", sorted({*own, *retired_ordinals(self._table, self._retired)} - {-1}))
        by_row: dict[int, array[float]] = {}
        for row, ordinal, value in single_levels(self._table, self._sources, own, columns, _MOST_CELLS):
            pairs = by_row.setdefault(row, array("d"))
            pairs.frombytes(ordinal.to_bytes(fmt.WORD, fmt.BYTE_ORDER))
            pairs.append(value or -0.0)
        rows: dict[int, list[tuple[int, array[float]]]] = {}
        for row, pairs in sorted(by_row.items()):
            rows.setdefault(len(pairs), []).append((row, pairs))
        for width, members in rows.items():
            values = array("d", bytes(8 * width * len(self._table)))
            shown = bytearray(len(self._table))
            for row, pairs in members:
                values[row * width : (row + 1) * width] = pairs
                shown[row] = 1
            self._add(values, bytes(shown), width)
