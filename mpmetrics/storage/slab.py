"""The file of this process's slab: made and leased, given an ordinal, grown. What is written into it is the cells'.

The steps: a file under a temporary name, created and locked; blocks allocated; the head written; and linked to
``idle-ID``, the commit. A kill before that leaves an unlocked file that the next fold removes; after it, a slab like
any other dead process's. Nobody is waited for.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

from mpmetrics._cells import Map, Slab
from mpmetrics.errors import LockTimeoutError, StoreError, StoreUnavailableError
from mpmetrics.storage import fork
from mpmetrics.storage import format as fmt
from mpmetrics.storage.descriptor import FILE_MODE, Descriptor, open_regular
from mpmetrics.storage.locks import lease, mutex
from mpmetrics.storage.slabs import is_alive, list_slabs, slab_name

if TYPE_CHECKING:
    from mpmetrics.storage.descriptor import Directory

__all__ = ["SlabFile", "anonymous_slab", "grow"]


class SlabFile:
    """A leased slab in ``directory``, made now; ``created`` is a Unix time in seconds.

    Raises :class:`~mpmetrics.errors.StoreUnavailableError` when it cannot be made; nothing is left behind then.
    """

    def __init__(self, directory: Directory, created: float) -> None:
        self._directory = directory
        self.ordinal: int | None = None
        """None until :meth:`claim`."""
        identity = secrets.token_bytes(16)
        self.identity = identity.hex()
        self.file = f"idle-{self.identity}"
        self._opening = f"new-slab-{self.identity}"
        fork.register(self)
        try:
            with directory.open() as folder:
                try:
                    self._make(folder, identity, created)
                except FileNotFoundError:  # before it was locked, a folder took it for what a killed process left
                    self._make(folder, identity, created)
        except (OSError, StoreError) as error:
            msg = f"no slab can be made in {directory.path}: {error}"
            raise StoreUnavailableError(msg) from error
        finally:
            self._opening = ""

    def _make(self, folder: int, identity: bytes, created: float) -> None:
        temporary = self._opening
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with Descriptor(os.open(temporary, flags, FILE_MODE, dir_fd=folder)) as descriptor:
                # That of a root master beside workers of another user is root's, and the collector reads it.
                os.fchmod(descriptor, 0o644 if self._directory.is_foreign else FILE_MODE)
                self._lease: Map | None = lease(descriptor)
                os.posix_fallocate(descriptor, 0, fmt.FIRST_WORDS_END)
                os.posix_fallocate(descriptor, fmt.AREA_0, fmt.PAGE)
                os.pwrite(descriptor, fmt.pack_slab(identity, os.getpid(), created), 0)
                inode = os.fstat(descriptor).st_ino
            # Any other map of the locked open file would hold the lock on in a forked child: so it is opened once more.
            with open_regular(temporary, os.O_RDWR, dir_fd=folder) as descriptor:
                self.map = Map(descriptor, fmt.SLAB_SIZE, write=True)
            _set_head(self.map)
            self._inode = inode
            self.slab = Slab(self.map)
            os.link(temporary, self.file, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            with contextlib.suppress(OSError):  # never made, or its directory is gone
                os.unlink(temporary, dir_fd=folder)

    def claim(self, lowest: int) -> None:
        """Take the smallest ordinal from ``lowest`` on that no living process has. StoreUnavailableError, OSError.

        Linking is the claim. The name of a dead slab is taken away only where no other process does such a thing at
        this moment; else the next ordinal will do.
        """
        with self._directory.open() as folder:
            slabs = {slab.ordinal: slab for slab in list_slabs(folder) if slab.file.startswith("slab-")}
            with contextlib.ExitStack() as stack:
                try:
                    if lowest < fmt.BESIDE and slabs and not self._directory.is_foreign:
                        stack.enter_context(mutex("names.lock", 0.0, dir_fd=folder))
                        _set_dead_aside(slabs, folder)
                except (LockTimeoutError, OSError):
                    stack.close()
                ordinal = lowest
                while not self._is_claimed(ordinal, folder):
                    ordinal += 1
        self.ordinal = ordinal

    def _is_claimed(self, ordinal: int, folder: int) -> bool:
        name = slab_name(ordinal)
        try:
            os.link(self.file, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            return False
        idle, self.file = self.file, name
        with contextlib.suppress(OSError):  # a cleaner was quicker
            os.unlink(idle, dir_fd=folder)
        return True

    def grow(self, words: int, size: int) -> bool:
        """Have room for a series of so many words, and for a record of so many bytes; False when there is none.

        OSError and StoreUnavailableError as well, when the file cannot be grown.
        """
        with self._directory.open() as folder, open_regular(self.file, os.O_RDWR, dir_fd=folder) as descriptor:
            if os.fstat(descriptor).st_ino != self._inode:
                msg = f"{self._directory.path}/{self.file} is another file than it was"
                raise StoreUnavailableError(msg)
            return grow(self.slab, self.map, words, size, descriptor)

    def release(self) -> None:
        """Give up the lease: the slab becomes a dead process's."""
        self._lease = None

    def after_fork_in_child(self) -> None:
        """A child that is forked while another thread makes the file shares its lock: let it go here."""
        if self._opening:
            with contextlib.suppress(OSError):
                fork.blind(os.path.join(self._directory.path, self._opening))


def _set_dead_aside(slabs: dict[int | None, object], folder: int) -> None:
    """Give the slabs of the dead among the workers names without a claim, from the smallest ordinal to the first free.

    Under the names lock: nobody else takes a slab's name away, so the file that is looked at is the one to be renamed.
    """
    for ordinal in range(len(slabs)):
        if ordinal not in slabs:
            return
        name = slab_name(ordinal)
        if is_alive(name, dir_fd=folder):
            continue
        with contextlib.suppress(OSError), open_regular(name, dir_fd=folder) as descriptor:
            identity = os.pread(descriptor, 32, 0)[16:].hex()
            os.rename(name, f"dead-{ordinal}-{identity}", src_dir_fd=folder, dst_dir_fd=folder)
            return


def grow(slab: Slab, words_map: Map, words: int, size: int, descriptor: int = -1) -> bool:
    """Have room in ``slab`` for so many words and bytes of records, allocating blocks of the file first.

    False when the slab is as large as it may be, OSError when there are no blocks. Without a descriptor it is memory.
    """
    head = memoryview(words_map).cast("Q")
    if slab.needs_flip:
        other = 1 - (head[fmt.FLIPS] & 1)
        _allocate(descriptor, fmt.AREA_0 + other * fmt.AREA_SIZE, head[fmt.ROOM + 1 - other])
        head[fmt.ROOM + other] = max(head[fmt.ROOM + other], head[fmt.ROOM + 1 - other])
        slab.flip()
    while not slab.room_for(words, 0):
        end = head[fmt.WORDS_END]
        new = fmt.grown(end, end + 1, fmt.PAGE)
        if new > fmt.AREA_0:
            return False
        _allocate(descriptor, end, new - end)
        # Readers take it for: so many bytes are there, allocated, zero where not yet written.
        head[fmt.WORDS_END] = max(new, head[fmt.WORDS_END])
    area = head[fmt.FLIPS] & 1
    while not slab.room_for(0, size):
        end = head[fmt.ROOM + area]
        new = fmt.grown(end, end + 1, 0)
        if new > fmt.AREA_SIZE:
            return False
        _allocate(descriptor, fmt.AREA_0 + area * fmt.AREA_SIZE + end, new - end)
        head[fmt.ROOM + area] = max(new, head[fmt.ROOM + area])
    return True


def anonymous_slab(identity: bytes, created: float) -> tuple[Slab, Map]:
    """A slab in memory of this process, and its map."""
    words_map = Map(-1, fmt.SLAB_SIZE, write=True)
    head = fmt.pack_slab(identity, os.getpid(), created)
    memoryview(words_map)[: len(head)] = head
    _set_head(words_map)
    return Slab(words_map), words_map


def _set_head(words_map: Map) -> None:
    head = memoryview(words_map).cast("Q")
    head[fmt.WORDS_END] = fmt.FIRST_WORDS_END
    head[fmt.ROOM] = fmt.PAGE


def _allocate(descriptor: int, offset: int, size: int) -> None:
    if descriptor >= 0 and size > 0:
        os.posix_fallocate(descriptor, offset, size)
