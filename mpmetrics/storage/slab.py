"""The slabs of an epoch: their names, whether their owners live, and how a process makes and leases one.

A process makes its slab under a temporary name, locks it, allocates blocks, writes the head and links it to
``idle-ID``: that is the commit. A kill before the commit leaves an unlocked file, which the next fold removes; a kill
after it leaves a dead process's slab. Nothing here waits for another process. The cells write and grow slabs.
"""

from __future__ import annotations

import os
import re
import secrets
import struct
from typing import TYPE_CHECKING, NamedTuple

from mpmetrics._cells import Map, Slab, make_slab
from mpmetrics.errors import FormatError, StoreUnavailableError
from mpmetrics.storage import format as fmt
from mpmetrics.storage.descriptor import FILE_MODE, open_regular
from mpmetrics.storage.locks import is_held

if TYPE_CHECKING:
    from mpmetrics.storage.descriptor import Directory

__all__ = ["LeasedSlab", "SlabName", "anonymous_slab", "is_alive", "list_slabs", "slab_name"]

_NAME = re.compile(r"idle-([0-9a-f]{32})\Z|slab-(\d{1,9})\Z|dead-(\d{1,9})-\d{1,20}\Z")


class SlabName(NamedTuple):
    """The parts of a slab's file name. ``ordinal`` is None and ``identity`` empty when the name has none."""

    file: str
    ordinal: int | None
    identity: str

    @property
    def is_set_aside(self) -> bool:
        """Whether it belongs to a dead process whose ordinal another process has taken."""
        return self.file.startswith("dead-")


def slab_name(ordinal: int) -> str:
    """File name of the slab of the process with this ordinal."""
    return f"slab-{ordinal}"


def list_slabs(path: str | int) -> list[SlabName]:
    """The slabs in the epoch at ``path``, a path or a descriptor; OSError when it cannot be read."""
    found = []
    for match in filter(None, map(_NAME.match, os.listdir(path))):
        ordinal = match[2] or match[3]
        found.append(SlabName(match[0], int(ordinal) if ordinal else None, match[1] or ""))
    return sorted(found, key=lambda slab: (fmt.AUXILIARY if slab.ordinal is None else slab.ordinal, slab.file))


def is_alive(path: str, *, dir_fd: int | None = None) -> bool:
    """Whether the owner of the slab file ``path`` holds its lease; a missing file has no living owner.

    If the check fails, for example for lack of descriptors, the owner counts as alive, so nobody touches its slab.
    """
    try:
        with open_regular(path, dir_fd=dir_fd) as descriptor:
            return is_held(descriptor)
    except (FileNotFoundError, FormatError):
        return False
    except OSError:
        return True


class LeasedSlab:
    """A new, leased slab in ``directory``. It may claim ordinals from ``lowest`` on; ``created`` is a Unix time (s).

    When it cannot be made, raises :class:`~mpmetrics.errors.StoreUnavailableError` and leaves nothing behind.
    """

    def __init__(self, directory: Directory, lowest: int, created: float) -> None:
        # A root master's slab beside workers of another user belongs to root; the collector must be able to read it.
        mode = 0o644 if directory.is_foreign else FILE_MODE
        try:
            try:
                made = self._make(directory, mode, created)
            # Before we locked it, fold() removed it as a killed process's leftover, or held its lock to check it.
            except (FileNotFoundError, BlockingIOError):
                made = self._make(directory, mode, created)
        except OSError as error:
            msg = f"no slab can be made in {directory.path}: {error}"
            raise StoreUnavailableError(msg) from error
        self._lease: Map | None
        self._lease, self.map, number = made
        self.slab = Slab(self.map)
        self.slab.attach_file(directory.where, f"idle-{self.identity}", number, lowest, not directory.is_foreign)

    def _make(self, directory: Directory, mode: int, created: float) -> tuple[Map, Map, int]:
        identity = secrets.token_bytes(16)
        self.identity = identity.hex()
        return make_slab(directory.where, self.identity, mode, _head(identity, created))

    def release(self) -> None:
        """Give up the lease: from now on the slab counts as a dead process's."""
        self._lease = None


def anonymous_slab(created: float) -> tuple[Slab, Map]:
    """A slab in private memory, and its map."""
    words_map = Map(-1, fmt.SLAB_SIZE, write=True)
    head = _head(secrets.token_bytes(16), created)
    memoryview(words_map)[: len(head)] = head
    return Slab(words_map), words_map


def _head(identity: bytes, created: float) -> bytes:
    """The bytes of a new slab's head that are not zero."""
    words = struct.pack("=6Q", fmt.FIRST_WORDS_END, 0, 0, 0, fmt.PAGE, 0)
    return fmt.pack_slab(identity, os.getpid(), created).ljust(fmt.WORD * fmt.WORDS_END, b"\0") + words
