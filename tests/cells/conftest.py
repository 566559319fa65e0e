"""A writer of slabs that shares only the specification of the format with the product's writer."""

from __future__ import annotations

import math
import mmap
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics.storage import format as fmt
from mpmetrics.storage.format import encode_record, pack_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    Series = tuple[int, int]  # first word, words


class WrittenSlab:
    """A slab in memory, with records and words where the specification puts them."""

    def __init__(
        self, identity: bytes | None = None, magic: bytes = fmt.SLAB_MAGIC, *, is_shared: bool = False
    ) -> None:
        how = mmap.MAP_SHARED if is_shared else mmap.MAP_PRIVATE
        flags = how | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        self.map = mmap.mmap(-1, fmt.SLAB_SIZE, flags=flags)
        self.identity = identity or os.urandom(16)
        head = fmt.pack_slab(self.identity, 1, 1.0, magic)
        self.map[: len(head)] = head
        self.head = memoryview(self.map).cast("Q")
        self.words = memoryview(self.map).cast("d")
        self.head[fmt.WORDS_END] = fmt.FIRST_WORDS_END
        self.head[fmt.ROOM] = fmt.PAGE
        self._next = fmt.FIRST_WORD
        self.live: dict[int, bytes] = {}
        self.families: list[bytes] = []

    def append(self, data: bytes) -> int:
        """Append records and commit them; returns their offset in the file."""
        area = self.head[fmt.FLIPS] & 1
        start = fmt.AREA_0 + area * fmt.AREA_SIZE + self.head[fmt.COMMITTED + area]
        self.map[start : start + len(data)] = data
        self.head[fmt.ROOM + area] = self.head[fmt.COMMITTED + area] + len(data)
        self.head[fmt.COMMITTED + area] += len(data)
        return start

    def family(self, number: int, packed: bytes = b"") -> None:
        """Append a FAMILY record."""
        record = encode_record(fmt.FAMILY, struct.pack("=IIQ", number, 0, 7) + packed)
        self.families.append(record)
        self.append(record)

    def room(self, count: int) -> int:
        """Allocate ``count`` words; returns the number of the first."""
        first, self._next = self._next, self._next + count
        self.head[fmt.WORDS_END] = max(self.head[fmt.WORDS_END], 8 * self._next)
        return first

    def series(
        self,
        number: int,
        key: Sequence[str] | None,
        values: Sequence[float] = (0.0,),
        *,
        first: int = 0,
        created: float = 1.5,
        generation: int = 0,
    ) -> int:
        """Append a SERIES record and set its words; returns the first word."""
        first = first or self.room(len(values))
        for at, value in enumerate(values, first):
            self.words[at] = value
        texts = struct.pack("=H", fmt.OVERFLOW) if key is None else pack_texts(key)
        head = struct.pack("=IIQdQ", number, len(values), first, created, generation)
        self.live[first] = encode_record(fmt.SERIES, head + texts)
        self.append(self.live[first])
        return first

    def end(self, first: int) -> None:
        """Append an END record."""
        self.live.pop(first, None)
        self.append(encode_record(fmt.END, struct.pack("=Q", first)))

    def flip(self) -> None:
        """Move the living records to the other area."""
        data = b"".join((*self.families, *self.live.values()))
        area = 1 - (self.head[fmt.FLIPS] & 1)
        start = fmt.AREA_0 + area * fmt.AREA_SIZE
        self.map[start : start + len(data)] = data
        self.head[fmt.COMMITTED + area] = self.head[fmt.ROOM + area] = len(data)
        self.head[fmt.FLIPS] += 1


def packed_times(value: float, time: int, other: float = 0.0, before: int = 0) -> list[float]:
    """The words ``value, time, value, time``."""
    return list(struct.unpack("=dddd", struct.pack("=dQdQ", value, time, other, before)))


def read(source: Any, table: Any, width: int = 1, labels: tuple[str, ...] = ("k",), is_open: bool = False) -> list[int]:  # noqa: FBT001, FBT002 (as in the product)
    """Parse all records, with all families in ``table``; returns the numbers of the families."""
    numbers = []
    while (record := source.parse()) is not None:
        numbers.append(record.number)
        source.family(record.number, table, width, labels, is_open)
    return numbers


def same_bits(values: Any) -> list[bytes]:
    """Doubles as bytes, with one form for all NaN."""
    return [b"nan" if math.isnan(value) else struct.pack("=d", value) for value in values]


class Slabs:
    """The helpers of the tests of reading."""

    Written = WrittenSlab
    times = staticmethod(packed_times)
    read = staticmethod(read)
    bits = staticmethod(same_bits)


@pytest.fixture(scope="session")
def slabs() -> type[Slabs]:
    """The writer of slabs and its helpers."""
    return Slabs
