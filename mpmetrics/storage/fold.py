"""Folding: merge the slabs of dead processes into the retired file, each exactly once, and unlink them.

Under the fold lock, :func:`fold` writes a new retired file, which names the slabs that it contains, and renames it into
place: that is the commit. Then it marks and unlinks the slabs. A kill before the commit changes nothing; after it, the
next fold finds the names and unlinks the rest. Readers see the old state or the new one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from typing import TYPE_CHECKING

from mpmetrics.errors import FormatError, LockTimeoutError, StoreUnavailableError
from mpmetrics.storage import format as fmt
from mpmetrics.storage.descriptor import Directory, open_regular, replace, write_all
from mpmetrics.storage.locks import DirectoryMutex, Mutex, hold_shared, is_held
from mpmetrics.storage.reader import SlabReader
from mpmetrics.storage.removals import Removals
from mpmetrics.storage.retire import Contents, retire
from mpmetrics.storage.shapes import Shapes
from mpmetrics.storage.shared import Shared
from mpmetrics.storage.slab import SlabName, is_alive, list_slabs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["fold"]

log = logging.getLogger("mpmetrics")

BATCH = 64
"""Slabs folded with one commit, at most."""

DAMAGED_AT = 64
"""From this many dead slabs on, damaged ones are folded, too; their damage is then no longer reported."""

_PATIENCE = 0.1
"""Seconds to wait for a process that renames a dead slab."""

SHORTEN_AT = 1 << 16
"""Bytes of ``removals`` from which on a fold shortens it."""


def fold(path: str, *, at_least: int = 1, most: int = BATCH, retired: SlabReader | None = None) -> int:
    """Fold up to ``most`` dead slabs of the epoch at ``path`` if there are ``at_least``; returns how many.

    Also shortens a long list of removals. Returns 0 while another process folds. Unreadable slabs stay where they are,
    and so do damaged ones while there are fewer than DAMAGED_AT dead slabs. ``retired`` is the caller's reader of the
    retired file: if that file was removed, it is written again from there. Raises
    :class:`~mpmetrics.errors.StoreError` or OSError, and loses nothing, when the store cannot be read or written.
    """
    directory = Directory.at(path)
    if directory.is_foreign:
        return 0  # root must not read or write files here: another user controls the directory
    with directory.open() as dir_fd:
        dead = sum(not is_alive(slab.file, dir_fd=dir_fd) for slab in list_slabs(dir_fd))
        is_gone = retired is not None and not os.access("retired", os.F_OK, dir_fd=dir_fd, follow_symlinks=False)
        if dead < at_least and not is_gone and os.stat("removals", dir_fd=dir_fd).st_size < SHORTEN_AT:
            return 0
        try:
            with Mutex("fold.lock", 0.0, dir_fd=dir_fd):
                return _Fold(directory, dir_fd, retired, spares_damaged=dead < DAMAGED_AT).run(most, at_least)
        except LockTimeoutError:
            return 0


class _Fold:
    """One fold, under the fold lock, in the directory that is open as ``dir_fd``."""

    def __init__(self, directory: Directory, dir_fd: int, known: SlabReader | None, *, spares_damaged: bool) -> None:
        self._directory = directory
        self._dir_fd = dir_fd
        self._shapes = Shapes()
        self._removals = Removals(directory, Shared(directory))
        self._spares_damaged = spares_damaged
        self._is_missing = False
        self._retired: SlabReader | None = None
        try:
            with open_regular("retired", dir_fd=dir_fd) as descriptor:
                self._retired = SlabReader(descriptor, f"{directory.path}/retired", is_retired=True)
        except FileNotFoundError:
            if known is not None:
                # While we hold this, no process takes the epoch for dead and removes it.
                self._lease = hold_shared("lease", directory)
                self._retired, self._is_missing = SlabReader.of_same_map(known), True
        if self._retired is not None:
            self._retired.read(self._shapes.declare)

    def run(self, most: int, at_least: int) -> int:
        self._remove_leftovers()
        if self._retired is not None and self._retired.damaged and self._spares_damaged:
            return 0
        fresh, stay = self._read_dead(most)
        is_long = os.stat("removals", dir_fd=self._dir_fd).st_size >= SHORTEN_AT
        if len(fresh) < at_least and not is_long and not self._is_missing:
            return 0
        readers = [reader for _, reader in fresh.values()]
        # After the slabs, so that no series comes back that was removed since it was made.
        self._removals.read()
        retired = [] if self._retired is None else [self._retired]
        self._shapes.apply([reader.source for reader in (*retired, *readers)], self._removals)
        self._write(readers, {*fresh, *stay})
        if self._is_missing:
            log.warning("%s/retired was removed; it was written again as it was last read", self._directory.path)
        self._remove(list(fresh.values()))
        if is_long:
            self._shorten()
        return len(fresh)

    def _read_dead(self, most: int) -> tuple[dict[bytes, tuple[str, SlabReader]], set[bytes]]:
        """Read up to ``most`` dead slabs; also the identities of folded slabs whose files could not be removed."""
        contained = set() if self._retired is None else self._retired.source.folded
        fresh: dict[bytes, tuple[str, SlabReader]] = {}
        known: list[tuple[str, SlabReader]] = []
        stay: set[bytes] = set()
        names = list_slabs(self._dir_fd)  # again, under the lock: another process may have folded
        for slab in names:
            try:
                reader = self._open(slab)
            except OSError:  # it may be any of the slabs that the retired file contains
                stay |= contained
                continue
            if reader is None:
                continue
            identity = bytes.fromhex(reader.identity)
            if identity in contained or identity in fresh:  # in fresh: a second name of the same slab
                known.append((slab.file, reader))
            elif len(fresh) < most:
                reader.read(self._shapes.declare)
                if not (reader.damaged and self._spares_damaged):
                    fresh[identity] = slab.file, reader
        # A slab set aside since the listing was missed, or another slab was found under its name.
        if any(slab.is_set_aside for slab in set(list_slabs(self._dir_fd)) - set(names)):
            stay |= contained
        return fresh, stay | self._remove(known)

    def _open(self, slab: SlabName) -> SlabReader | None:
        """Open a dead slab; None if it is alive, gone or no slab. OSError when it cannot be checked."""
        try:
            with open_regular(slab.file, dir_fd=self._dir_fd) as descriptor:
                if is_held(descriptor):
                    return None
                reader = SlabReader(descriptor, f"{self._directory.path}/{slab.file}")
        except (FormatError, FileNotFoundError):
            return None
        reader.ordinal = slab.ordinal
        return reader

    def _write(self, readers: Sequence[SlabReader], names: Iterable[bytes]) -> None:
        identity, folded = secrets.token_bytes(16), len(readers)
        if self._retired is not None:
            identity, folded = bytes.fromhex(self._retired.identity), folded + self._retired.folded
        contents = retire(self._shapes, self._retired, readers, self._read_all)
        for name in sorted(names):
            contents.add_record(fmt.FOLDED, name)
        # The commit: from here on these slabs count as part of the retired file only.
        owner = self._directory.owner
        replace(self._dir_fd, "retired", owner, lambda descriptor: _fill(descriptor, contents, identity, folded))

    def _read_all(self, shapes: Shapes, *others: str) -> list[SlabReader]:
        """Read all slabs and ``others`` into ``shapes``; FormatError or OSError when one is unreadable or renamed."""
        found: dict[str, SlabReader] = {}
        for name in (*others, *(slab.file for slab in list_slabs(self._dir_fd))):
            with open_regular(name, dir_fd=self._dir_fd) as descriptor:
                reader = SlabReader(descriptor, name, is_retired=name == "retired")
            found[reader.identity] = reader
            reader.read(shapes.declare)
        return list(found.values())

    def _shorten(self) -> None:
        """Drop the removals that end no series any more."""
        shapes = Shapes()
        with contextlib.suppress(FormatError, OSError, LockTimeoutError):  # a later fold tries again
            with DirectoryMutex(".", _PATIENCE, dir_fd=self._dir_fd):  # or we could miss a slab that is renamed now
                readers = self._read_all(shapes, "retired")
            self._removals.read()
            self._removals.shorten(shapes.apply([reader.source for reader in readers], self._removals))

    def _owners(self) -> set[str]:
        """Identities of the slabs whose owners live, and so may listen at a socket."""
        found = set()
        for slab in list_slabs(self._dir_fd):
            with contextlib.suppress(FormatError, OSError), open_regular(slab.file, dir_fd=self._dir_fd) as descriptor:
                if is_held(descriptor):
                    found.add(SlabReader(descriptor, slab.file).identity)
        return found

    def _remove(self, slabs: Sequence[tuple[str, SlabReader]]) -> set[bytes]:
        """Mark and unlink folded slabs; returns the identities of those whose files remain.

        The directory is locked, so no process renames a dead slab meanwhile. Since they were read, new processes may
        have set some of them aside and given their names to living slabs.
        """
        stay = {bytes.fromhex(reader.identity) for _, reader in slabs}
        try:
            with DirectoryMutex(".", _PATIENCE, dir_fd=self._dir_fd):
                for file, reader in slabs:
                    aside = f"dead-{reader.ordinal}-{reader.inode[1]}"
                    if self._unlink(file, reader) and self._unlink(aside, reader):
                        stay.discard(bytes.fromhex(reader.identity))
        except (OSError, LockTimeoutError):
            pass  # the retired file names those that remain, and the next fold removes them
        return stay

    def _unlink(self, name: str, reader: SlabReader) -> bool:
        """Unlink ``name`` if it is this slab; False when that fails."""
        try:
            status = os.stat(name, dir_fd=self._dir_fd, follow_symlinks=False)
            if (status.st_dev, status.st_ino) == reader.inode:
                # Only root may write to a root master's slab.
                with contextlib.suppress(PermissionError), open_regular(name, os.O_RDWR, dir_fd=self._dir_fd) as slab:
                    self._mark(slab)
                os.unlink(name, dir_fd=self._dir_fd)
        except (FileNotFoundError, FormatError):
            return True
        except OSError:
            return False
        return True

    def _mark(self, descriptor: int) -> None:
        """Tell readers that map the slab that it was folded, not removed by a cleaner."""
        os.pwrite(descriptor, (1).to_bytes(fmt.WORD, fmt.BYTE_ORDER), fmt.WORD * fmt.RETIRED)

    def _remove_leftovers(self) -> None:
        """Remove unfinished files of killed processes, and sockets without an owner."""
        owners = None
        for name in os.listdir(self._dir_fd):
            with contextlib.suppress(OSError):  # the file is gone
                is_slab = name.startswith("new-slab-") and not is_alive(name, dir_fd=self._dir_fd)
                if is_slab or name.startswith(("new-retired-", "new-removals-")):
                    os.unlink(name, dir_fd=self._dir_fd)
                elif name.startswith(("ask-", "new-ask-")):
                    owners = self._owners() if owners is None else owners
                    if name.rpartition("-")[2] not in owners:
                        os.unlink(name, dir_fd=self._dir_fd)


def _fill(descriptor: int, contents: Contents, identity: bytes, folded: int) -> None:
    words, records = b"".join(contents.words), b"".join(contents.records)
    if len(words) > fmt.AREA_0 - fmt.PAGE or len(records) > fmt.AREA_SIZE:
        msg = f"the retired file would have {len(words)} bytes of words and {len(records)} of records: too many series"
        raise StoreUnavailableError(msg)
    page = bytearray(fmt.PAGE)
    head = fmt.pack_slab(identity, os.getpid(), time.time(), fmt.RETIRED_MAGIC, folded)
    page[: len(head)] = head
    numbers = memoryview(page).cast("Q")
    numbers[fmt.WORDS_END] = fmt.PAGE + len(words)
    numbers[fmt.COMMITTED] = numbers[fmt.ROOM] = len(records)
    for data, offset in ((words, fmt.PAGE), (records, fmt.AREA_0), (page, 0)):
        write_all(descriptor, data, offset)
    if os.fstat(descriptor).st_size < fmt.AREA_0:
        os.ftruncate(descriptor, fmt.AREA_0)
