"""Sources: parse the records and copy the words of one slab or retired file; the pure-Python twin.

Format: ``mpmetrics/storage/format.py``. Invalid bytes affect only their own source, and memory use is proportional to
the file's size. The bytes may change at any time, so each check is made on a copy.
"""

from __future__ import annotations

import math
import struct
from array import array
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from mpmetrics._cells.index import Table
from mpmetrics._cells.offsets import (
    AREA_0,
    END,
    FAMILY,
    FAMILY_HEAD,
    FIRST_WORD,
    FOLDED,
    PAGE,
    SERIES,
    SERIES_HEAD,
    WORD,
    WORDS_END,
)
from mpmetrics._cells.part import FIRST, GONE, Part
from mpmetrics._cells.records import Copy, FamilyRecord, Records, copy_records
from mpmetrics._cells.words import load

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpmetrics._cells.part import SeriesHead

__all__ = ["Source"]

MAX_FAMILIES: Final = 1 << 16
MAX_WIDTH: Final = 1 << 17


class Source:
    """The records and words of one slab, or with ``retired`` of a retired file, in a buffer.

    ``parse`` reads the committed records. It returns each new family, for which the caller calls ``family``, and None
    at the end. ``load`` copies the words of the series that are known then. A further ``parse`` drops the series that
    ended meanwhile. Merging uses the series that existed at the last ``load`` and have not ended since. One thread at a
    time. ValueError when the buffer is shorter than a head.

    Parsing records here takes a thousand times as long as copying them, and the writer may flip meanwhile. So records
    are copied first. After a flip, series that are the same in the new copy keep the words of the last ``load``.
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
        """Of two values with the same time, the one of the greater identity counts."""
        self._limit = len(view)
        self._flips: int | None = None
        self._values = array("d", (0.0,))
        self.parts: dict[Table, Part] = {}
        self._copied: Copy | None = None
        """The copy of the records that are being parsed."""
        self._loaded_before: dict[Table, set[tuple[SeriesHead, int]]] | None = None
        """After a flip, until all records are parsed: heads and rows of the series that had values."""
        self._forget()

    def _forget(self) -> None:
        for part in self.parts.values():
            part.use()
            part.table.release(row for row in part.rows if row != GONE)
        self.parts = {}
        self.folded: set[bytes] = set()
        """Identities of the slabs that a retired file contains."""
        self.damaged = 0
        """How many gaps between valid records, and how many invalid records, were found."""
        self._families: dict[int, tuple[Part, int] | None] = {}
        self._announced: dict[int, bytes] = {}
        """Bodies of FAMILY records, by number."""
        self._places: dict[int, tuple[Part, int]] | None = None
        """The series by their first words; None until needed, and after the series were renumbered."""
        self._used = bytearray()
        """A byte for each word: 1 if a series has the word."""
        self._words_end = FIRST_WORD
        """Where the last word of any series ends."""
        self._position = 0
        self._records = Records()
        self._wanted = 0
        """Where the committed records end in the file. The file may have grown since its size was checked."""
        self._is_cut = False

    def __del__(self) -> None:
        if hasattr(self, "parts"):
            self._forget()

    def limit(self, size: int) -> None:
        """Set the file's size in bytes: nothing beyond it is read."""
        self._limit = max(0, min(size, len(self._bytes)))
        if self._wanted > self._limit and not self._is_cut:
            self.damaged += 1
            self._is_cut = True

    @property
    def series(self) -> int:
        """How many series the source has."""
        return sum(len(part.rows) - part.gone for part in self.parts.values())

    def parse(self) -> FamilyRecord | None:
        """Parse further records; returns the next new family, or None when all records are parsed."""
        if self._limit < PAGE:
            return None
        copied = self._copied or self._copy()
        record = None if copied is None else self._walk(copied)
        for part in self.parts.values():
            part.use()
        if record is None:
            self._copied = None
            self._keep_values()
        return record

    def _copy(self) -> Copy | None:
        """Copy the new records, or all if the writer has moved them; None when the copy fails."""
        self._copied = copied = copy_records(self._bytes, self._head, self._limit, self._flips, self._position)
        if copied is None or copied.is_restart:
            before = {table: part.loaded_series() for table, part in self.parts.items()}
            self._forget()
            self._loaded_before = before
        if copied is None:
            self._flips = None
            self.damaged += 1
        else:
            self._flips, self._wanted = copied.flips, copied.wanted
        return copied

    def _keep_values(self) -> None:
        """After a flip: let the leading series that are unchanged keep their values."""
        before, self._loaded_before = self._loaded_before or {}, None
        for table in before.keys() & self.parts.keys():
            self.parts[table].keep_values(before[table], self._values)

    def _walk(self, copied: Copy) -> FamilyRecord | None:
        """Apply the records of the copy from the position on, up to the first new family."""
        data, start = copied.data, copied.start
        limit = min(self._head[WORDS_END], AREA_0, self._limit) // WORD
        self._used.extend(bytes(max(0, limit - len(self._used))))
        at = self._position - start
        while at < len(data):
            found = self._records.record(data, at)
            if found is None:
                if copied.is_partial and self._records.is_incomplete(data, at):
                    break
                self.damaged += 1
                at = self._records.find(data, at)
                self._position = start + at
                continue
            kind, body, at = found
            self._position = start + at
            try:
                family = self._apply(kind, body, limit)
            except (ValueError, struct.error):
                self.damaged += 1
                continue
            if family is not None:
                return family
        return None

    def _apply(self, kind: int, body: bytes, limit: int) -> FamilyRecord | None:
        """Apply one record; ValueError or struct.error when it is invalid."""
        if kind == FAMILY:
            return self._apply_family(body)
        if kind == SERIES:
            self._apply_series(body, limit)
        elif kind == END:
            (first,) = struct.unpack("=Q", body)
            found = self._find(first)
            if found is not None:
                self._drop(*found)
        elif kind == FOLDED:
            self.folded.add(struct.unpack("=16s", body)[0])
        return None

    def _apply_family(self, body: bytes) -> FamilyRecord | None:
        number, _, declared = FAMILY_HEAD.unpack_from(body)
        if self._announced.get(number) == body:
            return None  # an interrupted declaration, repeated by the writer
        if number >= MAX_FAMILIES or number in self._announced:
            msg = f"family {number} exists already, or is beyond the limit"
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
        """Put the series of a family that ``parse`` has returned into ``table``; None: ignore them.

        A series has ``width`` words, or any number if that is 0. All families of one table have the same width.
        """
        if number not in self._announced or number in self._families:
            msg = f"parse() has not returned family {number}"
            raise ValueError(msg)
        if table is None:
            self._families[number] = None
            return
        if not isinstance(table, Table) or not 0 <= width <= MAX_WIDTH:
            msg = f"family() needs a Table and a width of at most {MAX_WIDTH}"
            raise TypeError(msg)
        index = table.family(labels, is_open)
        part = self.parts.setdefault(table, Part(table, width))
        if part.width != width:
            msg = f"the table has {part.width} words a series, not {width}"
            raise ValueError(msg)
        self._families[number] = part, index

    def _apply_series(self, body: bytes, limit: int) -> None:
        head = SERIES_HEAD.unpack_from(body)
        number, width, first, created, _ = head
        if number not in self._families:
            msg = f"family {number} is unknown"
            raise ValueError(msg)
        known = self._families[number]
        if known is None:
            return
        part, family = known
        end = first + width
        is_right = width and first >= FIRST_WORD and end <= limit and math.isfinite(created)
        if not is_right or (part.width and width != part.width) or self._used.find(1, first, end) >= 0:
            msg = f"a series cannot have {width} words from {first} on"
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
        """Copy the words of all series, each word whole, and the words of one series as they were at one moment.

        If that fails in a bounded number of attempts, the words are accepted as they are.
        """
        self._copied = self._loaded_before = None
        if self._limit < PAGE:
            return
        parts = list(self.parts.values())
        for part in parts:
            if part.gone:
                part.compact()
                self._places = None
        wanted = self._words_end
        there = max(FIRST_WORD, min(wanted, self._limit // WORD))
        spans = () if self.is_retired else chain.from_iterable(part.spans(there) for part in parts)
        values = load(self._words[FIRST_WORD:there], spans, self._values)
        if there < wanted:  # the file was truncated
            values = values + array("d", bytes(8 * (wanted - there)))
        self._values = values
        for part in parts:
            part.set_values(values)

    def sweep(self, table: Table) -> set[int]:
        """Drop the removed series of ``table``; returns the generations of the removals that ended them."""
        part = self.parts.get(table)
        dropped = [] if part is None else [(part, member) for member in part.removed()]
        removals = {table.removed[part.rows[member]] for part, member in dropped}
        for part, member in dropped:
            self._drop(part, member)
        return removals

    def words(self, table: Table, row: int) -> list[float] | None:
        """The words of the last series of a row; None if the row has no series."""
        part = self.parts.get(table)
        member = None if part is None else part.member(row)
        return None if part is None or member is None else part.words_of(member).tolist()

    def rows_at(self, table: Table, firsts: Iterable[int]) -> list[int]:
        """The rows of the series of ``table`` whose first words these are."""
        found = [self._find(word) for word in firsts]
        return [part.rows[member] for part, member in filter(None, found) if part.table is table]
