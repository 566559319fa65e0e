"""EpochReader: reads the words of all processes and of the retired file of an epoch, at one moment.

The reader takes no lock. It reads the retired file, lists and reads the slabs that are not folded into it, reads the
removals, and looks at the retired file again. If that was replaced meanwhile, the reader starts over. So it never
counts a value twice, and never misses one that a fold moves. After 10 attempts it takes the fold lock for a moment.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from mpmetrics.collector.shape_choice import ShapeChoice
from mpmetrics.collector.snapshot import Column, Snapshot
from mpmetrics.errors import FormatError, LockTimeoutError, StoreError
from mpmetrics.storage import format as fmt
from mpmetrics.storage.descriptor import Descriptor, Directory, open_regular
from mpmetrics.storage.locks import DirectoryMutex, Mutex
from mpmetrics.storage.reader import SlabReader
from mpmetrics.storage.removals import Removals
from mpmetrics.storage.shapes import Shapes
from mpmetrics.storage.shared import Shared
from mpmetrics.storage.slab import SlabName, list_slabs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from mpmetrics._cells import Map
    from mpmetrics.storage.memory import Memory

__all__ = ["EpochReader"]

ATTEMPTS = 10
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_IDLE = fmt.AUXILIARY + 99_999_999
"""The ordinal in columns of processes that have none."""


class EpochReader:
    """Takes snapshots of the epoch at ``path``, and of the values in ``memory`` that are not in the store.

    Without a path, it reads only ``memory``. Files stay mapped between two snapshots. For one thread at a time.
    """

    def __init__(self, path: str | None, memory: Memory | None = None) -> None:
        self.path = path
        self._memory = memory
        self._lost = ""
        """The message about a retired file that was read here and is lost."""
        self._begin()

    def _begin(self) -> None:
        self._shapes = Shapes()
        self._choice = ShapeChoice()
        self.retired: SlabReader | None = None
        """The retired file, as it was read last."""
        self._slabs: dict[tuple[int, int], SlabReader] = {}
        """By device and inode."""
        self._own: dict[int, SlabReader] = {}
        self._shared: Shared | None = None
        self._removals: Removals | None = None
        self._is_torn = False

    def _begin_again(self, retired: SlabReader | None) -> None:
        """Read all files from their beginning into new tables, also files that are unlinked by now."""
        self._shapes.forget()
        self._own = {}
        self._slabs = {inode: SlabReader.of_same_map(reader) for inode, reader in self._slabs.items()}
        if retired is not None:
            self.retired = SlabReader.of_same_map(retired)
            self.retired.read(self._shapes.declare)

    def snapshot(self) -> Snapshot:
        """Return the epoch as it is now. Never raises OSError: ``unreadable`` names the files that cannot be read."""
        if self._is_torn or (self.path is None and self._shapes.is_stale):
            self._begin()  # a signal handler's exception ended the last snapshot half-way, or most rows are gone
        self._is_torn = True
        snapshot = self._whole()
        self._is_torn = False
        return snapshot

    def _whole(self) -> Snapshot:
        for _ in range(ATTEMPTS):
            snapshot = self._attempt()
            if snapshot is not None:
                return snapshot
        try:
            path = self.path or ""
            with Mutex(os.path.join(path, "fold.lock"), 1.0), DirectoryMutex(path, 1.0):
                return self._attempt(is_last=True) or Snapshot()
        except (OSError, LockTimeoutError):
            return self._attempt(is_last=True) or Snapshot()

    def _attempt(self, *, is_last: bool = False) -> Snapshot | None:
        """Return a snapshot; None if a fold came in between and this is not the last attempt."""
        snapshot = Snapshot()
        moves = 0 if self._memory is None else self._memory.moved_count
        maps = [] if self._memory is None else list(self._memory.private_maps())
        if self.path is not None:
            try:
                with Descriptor(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as folder:
                    if not self._read_epoch(snapshot, folder) and not is_last:
                        return None
            except OSError as error:
                snapshot = Snapshot(unreadable={".": str(error)})
                self._read_known(snapshot)
        self._read_memory(snapshot, maps)
        if self._memory is not None and self._memory.moved_count != moves and not is_last:
            return None  # a waiting value has moved into a slab meanwhile
        self._shapes.apply([column.source for column in snapshot.columns], self._known_removals(snapshot))
        snapshot.shapes, snapshot.hidden = self._choice.choose(self._shapes, self._readers())
        return snapshot

    def _readers(self) -> Iterable[SlabReader]:
        retired = [] if self.retired is None else [self.retired]
        return (*retired, *self._slabs.values(), *self._own.values())

    def _read_epoch(self, snapshot: Snapshot, folder: int) -> bool:
        """Read all files; True if no fold has moved values meanwhile."""
        before = self._read_retired(snapshot, folder)
        is_complete = self._read_slabs(snapshot, folder)
        snapshot.measure(folder)
        self._read_shared(snapshot)
        return is_complete and before == _inode("retired", folder)

    def _read_retired(self, snapshot: Snapshot, folder: int) -> tuple[int, int] | None:
        """Read the retired file, if it is not the one read last; return its inode, even if it cannot be read."""
        inode, is_stale = _inode("retired", folder), self._shapes.is_stale
        if is_stale and inode is None:
            self._begin_again(self.retired)
        if inode is None and self.retired is not None:
            snapshot.lacks_retired = True
            snapshot.unreadable["retired"] = "another program removed it; it is shown as it was read last"
        elif inode is not None and (is_stale or self.retired is None or self.retired.inode != inode):
            try:
                with open_regular("retired", dir_fd=folder) as descriptor:
                    retired = SlabReader(descriptor, f"{self.path}/retired", is_retired=True)
                if is_stale:
                    self._begin_again(None)
                retired.read(self._shapes.declare)
                self._compare(retired)
                self.retired = retired
            except (OSError, FormatError) as error:  # the one that was read last stays in use
                snapshot.unreadable["retired"] = str(error)
        if self._lost:
            snapshot.unreadable["retired before"] = self._lost
        if self.retired is not None:
            snapshot.folded = self.retired.folded
            self._add(snapshot, [self.retired])
        return inode

    def _compare(self, retired: SlabReader) -> None:
        """Note if the new retired file does not contain the values of the one that was read last."""
        ours = self.retired
        if ours is not None and (retired.identity != ours.identity or retired.folded < ours.folded):
            self._lost = (
                f"{ours.where}: another program removed it; the new one lacks what some or all of {ours.folded} dead"
                " processes had counted"
            )

    def _read_slabs(self, snapshot: Snapshot, folder: int) -> bool:
        is_complete = True
        seen: dict[tuple[int, int], SlabReader] = {}
        contained = set() if self.retired is None else self.retired.source.folded
        listed, identities = set(), set()
        names = list_slabs(folder)
        for name in names:
            listed.add(_inode(name.file, folder))
            try:
                reader = self._open(name, folder)
                # The slab's mark is not asked: it may come from a fold in another epoch, or into a lost retired file.
                if bytes.fromhex(reader.identity) in contained:
                    snapshot.has_leftovers = True
                    continue
                if reader.identity in identities:
                    continue  # a slab that is being renamed has two names for a moment; or this is a copy
                identities.add(reader.identity)
                seen[reader.inode] = self._slabs[reader.inode] = reader
                reader.ordinal = name.ordinal
                self._read_on(reader, name, folder)
            except FileNotFoundError:
                is_complete = False  # folded or renamed since the listing
            except (OSError, FormatError) as error:
                snapshot.unreadable[name.file] = str(error)
        # A slab that was set aside since the listing: another slab may have been read under its name.
        if any(name.is_set_aside for name in set(list_slabs(folder)) - set(names)):
            is_complete = False
        # A listed file that was refused is not read again from its map: it may have been truncated (SIGBUS).
        gone = [reader for inode, reader in self._slabs.items() if inode not in seen and inode not in listed]
        owner = os.fstat(folder).st_uid
        orphans = [reader for reader in gone if self._is_orphan(reader, contained, owner)]
        for reader in orphans:
            snapshot.unreadable[f"removed {reader.identity}"] = (
                f"{reader.where}: was removed while its owner writes to it, by another program; its values are shown"
                " until this collector ends, and lost then"
            )
            reader.read(self._shapes.declare)
        self._slabs = seen | {reader.inode: reader for reader in orphans}
        self._add(snapshot, self._slabs.values())
        return is_complete

    def _read_known(self, snapshot: Snapshot) -> None:
        """Read the mapped files, because the directory cannot be read."""
        if self._shapes.is_stale:
            self._begin_again(self.retired)
        contained = set()
        if self.retired is not None:
            snapshot.folded, contained = self.retired.folded, self.retired.source.folded
            self._add(snapshot, [self.retired])
        # A slab that was folded meanwhile is still read: the retired file that contains it cannot be read.
        readers = [each for each in self._slabs.values() if bytes.fromhex(each.identity) not in contained]
        for reader in readers:
            reader.read(self._shapes.declare)
        self._add(snapshot, readers)

    def _read_on(self, reader: SlabReader, name: SlabName, folder: int) -> None:
        """Read a slab; if it has grown since the last look, look again and read the rest."""
        for _ in range(ATTEMPTS):
            if reader.read(self._shapes.declare):
                return
            self._open(name, folder)  # the slab is known, so this looks at its new size

    def _open(self, name: SlabName, folder: int) -> SlabReader:
        try:
            with open_regular(name.file, dir_fd=folder) as descriptor:
                status = os.fstat(descriptor)
                reader = self._slabs.get((status.st_dev, status.st_ino))
                if reader is None:
                    return SlabReader(descriptor, f"{self.path}/{name.file}")
                reader.refresh(descriptor)
        except OSError as error:
            # Without descriptors the lease cannot be tested; the owner counts as alive then.
            known = [reader for reader in self._slabs.values() if reader.ordinal == name.ordinal]
            if error.errno not in _NO_DESCRIPTORS or name.ordinal is None or not known:
                raise
            return known[0]
        return reader

    def _is_orphan(self, reader: SlabReader, contained: set[bytes], owner: int) -> bool:
        """True if a slab that is still mapped was unlinked without a fold.

        A dead slab of root (of a master) is no orphan: the process that folds it may not be able to mark it.
        """
        if reader.is_folded or bytes.fromhex(reader.identity) in contained:
            return False
        reader.is_alive = os.path.exists(f"/proc/{reader.pid}")  # the file is gone, so only the pid can be tested
        return reader.is_alive or reader.uid == owner

    def _add(self, snapshot: Snapshot, readers: Collection[SlabReader]) -> None:
        columns = [
            Column(
                _IDLE if reader.ordinal is None else reader.ordinal,
                reader.is_alive,
                reader.is_retired,
                reader.created,
                reader.identity,
                reader.source,
            )
            for reader in readers
        ]
        snapshot.columns += columns
        for reader in readers:
            self._tell(snapshot, reader.where, reader.damaged, reader.refused.values())
        snapshot.columns.sort(key=lambda column: (not column.is_retired, column.ordinal, column.created))

    def _tell(self, snapshot: Snapshot, where: str, damaged: int, reasons: Iterable[str] = ()) -> None:
        """Note the records of a file that cannot be used."""
        snapshot.damaged += damaged
        if damaged:
            what = "; ".join(reasons) or "they are damaged, or another release wrote them"
            snapshot.problems.append(f"{where}: some of its records cannot be used: {what}")

    def _read_memory(self, snapshot: Snapshot, maps: list[Map]) -> None:
        """Add the private maps of this process: its slab in memory, and the values that wait for room."""
        own: dict[int, SlabReader] = {}
        for words_map in maps:
            reader = self._own.get(id(words_map))
            reader = own[id(words_map)] = SlabReader.of_memory(words_map) if reader is None else reader
            reader.ordinal = 0 if self._memory is None else self._memory.ordinal
            reader.read(self._shapes.declare)
        self._own = own
        self._add(snapshot, own.values())

    def _read_shared(self, snapshot: Snapshot) -> None:
        try:
            if self._shared is None or self._removals is None:
                directory = Directory.at(self.path or "")
                self._shared = Shared(directory, write=False)  # the store may be on a read-only disk
                self._removals = Removals(directory, self._shared)
            snapshot.trouble = self._shared.trouble
            snapshot.up = True
        except (OSError, StoreError) as error:
            snapshot.unreadable["shared"] = str(error)

    def _known_removals(self, snapshot: Snapshot) -> Removals | None:
        if self._removals is not None:
            try:
                if "." not in snapshot.unreadable:
                    self._removals.read()
            except (OSError, StoreError) as error:  # the removals that were read last stay in use
                snapshot.unreadable["removals"] = str(error)
            self._tell(snapshot, f"{self.path}/removals", self._removals.damaged)
        return self._removals

    def close(self) -> None:
        """Close all files."""
        self._begin()


def _inode(name: str, folder: int) -> tuple[int, int] | None:
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    return status.st_dev, status.st_ino
