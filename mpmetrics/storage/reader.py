"""The reader of one slab or retired file. It shares the format with the writers, and nothing else.

A reader maps its file and keeps no descriptor. It reads only the bytes that the file had at the last check of its size.
A file that fails a check affects no other file; the error names it.
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
    """Reads the slab, or with ``is_retired`` the retired file, that is open as ``descriptor``.

    ``where`` names the file in messages. Raises :class:`~mpmetrics.errors.FormatError` or OSError when it is unusable.
    """

    ordinal: int | None = None

    @functools.cached_property
    def source(self) -> Source:
        """The parser of its records and words. Made at the first use: no byte of a truncated file may be touched."""
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
        self.refresh(descriptor)

    @classmethod
    def of_memory(cls, words_map: Map) -> SlabReader:
        """A reader of a slab in this process's memory."""
        self = cls.__new__(cls)
        self.where, self.is_retired, self.inode, self.uid = "memory", False, (0, 0), 0
        head = bytes(memoryview(words_map)[: fmt.PAGE])
        identity, self.pid, self.created, self.folded = fmt.check_slab(head, self.where)
        self._map = words_map
        self._begin(identity.hex())
        self.is_alive, self._size = True, fmt.SLAB_SIZE
        return self

    @classmethod
    def of_same_map(cls, other: SlabReader) -> SlabReader:
        """A reader with tables of its own on the map of another reader, whose file may be unlinked by now."""
        self = cls.__new__(cls)
        self.__dict__.update(other.__dict__)
        self.__dict__.pop("source", None)
        self._begin(other.identity)
        return self

    def _begin(self, identity: str) -> None:
        self.identity = identity
        self._head = memoryview(self._map).cast("Q")
        self.families: dict[Family, int] = {}
        """The declarations in it, and when each was made (ns)."""
        self.refused: dict[int, str] = {}
        """Its invalid declarations: the reason, by family number."""

    def refresh(self, descriptor: int) -> None:
        """Check the file's size and whether its owner lives. ``descriptor`` is the file, opened again."""
        self._size = os.fstat(descriptor).st_size
        self.is_alive = not self.is_retired and is_held(descriptor)
        if self._size < fmt.PAGE:
            msg = f"{self.where}: {self._size} bytes are too few for a slab"
            raise FormatError(msg)
        # The file had these bytes before the head said so: a file that is shorter now was truncated.
        area = self._head[fmt.FLIPS] & 1
        needed = fmt.AREA_0 + area * fmt.AREA_SIZE + self._head[fmt.ROOM + area]
        self._size = os.fstat(descriptor).st_size
        if self._size < needed or self._head[fmt.WORDS_END] < fmt.PAGE:
            msg = f"{self.where}: has {self._size} bytes instead of at least {needed}, or no words"
            raise FormatError(msg)

    @property
    def damaged(self) -> int:
        """How many records and gaps between records cannot be used."""
        return self.source.damaged + len(self.refused)

    @property
    def is_folded(self) -> bool:
        """Whether the retired file contains it."""
        return self._head[fmt.RETIRED] != 0

    def read(self, declare: Declare) -> bool:
        """Read all records and words; ``declare(family, time)`` returns the table for a family's series.

        False when records have been committed beyond the file size of the last ``refresh``.
        """
        self.source.limit(self._size)
        self._parse(declare)
        self.source.load()
        # Leave out series that began or ended meanwhile: the copied words may have been another series'.
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
