"""An epoch as a process in it holds it; whether an epoch lives; how a dead one is removed."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

from mpmetrics.errors import StoreUnavailableError
from mpmetrics.storage.descriptor import Directory, check_trust
from mpmetrics.storage.locks import Shield, TryLock, hold_shared
from mpmetrics.storage.removals import Removals
from mpmetrics.storage.shared import Shared
from mpmetrics.storage.slab import is_alive, list_slabs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpmetrics._cells import Map
    from mpmetrics.storage.store import Store

__all__ = ["Epoch", "lock_if_dead", "remove_epoch"]


class Epoch:
    """An epoch that this process is in: its directory, its shared page and removals, and the locks that keep it alive.

    ``is_server``: this process is a server's master or a child of it. All other processes are guests.
    """

    def __init__(self, store: Store, number: int, *, is_server: bool, lease: Map | None = None) -> None:
        """Join epoch ``number``. ``lease`` is its lease, if the caller holds it. FormatError or OSError on failure."""
        path = store.epoch_path(number)
        self.store = store
        self.number = number
        self.is_server = is_server
        self.directory = Directory.at(path)
        self._lease = _hold_lease(self.directory) if lease is None else lease
        check_trust(path, os.lstat(path), "epoch")
        if self.directory.owner[0] != store.owner[0]:
            msg = f"the epoch {path} belongs to user {self.directory.owner[0]}, the store to {store.owner[0]}"
            raise StoreUnavailableError(msg)
        self.shared = Shared(self.directory)
        self.removals = Removals(self.directory, self.shared)
        self._server: Map | None = None
        if is_server:
            with contextlib.suppress(OSError):  # without this lock, a new server takes the epoch's guests over
                self._server = hold_shared("server", self.directory)
        self._shield: Shield | None = None
        with contextlib.suppress(OSError):  # another process, perhaps a cleaner, has locked the directory
            self._shield = Shield(store.path)

    @property
    def path(self) -> str:
        """Path of its directory."""
        return self.directory.path

    def successor(self) -> Epoch | None:
        """Join and return the epoch that replaced this one; None if none did. StoreUnavailableError as ``join()``."""
        if self.is_server or self.shared.successor <= self.number:
            return None
        joined = self.store.join()
        if joined.number > self.number:
            return joined
        joined.close()  # the shared page is damaged
        return None

    def close(self) -> None:
        """Leave the epoch; a second call does nothing."""
        self._lease = self._server = None
        shield, self._shield = self._shield, None
        if shield is not None:
            shield.close()


def _hold_lease(directory: Directory) -> Map | None:
    """The lease of an epoch; None if the lease file is lost and living slabs alone keep the epoch alive."""
    try:
        return hold_shared("lease", directory)
    except FileNotFoundError:
        if _has_lost_its_lease(directory.path):
            return None
        raise


@contextlib.contextmanager
def lock_if_dead(epoch: str) -> Iterator[bool]:
    """Lock the epoch in this directory if it is dead, so that no process joins it; yields whether it is dead."""
    with TryLock(os.path.join(epoch, "lease")) as is_locked:
        yield is_locked and not _has_lost_its_lease(epoch)


def _has_lost_its_lease(epoch: str) -> bool:
    """Whether the lease file was unlinked, say by a cleaner of temporary files, while the owner of a slab lives."""
    with contextlib.suppress(FileNotFoundError):
        is_there = os.path.exists(os.path.join(epoch, "lease"))
        return not is_there and any(is_alive(os.path.join(epoch, slab.file)) for slab in list_slabs(epoch))
    return False


def remove_epoch(epoch: str) -> None:
    """Remove a dead epoch that the caller has locked. The lease goes first, so nothing joins a half-removed epoch."""
    # Opened as a Directory, so never through a link in the epoch's place.
    with contextlib.suppress(OSError, StoreUnavailableError), Directory.at(epoch).open() as dir_fd:
        os.unlink("lease", dir_fd=dir_fd)
    shutil.rmtree(epoch, ignore_errors=True)
