"""The writer of a slab; the pure-Python twin. Format: ``mpmetrics.storage.format``.

Each atomic step is a straight line without calls, which threads, signal handlers, finalisers and forks cannot interrupt
(see :mod:`mpmetrics._cells.pure`). Everything that the line needs is prepared before it. The slab may change meanwhile,
so the line first compares ``flips`` and ``committed``, which change with each record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmetrics._cells.encoding import encode_record
from mpmetrics._cells.files import allocate_blocks, claim_ordinal
from mpmetrics._cells.offsets import (
    AREA_0,
    AREA_SIZE,
    COMMITTED,
    END,
    FIRST_WORD,
    FLIPS,
    MAX_BODY,
    MAX_GROWTH,
    PAGE,
    RECORD_HEAD,
    ROOM,
    SERIES,
    SERIES_HEAD,
    SLAB_SIZE,
    WORD,
    WORDS_END,
)

if TYPE_CHECKING:
    from mpmetrics._cells.files import Where
    from mpmetrics._cells.maps import Map

__all__ = ["END_SIZE", "Plan", "Slab"]

END_SIZE = RECORD_HEAD.size + WORD
_LEAST_GARBAGE = 64 << 10


class Plan:
    """A record that is ready to be written, and where it goes.

    ``flips`` and ``committed`` are the values that the slab had when the preparations began. If they have changed, the
    plan is void.
    """

    __slots__ = ("end", "flips", "record", "start", "where", "word")

    def __init__(self, flips: int, committed: int, kind: int, body: bytes) -> None:
        self.flips = flips
        self.start = committed
        self.record = encode_record(kind, body)
        self.end = self.start + len(self.record)
        area = self.flips & 1
        self.word = COMMITTED + area
        base = AREA_0 + area * AREA_SIZE
        self.where = slice(base + self.start, base + self.end)


class Slab:
    """The writer of the slab in ``map``, which is new and has its head.

    It never reads back from the file where to write next: the file could be damaged.
    """

    __slots__ = (
        "_number",
        "_sets_aside",
        "_where",
        "bits",
        "committed",
        "data",
        "file",
        "flips",
        "free",
        "garbage",
        "lowest",
        "next_word",
        "ordinal",
        "records",
        "words",
    )

    def __init__(self, map: Map) -> None:
        self.data = memoryview(map).cast("B")
        if len(self.data) < SLAB_SIZE:
            msg = f"a slab must have {SLAB_SIZE} bytes, not {len(self.data)}"
            raise ValueError(msg)
        self.words = self.data.cast("d")
        self.bits = self.data.cast("Q")
        self.flips = self.bits[FLIPS]
        self.committed = self.bits[COMMITTED + (self.flips & 1)]
        self.garbage = 0
        self.next_word = FIRST_WORD
        self.free: dict[int, list[int]] = {}
        """By width, the first words of the runs that ended series have freed."""
        self.records: dict[int, tuple[int, int]] = {}
        """By first word of a living series, offset and size of its SERIES record."""
        self._where: Where | None = None
        self.file = ""
        """Name of the slab's file."""
        self.lowest = 0
        """The lowest ordinal that it may claim."""
        self.ordinal: int | None = None
        """The ordinal that it has claimed."""

    def attach_file(self, where: Where, file: str, number: int, lowest: int, sets_aside: bool) -> None:  # noqa: FBT001 (as in C)
        """Attach the slab to its file, with inode ``number``, and set the lowest ordinal that it may claim."""
        self._where, self.file, self._number = where, file, number
        self.lowest, self._sets_aside = lowest, sets_aside

    def claim(self) -> None:
        """Claim the smallest ordinal that no living process has. OSError when that fails."""
        if self._where is not None and self.ordinal is None:
            ordinal = claim_ordinal(self._where, self.file, self.lowest, self._sets_aside)
            self.file, self.ordinal = f"slab-{ordinal}", ordinal

    def grow(self, words: int, size: int) -> bool:
        """Make room for ``words`` words and ``size`` bytes of records. False at the maximal size; OSError."""
        if self.needs_flip:
            area = self.flips & 1
            room = self.bits[ROOM + area]
            self._have_blocks(AREA_0 + (1 - area) * AREA_SIZE, room)
            self.bits[ROOM + 1 - area] = max(room, self.bits[ROOM + 1 - area])
            self.flip()
        while not self.room_for(words, 0):
            if not self._grow_part(WORDS_END, 0, PAGE, AREA_0):
                return False
        while not self.room_for(0, size):
            area = self.flips & 1
            if not self._grow_part(ROOM + area, AREA_0 + area * AREA_SIZE, 0, AREA_SIZE):
                return False
        return True

    def _grow_part(self, word: int, base: int, start: int, limit: int) -> bool:
        """Extend the words or the area of records; False at the maximal size."""
        end = self.bits[word]
        new = end + max(PAGE, min(end - start, MAX_GROWTH))
        if new > limit:
            return False
        self._have_blocks(base + end, new - end)
        # It tells readers: bytes up to here have blocks, and are zero where nothing was written yet.
        self.bits[word] = max(new, self.bits[word])
        return True

    def _have_blocks(self, offset: int, size: int) -> None:
        if self._where is not None and size:
            allocate_blocks(self._where, self.file, self._number, offset, size)

    def room_for(self, words: int, size: int) -> bool:
        """Whether the slab has room for a series of ``words`` words and ``size`` bytes of records."""
        is_free = not words or self.free.get(words)
        if not is_free and self.next_word + words > min(self.bits[WORDS_END], AREA_0) // WORD:
            return False
        end = self.committed + size + -size % WORD
        return end <= min(self.bits[ROOM + (self.flips & 1)], AREA_SIZE)

    def append(self, kind: int, body: bytes) -> bool:
        """Write and commit a record; False when the slab has no room for it."""
        while True:
            flips, committed = self.flips, self.committed
            if len(body) > MAX_BODY or not self.room_for(0, RECORD_HEAD.size + len(body)):
                return False
            plan = Plan(flips, committed, kind, body)
            if self.committed == plan.start and self.flips == plan.flips:
                self.data[plan.where] = plan.record
                self.bits[plan.word] = self.committed = plan.end
                return True

    @property
    def needs_flip(self) -> bool:
        """Whether more than half of the records are garbage."""
        return self.garbage > _LEAST_GARBAGE and 2 * self.garbage > self.committed

    def flip(self) -> bool:
        """Copy the needed records to the other area and continue there; False when it has no room for them."""
        while True:
            flips, committed = self.flips, self.committed
            other = 1 - (flips & 1)
            needed, records = self._needed(flips & 1, committed)
            size = len(needed)
            if size > min(self.bits[ROOM + other], AREA_SIZE):
                return False
            base = AREA_0 + other * AREA_SIZE
            where = slice(base, base + size)
            if self.committed == committed and self.flips == flips:
                self.data[where] = needed
                self.bits[COMMITTED + other] = self.committed = size
                self.records = records
                self.garbage = 0
                # The commit. Readers that see it start over with this slab.
                self.bits[FLIPS] = self.flips = flips + 1
                return True

    def _needed(self, area: int, committed: int) -> tuple[bytes, dict[int, tuple[int, int]]]:
        """The records that readers need, concatenated: those of metrics and of living series."""
        base = AREA_0 + area * AREA_SIZE
        data = self.data[base : base + committed].tobytes()
        needed: list[bytes] = []
        size = offset = 0
        records = {}
        while offset < committed:
            _, length, _, kind = RECORD_HEAD.unpack_from(data, offset)
            end = offset + RECORD_HEAD.size + length + -length % WORD
            is_needed = kind != END
            if kind == SERIES:
                first = SERIES_HEAD.unpack_from(data, offset + RECORD_HEAD.size)[2]
                is_needed = self.records.get(first) == (offset, end - offset)
                if is_needed:
                    records[first] = (size, end - offset)
            if is_needed:
                needed.append(data[offset:end])
                size += end - offset
            offset = end
        return b"".join(needed), records
