"""A process's slab: the file of words that it alone writes, and its lease.

Made at the first write of a process, and again in each forked child. The steps: a file under a temporary name, created
and locked by the lease; blocks allocated; the head written; and, holding the append lock, the smallest ordinal that no
live slab has, then the rename into place. A kill before the rename leaves an unlocked file that the next folder
removes; after it, a slab like any other dead process's.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import time
from typing import TYPE_CHECKING, cast

from mpmetrics.errors import StoreError, StoreUnavailableError
from mpmetrics.storage import format as fmt
from mpmetrics.storage import geometry
from mpmetrics.storage.descriptor import Descriptor
from mpmetrics.storage.exclusive import Lease
from mpmetrics.storage.survey import live_ordinals, slab_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from mpmetrics._cells import Words

__all__ = ["Slab"]


class Slab:
    """A leased slab of the epoch at ``path``.

    It is linked within ``with directory:``, where ``standing`` is asked which generation of removals the process has
    let go of and the greatest serial that it ever held. Its ordinal is the smallest from ``lowest`` on.

    Raises :class:`~mpmetrics.errors.StoreError` when the slab cannot be made; nothing is left behind then.
    """

    def __init__(
        self,
        path: str,
        *,
        directory: AbstractContextManager[None],
        owner: tuple[int, int] | None,
        standing: Callable[[], tuple[int, int]],
        lowest: int = 0,
    ) -> None:
        self._pid = os.getpid()
        identity = secrets.token_bytes(16)
        self.identity = identity.hex()
        temporary = os.path.join(path, f"new-slab-{identity.hex()}")
        lease: Lease | None = None
        try:
            lease = Lease(temporary, owner)
            self._lease = lease
            # A map keeps a duplicate of its descriptor, and a duplicate of the lease's would hold the lock on in a
            # forked child for as long as the map lives there: so the file is opened once more.
            self._descriptor = Descriptor(os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))
            os.posix_fallocate(self._descriptor.fileno(), 0, fmt.FIRST_SEGMENT)
            self._map = mmap.mmap(self._descriptor.fileno(), fmt.FIRST_SEGMENT)
            self._head = memoryview(self._map).cast("Q")
            self._head[fmt.CAPACITY] = fmt.FIRST_SEGMENT
            with directory:
                self._head[fmt.ACKNOWLEDGED], self._head[fmt.BOUND] = standing()
                self._link(path, temporary, identity, lowest)
        except (OSError, StoreError) as error:
            if os.getpid() == self._pid:
                _discard(temporary, lease)
            msg = f"no slab can be leased in {path}: {error}"
            raise StoreUnavailableError(msg) from error

    def _link(self, path: str, temporary: str, identity: bytes, lowest: int) -> None:
        taken = live_ordinals(path)
        self.ordinal = next(number for number in range(lowest, lowest + len(taken) + 1) if number not in taken)
        head = fmt.pack_slab_head(identity, self.ordinal, self._pid, time.time())
        self._map[: len(head)] = head
        if os.getpid() != self._pid:  # a signal handler forked, and the child goes on here: this is the parent's
            raise StoreUnavailableError("a child was forked in the middle of this")
        # The commit: from here on readers open the file, and find it whole and locked.
        os.rename(temporary, os.path.join(path, slab_name(self.ordinal, identity.hex())))

    def words(self, number: int) -> Words:
        """The words of segment ``number``, allocated and mapped; call it once a segment, in ascending order or not.

        Raises :class:`~mpmetrics.errors.StoreUnavailableError` when there is no room; the slab stays as it was.
        """
        start, end = geometry.segment_span(number)
        if number == 0:
            return cast("Words", memoryview(self._map)[fmt.SLAB_HEAD_SIZE :].cast("d"))
        try:
            capacity = self._head[fmt.CAPACITY]
            if end > capacity:
                os.posix_fallocate(self._descriptor.fileno(), capacity, end - capacity)
                # Readers take the new capacity for: so many bytes are there, allocated, zero where not yet written.
                self._head[fmt.CAPACITY] = end
            return cast("Words", memoryview(mmap.mmap(self._descriptor.fileno(), end - start, offset=start)).cast("d"))
        except OSError as error:
            msg = f"the slab cannot grow to {end} bytes: {error}"
            raise StoreUnavailableError(msg) from error

    def acknowledge(self, generation: int) -> None:
        """Tell others that this process writes to no series removed up to ``generation`` any more."""
        self._head[fmt.ACKNOWLEDGED] = generation

    def bind(self, serial: int) -> None:
        """Tell others that this process holds the series of this serial, before it can write to it."""
        self._head[fmt.BOUND] = serial

    def abandon(self) -> None:
        """In a forked child: close what belongs to the parent, whose lease lets go by itself."""
        self._descriptor.close()

    def release(self) -> None:
        """Give up the lease: the slab becomes a dead process's, to be folded by whoever comes next."""
        self._lease.release()
        self._descriptor.close()


def _discard(temporary: str, lease: Lease | None) -> None:
    with contextlib.suppress(OSError):  # never made, or its directory is gone
        os.unlink(temporary)
    if lease is not None:
        lease.release()
