"""The pure-Python twin of sources: one slab or retired file, read. The format: ``mpmetrics/storage/format.py``.

Whatever the bytes are, they cost this source alone, and memory in proportion to the file. They may change at any time:
what was checked is a copy.
"""

from __future__ import annotations

import math
import struct
import zlib
from array import array
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from mpmetrics._cells.index import Table
from mpmetrics._cells.offsets import (
    AREA_0,
    AREA_SIZE,
    COMMITTED,
    END,
    FAMILY,
    FIRST_WORD,
    FLIPS,
    FOLDED,
    MAX_BODY,
    PAGE,
    RECORD_HEAD,
    RECORD_MAGIC,
    SERIES,
    SERIES_HEAD,
    WORD,
    WORDS_END,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["FamilyRecord", "Part", "Source"]

FAMILY_HEAD: Final = struct.Struct("=IIQ")
MAX_FAMILIES: Final = 1 << 16
MAX_WIDTH: Final = 1 << 17
PATIENCE: Final = 1 << 26
"""Bytes of damaged records whose checksums are computed."""

RESTARTS: Final = 16
"""How often a source is read from the beginning between two loads; its writer may flip as fast as it likes."""

RETRIES: Final = 256
"""How often words that belong together are read again before they are taken as they are."""

BLOCK: Final = 64
"""Words that are compared as bytes, and loaded or merged anew together."""

GONE: Final = -1

SeriesHead = tuple[int, int, int, float, int]
"""What stands before the texts in a SERIES record."""

WORDS: Final = 1
FIRST: Final = 2
CREATED: Final = 3
GENERATION: Final = 4
"""Positions in it: the number of words, the first one, the time of creation, the generation."""

_MAGIC: Final = struct.pack("=I", RECORD_MAGIC)


class FamilyRecord(NamedTuple):
    """A FAMILY record: number, time of the declaration in ns, and the packed fields of the metric."""

    number: int
    declared: int
    packed: bytes


class Layer(NamedTuple):
    """Series of different rows: by row the place of its values, 0 where there is none.

    ``run`` is the first row, the first place, and the number of rows, where both go on in steps.
    """

    places: list[int]
    run: tuple[int, int, int] | None
    getters: dict[int, itemgetter[Any]]
    """By the offset of a word in its series, what gets it from values for each row."""


class Part:
    """The series of one table in one source, in the order of their records."""

    def __init__(self, table: Table, width: int) -> None:
        self.table = table
        self.width = width
        """Words of each series; 0: each has its own number."""
        self.heads: list[SeriesHead] = []
        self.rows: list[int] = []
        """GONE where it has ended, or was removed."""
        self.used = 0
        """How many of them the table counts as uses of its rows."""
        self.loaded = 0
        """How many of them have values."""
        self.gone = 0
        self.stamp: object = object()
        """Another one whenever series that have values come or go."""
        self.swept = 0
        self.swept_removals = 0
        self.values = array("d", (0.0,))
        """The values of the source, from the place of its first word on; at place 0 there is a zero."""
        self._layers: tuple[object, int, list[Layer]] | None = None
        self._columns: dict[tuple[int, int], tuple[object, array[float], list[array[float]]]] = {}
        self._members: tuple[object, dict[int, int]] = (None, {})

    def members(self) -> Iterator[int]:
        """The numbers of the series that have values."""
        return (at for at in range(self.loaded) if self.rows[at] != GONE)

    def words_of(self, member: int) -> array[float]:
        """The values of a series."""
        head = self.heads[member]
        start = place(head[FIRST])
        return self.values[start : start + head[WORDS]]

    def member(self, row: int) -> int | None:
        """The last series of a row."""
        stamp, members = self._members
        if stamp is not self.stamp:
            members = {self.rows[at]: at for at in self.members()}
            self._members = self.stamp, members
        return members.get(row)

    def columns(self, offset: int, rows: int) -> list[array[float]]:
        """The word at ``offset`` of each of so many rows, 0.0 where there is none.

        They are the same objects as before where nothing has changed. A row that has more than one series here takes
        more than one column.
        """
        kept = self._columns.get((offset, rows))
        if kept is not None and kept[0] is self.stamp and kept[1] is self.values:
            return kept[2]
        columns = [_column(self.values, layer, offset, self.width, rows) for layer in self._layered(rows)]
        if kept is not None:
            columns = [
                before if before == now and before.tobytes() == now.tobytes() else now
                for before, now in zip(kept[2], columns, strict=False)
            ] + columns[len(kept[2]) :]
        else:
            self._columns = {key: value for key, value in self._columns.items() if key[1] == rows}
        self._columns[offset, rows] = self.stamp, self.values, columns
        return columns

    def shown(self, rows: int) -> list[array[float]]:
        """To each of those columns one that is 1.0 where there is a series."""
        return [array("d", map(float, map(bool, layer.places))) for layer in self._layered(rows)]

    def _layered(self, rows: int) -> list[Layer]:
        if self._layers is not None and self._layers[0] is self.stamp and self._layers[1] == rows:
            return self._layers[2]
        layers: list[dict[int, int]] = []
        members = [(self.rows[at], place(self.heads[at][FIRST])) for at in self.members()]
        while members:
            layer: dict[int, int] = {}
            left = [(row, where) for row, where in members if layer.setdefault(row, where) != where]
            layers.append(layer)
            members = left
        made = [_layer(layer, rows, self.width) for layer in layers]
        self._layers = self.stamp, rows, made
        return made

    def use(self) -> None:
        """Have the table count the rows of new series."""
        self.table.use(self.rows[self.used :])
        self.used = len(self.rows)

    def compact(self) -> None:
        """Leave out the series that are gone."""
        kept = [at for at, row in enumerate(self.rows) if row != GONE]
        self.swept = sum(at < self.swept for at in kept)
        self.heads = [self.heads[at] for at in kept]
        self.rows = [self.rows[at] for at in kept]
        self.used = len(kept)
        self.gone = 0
        self.loaded = -1


def place(word: int) -> int:
    """Where a word's value stands in ``Part.values``."""
    return word - FIRST_WORD + 1


def _layer(places: dict[int, int], rows: int, width: int) -> Layer:
    by_row = [0] * rows
    for row, at in places.items():
        by_row[row] = at
    first, count = next(iter(places)), len(places)
    start = places[first]
    is_run = list(places) == list(range(first, first + count)) and list(places.values()) == list(
        range(start, start + count * (width or 1), width or 1)
    )
    return Layer(by_row, (first, start, count) if is_run else None, {})


def _column(values: array[float], layer: Layer, offset: int, width: int, rows: int) -> array[float]:
    if layer.run is not None:
        first, start, count = layer.run
        found = values[start + offset : start + offset + count * width : width]
        return array("d", bytes(8 * first)) + found + array("d", bytes(8 * (rows - first - count)))
    getter = layer.getters.get(offset)
    if getter is None:
        # The last one is got twice: a getter of one item gives no tuple.
        wanted = [at + offset if at else 0 for at in layer.places]
        getter = layer.getters[offset] = itemgetter(*wanted, wanted[-1])
    return array("d", getter(values)[:rows])


class Source:
    """The records and words of one slab or ``retired`` file, in a buffer; follows its writer from call to call.

    ``parse`` reads records up to what is committed. It stops at each family, which is answered by ``family``, and
    returns None in the end. ``load`` copies the words of the series that are known then; ``parse`` again takes the
    series out that ended meanwhile. What is merged are the series that were there at the last ``load`` and have not
    ended since. One thread at a time. ValueError when the buffer is no whole head.
    """

    def __init__(self, buffer: Any, *, retired: bool = False) -> None:
        view = memoryview(buffer).cast("B")
        if len(view) < PAGE:
            msg = f"{len(view)} bytes are no slab"
            raise ValueError(msg)
        self._bytes = view
        whole = view[: len(view) // WORD * WORD]
        self._head = whole[:PAGE].cast("Q")
        self._words = whole.cast("d")
        self.is_retired = retired
        self.identity = bytes(view[16:32])
        """Of two values of the same time that of the greater identity counts."""
        self._limit = len(view)
        self._flips: int | None = None
        self._was_loaded = False
        self._must_load = False
        self._restarts = 0
        self._values = array("d", (0.0,))
        self.parts: dict[Table, Part] = {}
        self._forget()

    def _forget(self) -> None:
        for part in self.parts.values():
            part.use()
            part.table.release(row for row in part.rows if row != GONE)
        self.parts = {}
        self.folded: set[bytes] = set()
        """Identities of the slabs that a retired file contains."""
        self.damaged = 0
        """Stretches of the file that could not be read, and records that made no sense."""
        self._families: dict[int, tuple[Part, int] | None] = {}
        self._announced: dict[int, bytes] = {}
        """Bodies of FAMILY records, by number."""
        self._places: dict[int, tuple[Part, int]] | None = None
        """The series by their first words; None until somebody asks, and when they are numbered anew."""
        self._used = bytearray()
        """A byte for each word, 1 where a series has it."""
        self._words_end = FIRST_WORD
        """Where the last word ends that a series has had."""
        self._position = 0
        self._patience = PATIENCE
        self._wanted = 0
        """Where the records end that were committed, in the file; it may have grown since its size was looked at."""
        self._is_cut = False

    def __del__(self) -> None:
        if hasattr(self, "parts"):
            self._forget()

    def limit(self, size: int) -> None:
        """The file has so many bytes: nothing behind them is touched."""
        self._limit = max(0, min(size, len(self._bytes)))
        if self._wanted > self._limit and not self._is_cut:
            self.damaged += 1
            self._is_cut = True

    @property
    def series(self) -> int:
        """How many series there are."""
        return sum(len(part.rows) - part.gone for part in self.parts.values())

    def parse(self) -> FamilyRecord | None:
        """Read on; returns a family that came, or None when all is read."""
        if self._limit < PAGE:
            return None
        while True:
            flips = self._head[FLIPS]
            end = self._head[COMMITTED + (flips & 1)] & ~7
            if flips != self._flips or end < self._position:
                if self._restarts == RESTARTS:
                    return None
                self._restarts += 1
                self._forget()
                self._must_load = self._was_loaded
            self._flips = flips
            area = AREA_0 + (flips & 1) * AREA_SIZE
            there = max(0, min(self._limit - area, AREA_SIZE)) & ~7
            self._wanted = area + end
            record = self._walk(bytes(self._bytes[area + self._position : area + min(end, there)]), is_cut=end > there)
            for part in self.parts.values():
                part.use()
            if self._head[FLIPS] != flips:
                continue
            if record is not None or not self._must_load:
                return record
            # Words do not move with records: what the last load() read is of no use, but may be read again right now.
            self._must_load = False
            self._load()

    def _walk(self, data: bytes, *, is_cut: bool) -> FamilyRecord | None:
        """Take the records of ``data``, which stand at the position, up to the first family.

        With ``is_cut`` the file had fewer bytes at the last look than are committed by now.
        """
        limit = min(self._head[WORDS_END], AREA_0, self._limit) // WORD
        if len(self._used) < limit:
            self._used.extend(bytes(limit - len(self._used)))
        begin, at = self._position, 0
        while at < len(data):
            found = self._record(data, at)
            if found is None:
                if is_cut and self._goes_on(data, at):
                    break
                self.damaged += 1
                at = self._next_record(data, at)
                self._position = begin + at
                continue
            kind, body, at = found
            self._position = begin + at
            try:
                family = self._take(kind, body, limit)
            except (ValueError, struct.error):
                self.damaged += 1
                continue
            if family is not None:
                return family
        return None

    def _take(self, kind: int, body: bytes, limit: int) -> FamilyRecord | None:
        """One record; ValueError or struct.error when it makes no sense."""
        if kind == FAMILY:
            return self._take_family(body)
        if kind == SERIES:
            self._take_series(body, limit)
        elif kind == END:
            (first,) = struct.unpack("=Q", body)
            found = self._find(first)
            if found is not None:
                self._drop(*found)
        elif kind == FOLDED:
            self.folded.add(struct.unpack("=16s", body)[0])
        return None

    def _record(self, data: bytes, at: int) -> tuple[int, bytes, int] | None:
        """Kind and body of the record there, and where the next one begins; None when there is no valid one."""
        start = at + RECORD_HEAD.size
        if start > len(data) or self._patience < 0:
            return None
        magic, length, checksum, kind = RECORD_HEAD.unpack_from(data, at)
        if magic != RECORD_MAGIC or length > MAX_BODY or start + length > len(data):
            return None
        body = data[start : start + length]
        if zlib.crc32(body, kind) != checksum:
            self._patience -= length
            return None
        return kind, body, start + (length + 7 & ~7)

    def _goes_on(self, data: bytes, at: int) -> bool:
        """Whether the record there goes on behind the end of ``data``."""
        start = at + RECORD_HEAD.size
        if start > len(data):
            return True
        magic, length, _, _ = RECORD_HEAD.unpack_from(data, at)
        return bool(magic == RECORD_MAGIC and length <= MAX_BODY and start + length > len(data))

    def _next_record(self, data: bytes, at: int) -> int:
        """Where the next valid record begins behind a damaged one, or the end."""
        while self._patience >= 0:
            at = data.find(_MAGIC, at + 1)
            while at >= 0 and at % 8:
                at = data.find(_MAGIC, at + 1)
            if at < 0:
                break
            if self._record(data, at) is not None:
                return at
        return len(data)

    def _take_family(self, body: bytes) -> FamilyRecord | None:
        number, _, declared = FAMILY_HEAD.unpack_from(body)
        if self._announced.get(number) == body:
            return None  # an interrupted declaration was made again
        if number >= MAX_FAMILIES or number in self._announced:
            msg = f"family {number} is there already, or past the limit"
            raise ValueError(msg)
        self._announced[number] = body
        return FamilyRecord(number, declared, body[FAMILY_HEAD.size :])

    def family(
        self,
        number: int,
        table: Table | None,
        width: int,
        labels: tuple[str, ...],
        is_open: bool,  # noqa: FBT001
    ) -> None:
        """The family that ``parse`` has returned: its series go to ``table``; None: nowhere.

        A series has ``width`` words, or with 0 any number; all families of one table have the same.
        """
        if number not in self._announced or number in self._families:
            msg = f"family {number} was not asked for"
            raise ValueError(msg)
        if table is None:
            self._families[number] = None
            return
        if not isinstance(table, Table) or not 0 <= width <= MAX_WIDTH:
            msg = f"family() takes a Table and a width of at most {MAX_WIDTH}"
            raise TypeError(msg)
        index = table.family(labels, is_open)
        part = self.parts.setdefault(table, Part(table, width))
        if part.width != width:
            msg = f"a table of {part.width} words a series, not {width}"
            raise ValueError(msg)
        self._families[number] = part, index

    def _take_series(self, body: bytes, limit: int) -> None:
        head = SERIES_HEAD.unpack_from(body)
        number, width, first, created, _ = head
        if number not in self._families:
            msg = f"there is no family {number}"
            raise ValueError(msg)
        known = self._families[number]
        if known is None:
            return
        part, family = known
        end = first + width
        is_right = width and first >= FIRST_WORD and end <= limit and math.isfinite(created)
        if not is_right or (part.width and width != part.width) or self._used.find(1, first, end) >= 0:
            msg = f"no series has {width} words from {first} on"
            raise ValueError(msg)
        part.rows.append(part.table.row(family, body[SERIES_HEAD.size :]))
        part.heads.append(head)
        if width == 1:
            self._used[first] = 1
        else:
            self._used[first:end] = b"\1" * width
        self._words_end = max(self._words_end, end)
        if self._places is not None:
            self._places[first] = part, len(part.rows) - 1

    def _find(self, first: int) -> tuple[Part, int] | None:
        """The series that begins at this word."""
        if self._places is None:
            self._places = {
                head[FIRST]: (part, at)
                for part in self.parts.values()
                for at, head in enumerate(part.heads)
                if part.rows[at] != GONE
            }
        return self._places.get(first)

    def _drop(self, part: Part, member: int) -> None:
        part.use()
        _, width, first, _, _ = part.heads[member]
        if self._places is not None:
            del self._places[first]
        self._used[first : first + width] = bytes(width)
        part.table.release((part.rows[member],))
        part.rows[member] = GONE
        part.gone += 1
        if member < part.loaded:
            part.stamp = object()

    def load(self) -> None:
        """Copy the words of all series, each whole; those that belong together as they were at one moment.

        If that cannot be had in a bounded number of attempts, they are taken as they are.
        """
        if self._limit >= PAGE:
            self._restarts = 0
            self._load()

    def _load(self) -> None:
        parts = list(self.parts.values())
        for part in parts:
            if part.gone:
                part.compact()
                self._places = None
            if part.loaded != len(part.rows):
                part.loaded = len(part.rows)
                part.stamp = object()
        wanted = self._words_end
        there = max(FIRST_WORD, min(wanted, self._limit // WORD))
        values = load(self._words[FIRST_WORD:there], self._spans(there), self._values)
        if there < wanted:  # the file was cut
            values = values + array("d", bytes(8 * (wanted - there)))
        self._values = values
        for part in parts:
            part.values = values
        self._was_loaded = True

    def _spans(self, end: int) -> Iterable[tuple[int, int]]:
        """First and last place of words that belong together and may change."""
        if self.is_retired:
            return ()
        return (
            (place(head[FIRST]), place(head[FIRST]) + part.width)
            for part in self.parts.values()
            if part.width > 1
            for head in part.heads
            if head[FIRST] + part.width <= end
        )

    def sweep(self, table: Table) -> int:
        """Drop the series that were removed from ``table``; returns their lowest generation, -1: there was none."""
        part = self.parts.get(table)
        if part is None:
            return -1
        if part.swept_removals != table.removals:
            part.swept = 0
        part.swept_removals = table.removals
        dropped = []
        if table.removed:
            for member in range(part.swept, len(part.rows)):
                row = part.rows[member]
                generation = part.heads[member][GENERATION]
                if row != GONE and generation < table.removed.get(row, 0):
                    dropped.append(generation)
                    self._drop(part, member)
        part.swept = len(part.rows)
        return min(dropped, default=-1)

    def words(self, table: Table, row: int) -> list[float] | None:
        """The words of the last series of a row; None when there is none."""
        part = self.parts.get(table)
        member = None if part is None else part.member(row)
        return None if part is None or member is None else part.words_of(member).tolist()

    def rows_at(self, table: Table, firsts: Iterable[int]) -> list[int]:
        """The rows of the series of ``table`` that begin at these words."""
        found = [self._find(word) for word in firsts]
        return [part.rows[member] for part, member in filter(None, found) if part.table is table]


def load(words: memoryview[Any], spans: Iterable[tuple[int, int]], held: array[float]) -> array[float]:
    """A zero, and a copy of the words of a map that others write to, each loaded whole.

    ``spans`` are the places of words that belong together. ``held`` is what the last call for these words returned; it
    is returned again when nothing has changed.
    """
    # A copy of bytes may tear a word. One that is torn differs from what is held, or has the bytes of the old word.
    seen = words.tobytes()
    before = held.tobytes()[8:]
    if seen == before:
        return held
    if len(seen) != len(before):
        values = array("d", [0.0, *words.tolist()])  # of a view in native format this loads item by item
    else:
        values = held[:]
        for low, high in runs(differing(seen, before)):
            values[low + 1 : high + 1] = array("d", words[low:high].tolist())
    if words.tobytes() != memoryview(values)[1:].tobytes():
        again = array("d", [0.0, *words.tolist()])
        for low, high in spans:
            if values[low:high] != again[low:high]:
                values[low:high] = array("d", _settle(words, low - 1, high - 1))
    return values


def _settle(words: memoryview[Any], start: int, end: int) -> list[float]:
    """Words from start to end, read until two readings agree, a bounded number of times.

    The readings are copies of bytes, which are so quick that a busy writer pauses for long enough: as numbers, the
    words of a sketch take ten times as long as its writer does. Such a copy may tear a word, but the next one then
    differs from it; if none ever agree, each word is loaded whole, at least.
    """
    earlier = words[start:end].tobytes()
    for _ in range(RETRIES):
        later = words[start:end].tobytes()
        if earlier == later:
            return cast("list[float]", memoryview(later).cast("d").tolist())
        earlier = later
    return cast("list[float]", words[start:end].tolist())


def differing(some: bytes, others: bytes) -> list[tuple[int, int]]:
    """First word and end of each block in which these words, as many here as there, are not the same."""
    width = WORD * BLOCK
    starts = [at for at in range(0, len(some), width) if some[at : at + width] != others[at : at + width]]
    return [(at // WORD, min(at // WORD + BLOCK, len(some) // WORD)) for at in starts]


def runs(blocks: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Blocks in ascending order, those put together that touch each other."""
    found: list[tuple[int, int]] = []
    for start, end in blocks:
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return found
