"""Where a server's metrics live: the store that its configuration or environment names, or a new one of its own.

Belongs to the master. Only a store of its own is ever removed: at once when no epoch came of it, else when the server
ends and nobody is left in it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import tempfile
from typing import TYPE_CHECKING, Any

from mpmetrics.errors import StoreUnavailableError
from mpmetrics.integrations.privileges import acting_as
from mpmetrics.storage.store import Store, remove_if_dead

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from mpmetrics.provider import Provider
    from mpmetrics.storage.epoch import Epoch

__all__ = ["PASSED_ON", "ServerStore", "default_base", "new_default_directory", "remove_dead_stores"]

log = logging.getLogger("mpmetrics")

PASSED_ON = ("MPMETRICS_DIR", "MPMETRICS_EPOCH", "MPMETRICS_TEMPORARY")
"""Variables that tell the next master which epoch it goes on with: its store, its number, whether that is our own."""


class ServerStore:
    """The store that this master uses, and whether it is one of its own."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._environ = environ
        self._store: Store | None = None
        self._is_ours = False
        self.is_shared = False
        """Whether the epoch is that of the master before."""

    def enter(self, provider: Provider, configured: str | None, cfg: Any) -> None:
        """Attach ``provider`` to an epoch of the store ``configured``, or the environment's, or else of a new one.

        Raises StoreError and OSError where there is none, and what was made for it is gone then.
        """
        self._store, self._is_ours, self.is_shared = None, False, False
        directory, inherited = configured or self._environ.get("MPMETRICS_DIR"), self._environ.get("MPMETRICS_DIR")
        before = self._before()
        if not directory:
            self._is_ours = True
        elif before is not None and os.path.abspath(directory) == inherited:
            self.is_shared, self._is_ours = True, "MPMETRICS_TEMPORARY" in self._environ
        self._store = self._open(directory, cfg.uid, cfg.gid)
        epoch = None
        try:
            # What is in the store belongs to the workers' user, who could put links in the way of a privileged hand.
            with acting_as(cfg.uid, cfg.gid):
                # After SIGUSR2 two masters with their workers are one server: both count in the same epoch.
                epoch = self._store.join(before, is_server=True) if self.is_shared else self._store.begin()
            # With our own hand: the slab that is made now is to be one that the workers' user cannot cut short.
            provider.attach(epoch)
        finally:
            if provider.epoch is not None:
                self._tell(provider.epoch)
            elif not directory:  # nobody else knows of it yet
                if epoch is not None:
                    epoch.close()
                remove_if_dead(self._store.path, grace=0.0)

    def _before(self) -> int | None:
        """The number of the epoch to go on with after SIGUSR2."""
        number = self._environ.get("MPMETRICS_EPOCH", "") if "GUNICORN_PID" in self._environ else ""
        return int(number) if number.isdecimal() else None

    def _open(self, directory: str | None, uid: int, gid: int) -> Store:
        if not directory:
            base = default_base(self._environ)
            for path in remove_dead_stores(base, uid):
                log.info("removed the store %s of a server that is gone", path)
            directory = new_default_directory(base, uid)
        store = Store(directory, owner=(uid, gid))
        if store.owner[0] != uid:
            msg = f"the store {directory} belongs to user {store.owner[0]}, but the workers run as user {uid}"
            raise StoreUnavailableError(msg)
        return store

    def _tell(self, epoch: Epoch) -> None:
        """Have the environment tell children, and the next master, where the metrics are."""
        self._environ["MPMETRICS_DIR"] = os.path.dirname(epoch.path)
        self._environ["MPMETRICS_EPOCH"] = str(epoch.number)
        self._environ.pop("MPMETRICS_TEMPORARY", None)
        if self._is_ours:
            self._environ["MPMETRICS_TEMPORARY"] = "1"

    def leave(self) -> None:
        """At the end of the server, which is out of the epoch: remove a store of its own unless others are in it."""
        if self._is_ours and self._store is not None:
            remove_if_dead(self._store.path)


def default_base(environ: Mapping[str, str]) -> str:
    """Directory in which stores live unless told otherwise: on tmpfs where there is one."""
    for candidate in ("/dev/shm", environ.get("XDG_RUNTIME_DIR", "")):  # noqa: S108 (made private and checked below)
        if candidate and os.path.isdir(candidate) and os.access(candidate, os.W_OK | os.X_OK):
            return candidate
    return tempfile.gettempdir()


def new_default_directory(base: str, uid: int) -> str:
    """A name, not yet taken, for a store of user ``uid``; nothing is created."""
    return os.path.join(base, f"mpmetrics-{uid}-{secrets.token_hex(6)}")


def remove_dead_stores(base: str, uid: int) -> list[str]:
    """Remove the default stores of user ``uid`` in ``base`` whose every epoch is dead; returns what was removed."""
    removed = []
    for entry in os.scandir(base):
        if entry.name.startswith(f"mpmetrics-{uid}-") and entry.is_dir(follow_symlinks=False):
            with contextlib.suppress(OSError):  # someone else cleans it at this moment
                if entry.stat(follow_symlinks=False).st_uid == uid and remove_if_dead(entry.path):
                    removed.append(entry.path)
    return removed
