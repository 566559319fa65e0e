"""The read-only side of a store: what a collector sees of an epoch. Shares the format with the writers, nothing else.

Readers take no lock. Every file is checked before it is believed; one that fails costs itself alone and is named.
"""

from __future__ import annotations

import mmap
import os
import stat
from typing import TYPE_CHECKING

from mpmetrics._cells import load
from mpmetrics.errors import FormatError
from mpmetrics.storage import format as fmt
from mpmetrics.storage import records
from mpmetrics.storage.catalog import Catalog
from mpmetrics.storage.descriptor import Descriptor
from mpmetrics.storage.locks import probe

if TYPE_CHECKING:
    from array import array

    from mpmetrics._cells.vectors import Vector

__all__ = ["SeriesReader", "SlabReader"]


def _open_regular(path: str) -> Descriptor:
    """Open a regular file for reading, never through a symbolic link; FormatError when it is something else."""
    descriptor = Descriptor(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(descriptor.fileno()).st_mode):
        msg = f"{path}: not a regular file"
        raise FormatError(msg)
    return descriptor


class SeriesReader:
    """Follows the series directory of the epoch at ``path``; one thread at a time.

    Raises :class:`~mpmetrics.errors.FormatError` or OSError when the file cannot be used.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.join(path, "series")
        self._open()

    def _open(self) -> None:
        descriptor = _open_regular(self._path)
        head = os.pread(descriptor.fileno(), fmt.SERIES_HEAD_SIZE, 0)
        self.incarnation = fmt.check_series_head(head, self._path)
        if len(head) < fmt.SERIES_HEAD_SIZE:
            msg = f"{self._path}: {len(head)} bytes are too few for a head"
            raise FormatError(msg)
        self._map = mmap.mmap(descriptor.fileno(), fmt.SERIES_HEAD_SIZE, prot=mmap.PROT_READ)
        self._descriptor = descriptor
        self._words = memoryview(self._map).cast("Q")
        self._trouble = memoryview(self._map).cast("d")
        self._position = fmt.SERIES_HEAD_SIZE
        self.catalog = Catalog()

    @property
    def generation(self) -> int:
        """Generation of removals, as it stands in the file now."""
        return self._words[fmt.GENERATION]

    @property
    def trouble(self) -> float:
        """Series that processes had to keep to themselves, roughly."""
        return sum(self._trouble[fmt.TROUBLE :].tolist())

    def sync(self) -> int:
        """Take in what was appended; returns the generation up to which removals are certainly taken in."""
        if os.fstat(self._descriptor.fileno()).st_size < fmt.SERIES_HEAD_SIZE:
            msg = f"{self._path}: was cut short"
            raise FormatError(msg)
        before: Catalog | None = None
        if self._words[fmt.SUPERSEDED] and os.stat(self._path).st_ino != os.fstat(self._descriptor.fileno()).st_ino:
            before = self.catalog
            self._open()
        generation = self.generation
        committed = fmt.check_committed(self._words[fmt.COMMITTED], self._descriptor.fileno(), self._path)
        if committed != self._position:
            if committed < self._position:
                msg = f"{self._path}: its end moved back from {self._position} to {committed}"
                raise FormatError(msg)
            data = os.pread(self._descriptor.fileno(), committed - self._position, self._position)
            for _, kind, body in records.decode_records(data):
                self.catalog.apply(kind, body)
            self._position = committed
        if before is not None:  # it was compacted: what is as it was did not come or go
            self.catalog.touched = before.touched | self.catalog.difference(before)
        return generation

    def close(self) -> None:
        """Close the file."""
        self._descriptor.close()


class SlabReader:
    """A slab of another process (or a dead one), mapped for reading. One thread at a time.

    Raises :class:`~mpmetrics.errors.FormatError` or OSError when the file cannot be used.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = _open_regular(path)
        self._size = 0
        self._loaded: Vector | None = None
        head = os.pread(self._descriptor.fileno(), fmt.SLAB_HEAD_SIZE, 0)
        identity, self.ordinal, self.pid, self.created = fmt.check_slab_head(head, path)
        self.identity = identity.hex()
        self._remap(fmt.FIRST_SEGMENT)

    def _remap(self, size: int) -> None:
        if os.fstat(self._descriptor.fileno()).st_size < size:
            msg = f"{self.path}: is shorter than the {size} bytes it should have"
            raise FormatError(msg)
        if size != self._size:
            self._map = mmap.mmap(self._descriptor.fileno(), size, prot=mmap.PROT_READ)
            self._head = memoryview(self._map).cast("Q")
            self._words = memoryview(self._map)[fmt.SLAB_HEAD_SIZE :].cast("d")
            self._size = size

    @property
    def alive(self) -> bool:
        """Whether the owner holds its lease."""
        return probe(self._descriptor.fileno())

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
        capacity = self._head[fmt.CAPACITY]
        if capacity % fmt.FIRST_SEGMENT or not fmt.FIRST_SEGMENT <= capacity <= 1 << 40:
            msg = f"{self.path}: has a capacity of {capacity} bytes, which no slab can have"
            raise FormatError(msg)
        self._remap(capacity)
        self._loaded = load(self._words, slots, compound, self._loaded)
        return self._loaded

    def close(self) -> None:
        """Close the file; maps go with the object."""
        self._descriptor.close()
