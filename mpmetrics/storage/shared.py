"""The page that all processes of an epoch share: the generation of removals, the successor, the trouble words.

A root master beside workers of another user maps no file that these can truncate. It uses ``pread`` and ``pwrite``
instead, so it notices removals when it makes a series, not at each look-up.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time
from typing import TYPE_CHECKING

from mpmetrics._cells import Map
from mpmetrics.errors import FormatError, StoreError
from mpmetrics.storage import format as fmt
from mpmetrics.storage.descriptor import Descriptor, Directory, open_private, open_regular

if TYPE_CHECKING:
    from mpmetrics._cells import Process

__all__ = ["Shared", "create_shared"]

NAME = "shared"
_LARGEST_COUNT = float(1 << 53)
_MOST_READS = 100


def create_shared(dir_fd: int, owner: tuple[int, int], generation: int) -> None:
    """Create the page of a new epoch in the directory that is open as ``dir_fd``."""
    page = bytearray(fmt.pack_shared().ljust(fmt.PAGE, b"\0"))
    memoryview(page).cast("Q")[fmt.GENERATION] = generation
    with open_private(NAME, os.O_RDWR | os.O_CREAT | os.O_EXCL, owner, dir_fd=dir_fd) as descriptor:
        os.posix_fallocate(descriptor, 0, fmt.PAGE)
        os.pwrite(descriptor, page, 0)


def _open_page(dir_fd: int, flags: int, where: str) -> Descriptor:
    try:
        return open_regular(NAME, flags, dir_fd=dir_fd)
    except FileNotFoundError:
        if not os.access("series", os.F_OK, dir_fd=dir_fd, follow_symlinks=False):
            raise
        msg = f"{where} does not exist; an older release of mpmetrics (format version 1) wrote this epoch"
        raise FormatError(msg) from None


class Shared:
    """The page of the epoch in ``directory``; ``write``: also for writing. FormatError or OSError if unusable."""

    def __init__(self, directory: Directory, *, write: bool = True) -> None:
        self._directory = directory
        self._map: Map | None = None
        self._copy = Map(-1, fmt.PAGE, write=True) if directory.is_foreign else None
        where, flags = os.path.join(directory.path, NAME), os.O_RDWR if write else os.O_RDONLY
        with directory.open() as dir_fd, _open_page(dir_fd, flags, where) as descriptor:
            head = os.pread(descriptor, fmt.PAGE, 0)
            fmt.check_shared(head, where)
            if os.fstat(descriptor).st_size != fmt.PAGE:
                msg = f"{where}: its size is not {fmt.PAGE} bytes"
                raise OSError(msg)
            if not directory.is_foreign:
                self._map = Map(descriptor, fmt.PAGE, write=write)

    def watch(self, process: Process) -> None:
        """Make ``process`` compare the generation at each look-up of a series."""
        process.seen = self.generation
        process.watch(self._map if self._copy is None else self._copy, fmt.GENERATION)
        if self._copy is None:
            return
        clock = process.clock or time.time

        def load_and_tell_time() -> float:
            with contextlib.suppress(OSError, StoreError):  # replaced by another directory: no reader sees this process
                self._load(fmt.GENERATION)
            return clock()

        process.clock = load_and_tell_time  # cells call it for each series that they make

    @property
    def generation(self) -> int:
        """The generation of the last removal."""
        return self._load(fmt.GENERATION)

    @generation.setter
    def generation(self, generation: int) -> None:
        # The commit of a removal: from here on its record counts in all processes.
        self._store(fmt.GENERATION, generation)

    @property
    def successor(self) -> int:
        """Number of the epoch that replaced this one; 0 if none did."""
        return self._load(fmt.SUCCESSOR)

    @successor.setter
    def successor(self, number: int) -> None:
        self._store(fmt.SUCCESSOR, number)

    @property
    def shortened(self) -> int:
        """How often a process shortened the list of removals, or was about to."""
        return self._load(fmt.SHORTENED)

    def count_shortening(self) -> None:
        """Announce that a shorter list of removals is about to replace the present one."""
        self._store(fmt.SHORTENED, self.shortened + 1)

    @property
    def trouble(self) -> float:
        """Roughly how many series processes could not put into the store."""
        words = memoryview(self._bytes()).cast("d")[fmt.TROUBLE :].tolist()
        # A value that no process can have counted is damage and must not get into a counter.
        return math.fsum(word for word in filter(None, words) if 0 < word < _LARGEST_COUNT)

    def add_trouble(self, amount: float) -> None:
        """Count series that this process could not put into the store. Approximate; a root master counts none."""
        if self._map is not None:
            memoryview(self._map).cast("d")[fmt.TROUBLE + os.getpid() % fmt.TROUBLE_WORDS] += amount

    def _bytes(self) -> bytes:
        if self._map is not None:
            return memoryview(self._map).tobytes()
        with self._directory.open() as dir_fd, open_regular(NAME, dir_fd=dir_fd) as descriptor:
            data = os.pread(descriptor, fmt.PAGE, 0)
        if len(data) < fmt.PAGE:
            raise OSError(errno.EIO, f"has {len(data)} bytes instead of {fmt.PAGE}", f"{self._directory.path}/{NAME}")
        return data

    def _load(self, word: int) -> int:
        if self._map is not None:
            return int(memoryview(self._map).cast("Q")[word])
        # ``pread`` may tear a word; two equal readings are not torn. Bounded: others could change it for ever.
        after = -1
        for _ in range(_MOST_READS):
            before, after = after, int(memoryview(self._bytes()).cast("Q")[word])
            if before == after:
                break
        if self._copy is not None:
            memoryview(self._copy).cast("Q")[word] = after
        return after

    def _store(self, word: int, number: int) -> None:
        if self._map is not None:
            memoryview(self._map).cast("Q")[word] = number
            return
        with self._directory.open() as dir_fd, open_regular(NAME, os.O_RDWR, dir_fd=dir_fd) as descriptor:
            os.pwrite(descriptor, number.to_bytes(fmt.WORD, fmt.BYTE_ORDER), fmt.WORD * word)
