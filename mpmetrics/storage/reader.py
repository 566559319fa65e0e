"""The read-only side of a store: what a collector sees of an epoch. Shares the format with the writers, nothing else.

Readers take no lock. Every file is checked before it is believed; one that fails costs itself alone and is named.
"""

from __future__ import annotations

import math
import mmap
import os
from typing import TYPE_CHECKING

from mpmetrics._cells import load
from mpmetrics.errors import FormatError
from mpmetrics.storage import format as fmt
from mpmetrics.storage import records
from mpmetrics.storage.catalog import Catalog
from mpmetrics.storage.descriptor import open_regular
from mpmetrics.storage.locks import probe
from mpmetrics.storage.survey import slab_name

if TYPE_CHECKING:
    from array import array

    from mpmetrics._cells.vectors import Vector
    from mpmetrics.storage.descriptor import Descriptor

__all__ = ["SeriesReader", "SlabReader"]


class SeriesReader:
    """Follows the series directory of the epoch at ``path``; one thread at a time.

    Raises :class:`~mpmetrics.errors.FormatError` or OSError when the file cannot be used.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.join(path, "series")
        self._open()

    def _open(self) -> None:
        descriptor = open_regular(self._path)
        head = os.pread(descriptor.fileno(), fmt.SERIES_HEAD_SIZE, 0)
        self.incarnation = fmt.check_series_head(head, self._path)
        self._map = _map(descriptor, fmt.SERIES_HEAD_SIZE, self._path)
        self._descriptor = descriptor
        self._words = memoryview(self._map).cast("Q")
        self._trouble = memoryview(self._map).cast("d")
        self._position = fmt.SERIES_HEAD_SIZE
        self._is_new = True
        self._said: set[int] = set()
        self.catalog = Catalog()

    @property
    def generation(self) -> int:
        """Generation of removals, as it stands in the file now."""
        return self._words[fmt.GENERATION]

    @property
    def trouble(self) -> float:
        """Series that processes had to keep to themselves, roughly."""
        words = self._trouble[fmt.TROUBLE :].tolist()
        total = sum(words)
        # What nobody counted is damage: it does not belong into a counter.
        return total if 0 <= total < fmt.MAX_COUNT else math.fsum(word for word in words if 0 <= word < fmt.MAX_GAP)

    def sync(self) -> int:
        """Take in what was appended; returns the generation up to which removals are certainly taken in."""
        fmt.check_series_size(os.fstat(self._descriptor.fileno()).st_size, self._path)
        before: Catalog | None = None
        if self._words[fmt.SUPERSEDED] and os.stat(self._path).st_ino != os.fstat(self._descriptor.fileno()).st_ino:
            before = self.catalog
            self._open()
        generation = self.generation
        end = self._end()
        sound = self._read_to(end)
        if self._is_new:
            try:
                records.check_end(self._descriptor.fileno(), self._words, self._path, end, sound)
            except FormatError as error:
                self._note(fmt.COMMITTED, str(error))
                self._position = sound
                self._read_to(self._size())
        self._is_new = False
        self.catalog.gone.clear()
        if before is not None:  # it was compacted: what is as it was did not come or go
            self.catalog.touched = before.touched | self.catalog.difference(before)
        if generation >= fmt.MAX_COUNT or generation < self.catalog.youngest:
            self._note(fmt.GENERATION, f"its generation cannot be {generation}")
            return max(self.catalog.youngest, self.catalog.generation)
        return generation

    def _size(self) -> int:
        """As far as there may be records."""
        size = min(os.fstat(self._descriptor.fileno()).st_size, fmt.MAX_SERIES_FILE)
        return size - size % fmt.WORD

    def _end(self) -> int:
        """Where the records end; where that is damaged, each of them has to speak for itself."""
        committed = self._words[fmt.COMMITTED]
        try:
            fmt.check_committed(self._words, self._descriptor.fileno(), self._path)
        except FormatError as error:
            if self._size() < self._position:
                raise
            self._note(fmt.COMMITTED, str(error))
            return self._size()
        if committed < self._position:
            self._note(fmt.COMMITTED, f"its end moved back from {self._position} to {committed}")
        return max(committed, self._position)

    def _read_to(self, end: int) -> int:
        """Apply the records up to ``end``; returns where the last one ends that is sound."""
        data = os.pread(self._descriptor.fileno(), end - self._position, self._position)
        sound = self._position
        for stop, kind, body in records.decode_records(data):
            self.catalog.apply(kind, body, self._position + stop)
            sound = sound if body is None else self._position + stop
        self._position = end
        return sound

    def _note(self, word: int, problem: str) -> None:
        """Count the damage of a word of the head, once."""
        if word not in self._said:
            self._said.add(word)
            self.catalog.note(f"head: {problem}")

    def close(self) -> None:
        """Close the file."""
        self._descriptor.close()


class SlabReader:
    """A slab of another process (or a dead one), mapped for reading. One thread at a time.

    Raises :class:`~mpmetrics.errors.FormatError` or OSError when the file cannot be used.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = open_regular(path)
        self._size = 0
        self._loaded: Vector | None = None
        head = os.pread(self._descriptor.fileno(), fmt.SLAB_HEAD_SIZE, 0)
        identity, self.ordinal, self.pid, self.created = fmt.check_slab_head(head, path)
        self.identity = identity.hex()
        if os.path.basename(path) != slab_name(self.ordinal, self.identity):
            msg = f"{path}: is the slab of another name, {slab_name(self.ordinal, self.identity)}"
            raise FormatError(msg)
        self._remap(fmt.FIRST_SEGMENT)

    def _remap(self, size: int) -> None:
        if os.fstat(self._descriptor.fileno()).st_size < size:
            msg = f"{self.path}: is shorter than the {size} bytes it should have"
            raise FormatError(msg)
        if size != self._size:
            self._map = _map(self._descriptor, size, self.path)
            self._head = memoryview(self._map).cast("Q")
            self._words = memoryview(self._map)[fmt.SLAB_HEAD_SIZE :].cast("d")
            self._size = size

    @property
    def alive(self) -> bool:
        """Whether the owner holds its lease."""
        return probe(self._descriptor.fileno())

    @property
    def is_removed(self) -> bool:
        """Whether the file has no name any more."""
        return os.fstat(self._descriptor.fileno()).st_nlink == 0

    @property
    def is_orphaned(self) -> bool:
        """Whether somebody removed the file, which no folder does as long as the owner holds its lease."""
        return self.alive and self.is_removed

    @property
    def acknowledged(self) -> int:
        """Generation up to which the owner has let go of removed series."""
        return self._head[fmt.ACKNOWLEDGED]

    @property
    def bound(self) -> int:
        """The greatest serial of a series that the owner has ever held."""
        return self._head[fmt.BOUND]

    def read(self, slots: int, compound: array[int]) -> Vector:
        """The first ``slots`` words, or all there are, each loaded whole.

        ``compound`` are pairs of a first slot and a width, of words that belong together.

        Raises FormatError when the file is not as long as it says.
        """
        self._remap(max(self._size, fmt.FIRST_SEGMENT))
        self._remap(fmt.check_capacity(self._head[fmt.CAPACITY], self.path))
        self._loaded = load(self._words, slots, compound, self._loaded)
        return self._loaded

    def close(self) -> None:
        """Close the file; maps go with the object."""
        self._descriptor.close()


def _map(descriptor: Descriptor, size: int, where: str) -> mmap.mmap:
    try:
        return mmap.mmap(descriptor.fileno(), size, prot=mmap.PROT_READ)
    except ValueError as error:  # it was cut short since we looked
        msg = f"{where}: cannot be mapped: {error}"
        raise FormatError(msg) from error
