"""Folding: what the dead counted moves into the retired file, exactly once, and their slabs go.

Under the fold lock a new retired file is written that names the slabs that it now contains, and renamed into its place:
that is the commit. Then the slabs are marked and unlinked. A folder that is killed before the commit has changed
nothing; after it, the next one finds the names and goes on unlinking. Readers see the old state or the new one.
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
from mpmetrics.storage.locks import DirectoryMutex, Mutex, hold, is_held
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
"""Slabs that are folded with one commit."""

DAMAGED_AT = 64
"""Dead slabs that have to be there before those with damaged records are folded, and their damage forgotten."""

_PATIENCE = 0.1
"""Seconds that a folder waits for a process that takes a dead slab's name away."""

SHORTEN_AT = 1 << 16
"""Bytes of removals before it is looked which of them are needed."""


def fold(path: str, *, at_least: int = 1, most: int = BATCH, retired: SlabReader | None = None) -> int:
    """Fold the dead of the epoch at ``path``, up to ``most``, if there are ``at_least``; returns how many were folded.

    A long list of removals is shortened on the way. Returns 0 when another process folds. Slabs that cannot be read are
    left where they are, and damaged ones for as long as they are few. ``retired`` is the retired file as the caller has
    read it: if somebody has removed it, it is written again from that. Raises :class:`~mpmetrics.errors.StoreError` or
    OSError when the store cannot be read or written; nothing is lost then.
    """
    directory = Directory.at(path)
    if directory.is_foreign:
        return 0  # what is read and written here would be root's, in a directory of somebody else
    with directory.open() as folder:
        dead = sum(not is_alive(slab.file, dir_fd=folder) for slab in list_slabs(folder))
        is_gone = retired is not None and not os.access("retired", os.F_OK, dir_fd=folder, follow_symlinks=False)
        if dead < at_least and not is_gone and os.stat("removals", dir_fd=folder).st_size < SHORTEN_AT:
            return 0
        try:
            with Mutex("fold.lock", 0.0, dir_fd=folder):
                return _Fold(directory, folder, retired, is_patient=dead < DAMAGED_AT).run(most, at_least)
        except LockTimeoutError:
            return 0


class _Fold:
    """One fold, under its lock, in the directory that is open as ``folder``."""

    def __init__(self, directory: Directory, folder: int, known: SlabReader | None, *, is_patient: bool) -> None:
        self._directory = directory
        self._folder = folder
        self._shapes = Shapes()
        self._removals = Removals(directory, Shared(directory))
        self._is_patient = is_patient
        self._is_gone = False
        self._retired: SlabReader | None = None
        try:
            with open_regular("retired", dir_fd=folder) as descriptor:
                self._retired = SlabReader(descriptor, f"{directory.path}/retired", is_retired=True)
        except FileNotFoundError:
            if known is not None:
                # While this is held, no process takes the epoch for dead and removes it.
                self._lease = hold("lease", directory)
                self._retired, self._is_gone = SlabReader.again(known), True
        if self._retired is not None:
            self._retired.read(self._shapes.declare)

    def run(self, most: int, at_least: int) -> int:
        self._sweep()
        if self._retired is not None and self._retired.damaged and self._is_patient:
            return 0
        fresh, stay = self._collect(most)
        is_long = os.stat("removals", dir_fd=self._folder).st_size >= SHORTEN_AT
        if len(fresh) < at_least and not is_long and not self._is_gone:
            return 0
        readers = [reader for _, reader in fresh.values()]
        # After all slabs have been read: what was removed since a series was made is not to come back.
        self._removals.read()
        retired = [] if self._retired is None else [self._retired]
        self._shapes.apply([reader.source for reader in (*retired, *readers)], self._removals)
        self._write(readers, {*fresh, *stay})
        if self._is_gone:
            log.warning("%s/retired was removed; it is written again as it was read last", self._directory.path)
        self._remove(list(fresh.values()))
        if is_long:
            self._shorten()
        return len(fresh)

    def _collect(self, most: int) -> tuple[dict[bytes, tuple[str, SlabReader]], set[bytes]]:
        """Read up to ``most`` dead slabs; also the identities of those that are contained and could not be removed."""
        contained = set() if self._retired is None else self._retired.source.folded
        fresh: dict[bytes, tuple[str, SlabReader]] = {}
        known: list[tuple[str, SlabReader]] = []
        stay: set[bytes] = set()
        names = list_slabs(self._folder)  # anew: until now, somebody else may have folded
        for slab in names:
            try:
                reader = self._open(slab)
            except OSError:  # it may be any of those that the retired file contains
                stay |= contained
                continue
            if reader is None:
                continue
            identity = bytes.fromhex(reader.identity)
            if identity in contained or identity in fresh:  # the last: its second name
                known.append((slab.file, reader))
            elif len(fresh) < most:
                reader.read(self._shapes.declare)
                if not (reader.damaged and self._is_patient):
                    fresh[identity] = slab.file, reader
        # Set aside since we listed it: then we did not find it, or another slab under its name.
        if any(slab.is_set_aside for slab in set(list_slabs(self._folder)) - set(names)):
            stay |= contained
        return fresh, stay | self._remove(known)

    def _open(self, slab: SlabName) -> SlabReader | None:
        """A dead slab, opened; OSError when it cannot be looked at."""
        try:
            with open_regular(slab.file, dir_fd=self._folder) as descriptor:
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
        # The commit: from here on these slabs count as part of the retired file, and not by themselves.
        owner = self._directory.owner
        replace(self._folder, "retired", owner, lambda descriptor: _fill(descriptor, contents, identity, folded))

    def _read_all(self, shapes: Shapes, *others: str) -> list[SlabReader]:
        """Read all slabs that there are now into ``shapes``, and the retired file if it is among the ``others``.

        FormatError or OSError when something cannot be read, or has another name by now.
        """
        found: dict[str, SlabReader] = {}
        for name in (*others, *(slab.file for slab in list_slabs(self._folder))):
            with open_regular(name, dir_fd=self._folder) as descriptor:
                reader = SlabReader(descriptor, name, is_retired=name == "retired")
            found[reader.identity] = reader
            reader.read(shapes.declare)
        return list(found.values())

    def _shorten(self) -> None:
        """Forget the removals that end no series any more."""
        shapes = Shapes()
        with contextlib.suppress(FormatError, OSError, LockTimeoutError):  # it is done by a later fold
            with DirectoryMutex(".", _PATIENCE, dir_fd=self._folder):  # else one that is set aside could be missed
                readers = self._read_all(shapes, "retired")
            self._removals.read()
            self._removals.shorten(shapes.apply([reader.source for reader in readers], self._removals))

    def _owners(self) -> set[str]:
        """Identities of the slabs whose owners may listen at a socket."""
        found = set()
        for slab in list_slabs(self._folder):
            with contextlib.suppress(FormatError, OSError), open_regular(slab.file, dir_fd=self._folder) as descriptor:
                if is_held(descriptor):
                    found.add(SlabReader(descriptor, slab.file).identity)
        return found

    def _remove(self, slabs: Sequence[tuple[str, SlabReader]]) -> set[bytes]:
        """Mark and unlink the files of slabs that were folded; returns the identities of those that are still there.

        Done while nobody takes a dead slab's name away: a newcomer has put some of them aside since they were read, and
        other slabs, of the living, have their names.
        """
        stay = {bytes.fromhex(reader.identity) for _, reader in slabs}
        try:
            with DirectoryMutex(".", _PATIENCE, dir_fd=self._folder):
                for file, reader in slabs:
                    aside = f"dead-{reader.ordinal}-{reader.inode[1]}"
                    if self._unlink(file, reader) and self._unlink(aside, reader):
                        stay.discard(bytes.fromhex(reader.identity))
        except (OSError, LockTimeoutError):
            pass  # those that stay are named, and the next fold removes them
        return stay

    def _unlink(self, name: str, reader: SlabReader) -> bool:
        """Whether the slab has this name no more."""
        try:
            status = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
            if (status.st_dev, status.st_ino) == reader.inode:
                # Nobody else writes to a root master's.
                with contextlib.suppress(PermissionError), open_regular(name, os.O_RDWR, dir_fd=self._folder) as slab:
                    self._mark(slab)
                os.unlink(name, dir_fd=self._folder)
        except (FileNotFoundError, FormatError):
            return True
        except OSError:
            return False
        return True

    def _mark(self, descriptor: int) -> None:
        """Have readers that map a slab know that it was folded, and not removed by somebody else."""
        os.pwrite(descriptor, (1).to_bytes(fmt.WORD, fmt.BYTE_ORDER), fmt.WORD * fmt.RETIRED)

    def _sweep(self) -> None:
        """Remove what killed processes left unfinished."""
        owners = None
        for name in os.listdir(self._folder):
            with contextlib.suppress(OSError):  # it has gone
                is_slab = name.startswith("new-slab-") and not is_alive(name, dir_fd=self._folder)
                if is_slab or name.startswith(("new-retired-", "new-removals-")):
                    os.unlink(name, dir_fd=self._folder)
                elif name.startswith(("ask-", "new-ask-")):
                    owners = self._owners() if owners is None else owners
                    if name.rpartition("-")[2] not in owners:
                        os.unlink(name, dir_fd=self._folder)


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
