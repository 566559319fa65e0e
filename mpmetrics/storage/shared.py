"""The one page that all processes of an epoch map: the generation of removals, the successor, the trouble words.

A root master beside workers of another user maps nothing that these can cut short: it reads the page by ``pread``, and
writes to it by ``pwrite``. So it notices removals whenever it makes a series, and not with each look-up.
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
_MOST = float(1 << 53)
_LOOKS = 100


def create_shared(folder: int, owner: tuple[int, int], generation: int) -> None:
    """Make the page of a new epoch in the directory that is open as ``folder``."""
    page = bytearray(fmt.pack_shared().ljust(fmt.PAGE, b"\0"))
    memoryview(page).cast("Q")[fmt.GENERATION] = generation
    with open_private(NAME, os.O_RDWR | os.O_CREAT | os.O_EXCL, owner, dir_fd=folder) as descriptor:
        os.posix_fallocate(descriptor, 0, fmt.PAGE)
        os.pwrite(descriptor, page, 0)


def _open_page(folder: int, flags: int, where: str) -> Descriptor:
    try:
        return open_regular(NAME, flags, dir_fd=folder)
    except FileNotFoundError:
        if not os.access("series", os.F_OK, dir_fd=folder, follow_symlinks=False):
            raise
        msg = f"{where}: there is none; an older release of mpmetrics (format version 1) wrote this epoch"
        raise FormatError(msg) from None


class Shared:
    """The page of the epoch in ``directory``, for reading its words, and with ``write`` for writing them.

    Raises :class:`~mpmetrics.errors.FormatError` or OSError when it cannot be used.
    """

    def __init__(self, directory: Directory, *, write: bool = True) -> None:
        self._directory = directory
        self._map: Map | None = None
        self._copy = Map(-1, fmt.PAGE, write=True) if directory.is_foreign else None
        where, flags = os.path.join(directory.path, NAME), os.O_RDWR if write else os.O_RDONLY
        with directory.open() as folder, _open_page(folder, flags, where) as descriptor:
            head = os.pread(descriptor, fmt.PAGE, 0)
            fmt.check_shared(head, where)
            if os.fstat(descriptor).st_size != fmt.PAGE:
                msg = f"{where}: has another size than {fmt.PAGE} bytes"
                raise OSError(msg)
            if not directory.is_foreign:
                self._map = Map(descriptor, fmt.PAGE, write=write)

    def watch(self, process: Process) -> None:
        """Have ``process`` compare the generation whenever it looks a series up."""
        process.seen = self.generation
        process.watch(self._map if self._copy is None else self._copy, fmt.GENERATION)
        if self._copy is None:
            return
        clock = process.clock or time.time

        def look_and_tell() -> float:
            with contextlib.suppress(OSError, StoreError):  # somebody took its place: nobody reads what is counted here
                self._load(fmt.GENERATION)
            return clock()

        process.clock = look_and_tell  # which is asked for each series that is made

    @property
    def generation(self) -> int:
        """The generation of the last removal."""
        return self._load(fmt.GENERATION)

    @generation.setter
    def generation(self, generation: int) -> None:
        # The commit of a removal: from here on its record counts, in this process and all others.
        self._store(fmt.GENERATION, generation)

    @property
    def successor(self) -> int:
        """Number of the epoch that took this one's place; 0 while none did."""
        return self._load(fmt.SUCCESSOR)

    @successor.setter
    def successor(self, number: int) -> None:
        self._store(fmt.SUCCESSOR, number)

    @property
    def shortened(self) -> int:
        """How often the list of removals was shortened, or was going to be."""
        return self._load(fmt.SHORTENED)

    def count_shortening(self) -> None:
        """Say that another list of removals takes the place of this one now."""
        self._store(fmt.SHORTENED, self.shortened + 1)

    @property
    def trouble(self) -> float:
        """Series that processes had to keep to themselves, roughly."""
        words = memoryview(self._bytes()).cast("d")[fmt.TROUBLE :].tolist()
        # What nobody counted is damage: it does not belong into a counter.
        return math.fsum(word for word in filter(None, words) if 0 < word < _MOST)

    def add_trouble(self, amount: float) -> None:
        """Count series that this process keeps to itself; roughly, and not for root."""
        if self._map is not None:
            memoryview(self._map).cast("d")[fmt.TROUBLE + os.getpid() % fmt.TROUBLE_WORDS] += amount

    def _bytes(self) -> bytes:
        if self._map is not None:
            return memoryview(self._map).tobytes()
        with self._directory.open() as folder, open_regular(NAME, dir_fd=folder) as descriptor:
            data = os.pread(descriptor, fmt.PAGE, 0)
        if len(data) < fmt.PAGE:
            raise OSError(errno.EIO, f"has {len(data)} bytes instead of {fmt.PAGE}", f"{self._directory.path}/{NAME}")
        return data

    def _load(self, word: int) -> int:
        if self._map is not None:
            return int(memoryview(self._map).cast("Q")[word])
        # A word may be torn by ``pread``: what is the same twice is not. Others could change it for ever.
        after = -1
        for _ in range(_LOOKS):
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
        with self._directory.open() as folder, open_regular(NAME, os.O_RDWR, dir_fd=folder) as descriptor:
            os.pwrite(descriptor, number.to_bytes(fmt.WORD, fmt.BYTE_ORDER), fmt.WORD * word)
