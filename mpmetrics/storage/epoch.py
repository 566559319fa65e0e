"""An epoch: as a process that is part of it has it, whether it lives, and its end."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

from mpmetrics.errors import StoreUnavailableError
from mpmetrics.storage.descriptor import Directory, check_trust
from mpmetrics.storage.locks import Shield, Sole, hold
from mpmetrics.storage.removals import Removals
from mpmetrics.storage.shared import Shared
from mpmetrics.storage.slab import is_alive, list_slabs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpmetrics._cells import Map
    from mpmetrics.storage.store import Store

__all__ = ["Epoch", "alone", "remove_epoch"]


class Epoch:
    """An epoch that this process is part of: its directory, what is shared in it, and what keeps it alive.

    ``is_server`` says whether this process is a master, or forked by one; others are guests.
    """

    def __init__(self, store: Store, number: int, *, is_server: bool, lease: Map | None = None) -> None:
        """Join epoch ``number`` of ``store``; FormatError or OSError when it cannot be used.

        ``lease`` is its lease, where that is held already.
        """
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
            with contextlib.suppress(OSError):  # without it, guests are taken over
                self._server = hold("server", self.directory)
        self._shield: Shield | None = None
        with contextlib.suppress(OSError):  # someone has the directory to himself, a cleaner perhaps: so be it
            self._shield = Shield(store.path)

    @property
    def path(self) -> str:
        """Its directory."""
        return self.directory.path

    def successor(self) -> Epoch | None:
        """The epoch that took this one's place, joined; None when none did. StoreUnavailableError as :meth:`join`."""
        if self.is_server or self.shared.successor <= self.number:
            return None
        joined = self.store.join()
        if joined.number > self.number:
            return joined
        joined.close()  # damage in the shared page
        return None

    def close(self) -> None:
        """Leave it; again does nothing."""
        self._lease = self._server = None
        shield, self._shield = self._shield, None
        if shield is not None:
            shield.close()


def _hold_lease(directory: Directory) -> Map | None:
    """The lease of an epoch that is joined; None when it has lost that, and lives by its slabs."""
    try:
        return hold("lease", directory)
    except FileNotFoundError:
        if _has_lost_its_lease(directory.path):
            return None
        raise


@contextlib.contextmanager
def alone(epoch: str) -> Iterator[bool]:
    """Keep others out of the epoch in this directory if it is dead; says whether it is."""
    with Sole(os.path.join(epoch, "lease")) as is_had:
        yield is_had and not _has_lost_its_lease(epoch)


def _has_lost_its_lease(epoch: str) -> bool:
    """Whether an epoch lives, by its slabs, whose lease somebody unlinked: a cleaner of temporary files, say."""
    with contextlib.suppress(FileNotFoundError):
        is_there = os.path.exists(os.path.join(epoch, "lease"))
        return not is_there and any(is_alive(os.path.join(epoch, slab.file)) for slab in list_slabs(epoch))
    return False


def remove_epoch(epoch: str) -> None:
    """Remove a dead epoch that nobody can join meanwhile. Its lease goes first, so a kill leaves nothing to join."""
    # Never through a link that somebody has put in its place.
    with contextlib.suppress(OSError, StoreUnavailableError), Directory.at(epoch).open() as folder:
        os.unlink("lease", dir_fd=folder)
    shutil.rmtree(epoch, ignore_errors=True)
