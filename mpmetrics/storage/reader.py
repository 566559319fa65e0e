"""One slab or retired file, read: opened, checked and mapped. Shares the format with the writers, nothing else.

A reader holds a map of each file, and no descriptor. What it looks at is bounded by the size that the file has at that
moment. Files that fail a check cost themselves alone and are named.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from mpmetrics._cells import Map, Source
from mpmetrics.errors import FormatError
from mpmetrics.names.family import Family
from mpmetrics.storage import format as fmt
from mpmetrics.storage.locks import is_held

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics._cells import Table

    Declare = Callable[[Family, int], Table]

__all__ = ["SlabReader"]


class SlabReader:
    """The slab, or with ``is_retired`` the retired file, that is open as ``descriptor``, mapped for reading.

    ``where`` names it in messages. Raises :class:`~mpmetrics.errors.FormatError` or OSError when it cannot be used.
    """

    ordinal: int | None = None

    @functools.cached_property
    def source(self) -> Source:
        """What reads it; made when it is first needed, since of a file that was cut no byte may be touched."""
        source = Source(self._map, retired=self.is_retired)
        source.identity = bytes.fromhex(self.identity)
        return source

    def __init__(self, descriptor: int, where: str, *, is_retired: bool = False) -> None:
        self.where = where
        self.is_retired = is_retired
        status = os.fstat(descriptor)
        self.inode, self.uid = (status.st_dev, status.st_ino), status.st_uid
        magic = fmt.RETIRED_MAGIC if is_retired else fmt.SLAB_MAGIC
        head = os.pread(descriptor, fmt.PAGE, 0)
        identity, self.pid, self.created, self.folded = fmt.check_slab(head, where, magic)
        self._map = Map(descriptor, fmt.SLAB_SIZE)
        self._begin(identity.hex())
        self.look(descriptor)

    @classmethod
    def of_memory(cls, words_map: Map) -> SlabReader:
        """The reader of a slab in this process's memory."""
        self = cls.__new__(cls)
        self.where, self.is_retired, self.inode, self.uid = "memory", False, (0, 0), 0
        head = bytes(memoryview(words_map)[: fmt.PAGE])
        identity, self.pid, self.created, self.folded = fmt.check_slab(head, self.where)
        self._map = words_map
        self._begin(identity.hex())
        self.is_alive, self._size = True, fmt.SLAB_SIZE
        return self

    @classmethod
    def again(cls, other: SlabReader) -> SlabReader:
        """Another reader of the same file, for other tables; the file may have no name any more."""
        self = cls.__new__(cls)
        self.__dict__.update(other.__dict__)
        self.__dict__.pop("source", None)
        self._begin(other.identity)
        return self

    def _begin(self, identity: str) -> None:
        self.identity = identity
        self._head = memoryview(self._map).cast("Q")
        self.families: dict[Family, int] = {}
        """What it declares, and when (ns)."""
        self.refused: dict[int, str] = {}
        """Why some of its declarations, by number, are none."""

    def look(self, descriptor: int) -> None:
        """Take a look at the file, which is open anew: its size, and whether its owner lives."""
        self._size = os.fstat(descriptor).st_size
        self.is_alive = not self.is_retired and is_held(descriptor)
        if self._size < fmt.PAGE:
            msg = f"{self.where}: {self._size} bytes are too few for a slab"
            raise FormatError(msg)
        # What the head says is there was there before it said so: a file that is shorter now was cut.
        area = self._head[fmt.FLIPS] & 1
        needed = fmt.AREA_0 + area * fmt.AREA_SIZE + self._head[fmt.ROOM + area]
        self._size = os.fstat(descriptor).st_size
        if self._size < needed or self._head[fmt.WORDS_END] < fmt.PAGE:
            msg = f"{self.where}: has {self._size} bytes, of {needed} that it should have, or none that are words"
            raise FormatError(msg)

    @property
    def damaged(self) -> int:
        """How many records and stretches of it cannot be used."""
        return self.source.damaged + len(self.refused)

    @property
    def is_folded(self) -> bool:
        """Whether the retired file contains it."""
        return self._head[fmt.RETIRED] != 0

    def read(self, declare: Declare) -> bool:
        """Read what there is now; ``declare(family, time)`` gives the table that its series go to.

        False when records stand where the file had no bytes at the last look.
        """
        self.source.limit(self._size)
        self._parse(declare)
        self.source.load()
        # Series that came or ended meanwhile are left out of this reading: their words may have been another's.
        self._parse(declare)
        area = self._head[fmt.FLIPS] & 1
        end: int = fmt.AREA_0 + area * fmt.AREA_SIZE + self._head[fmt.COMMITTED + area]
        return end <= self._size

    def _parse(self, declare: Declare) -> None:
        while (record := self.source.parse()) is not None:
            try:
                family = Family.unpack(record.packed)
            except ValueError as error:
                self.refused[record.number] = str(error)
                self.source.family(record.number, None, 0, (), False)  # noqa: FBT003 (positional in C)
                continue
            self.families[family] = min(record.declared, self.families.get(family, record.declared))
            table = declare(family, record.declared)
            width = family.retired_width if self.is_retired else family.width
            self.source.family(record.number, table, width, family.labels, family.is_open)
