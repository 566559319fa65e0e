"""A process's slab: made and leased. What is written into it, and how it grows, is the cells'.

It is made under a temporary name, locked, given blocks and a head, and linked to ``idle-ID``: that is the commit. A
kill before that leaves an unlocked file that the next fold removes; after it, a slab like any other dead process's.
Nobody is waited for.
"""

from __future__ import annotations

import os
import secrets
import struct
from typing import TYPE_CHECKING

from mpmetrics._cells import Map, Slab, make_slab
from mpmetrics.errors import StoreUnavailableError
from mpmetrics.storage import format as fmt
from mpmetrics.storage.descriptor import FILE_MODE

if TYPE_CHECKING:
    from mpmetrics.storage.descriptor import Directory

__all__ = ["LeasedSlab", "anonymous_slab"]


class LeasedSlab:
    """A slab in ``directory``, made now, for an ordinal from ``lowest`` on; ``created`` is a Unix time in seconds.

    Raises :class:`~mpmetrics.errors.StoreUnavailableError` when it cannot be made; nothing is left behind then.
    """

    def __init__(self, directory: Directory, lowest: int, created: float) -> None:
        # That of a root master beside workers of another user is root's, and the collector reads it.
        mode = 0o644 if directory.is_foreign else FILE_MODE
        try:
            try:
                made = self._make(directory, mode, created)
            except FileNotFoundError:  # before it was locked, a folder took it for what a killed process left
                made = self._make(directory, mode, created)
        except OSError as error:
            msg = f"no slab can be made in {directory.path}: {error}"
            raise StoreUnavailableError(msg) from error
        self._lease: Map | None
        self._lease, self.map, number = made
        self.slab = Slab(self.map)
        self.slab.settle(directory.where, f"idle-{self.identity}", number, lowest, not directory.is_foreign)

    def _make(self, directory: Directory, mode: int, created: float) -> tuple[Map, Map, int]:
        identity = secrets.token_bytes(16)
        self.identity = identity.hex()
        return make_slab(directory.where, self.identity, mode, _head(identity, created))

    def release(self) -> None:
        """Give up the lease: the slab becomes a dead process's."""
        self._lease = None


def anonymous_slab(identity: bytes, created: float) -> tuple[Slab, Map]:
    """A slab in memory of this process, and its map."""
    words_map = Map(-1, fmt.SLAB_SIZE, write=True)
    head = _head(identity, created)
    memoryview(words_map)[: len(head)] = head
    return Slab(words_map), words_map


def _head(identity: bytes, created: float) -> bytes:
    """The head of a new slab, as far as it is not zero."""
    words = struct.pack("=6Q", fmt.FIRST_WORDS_END, 0, 0, 0, fmt.PAGE, 0)
    return fmt.pack_slab(identity, os.getpid(), created).ljust(fmt.WORD * fmt.WORDS_END, b"\0") + words
