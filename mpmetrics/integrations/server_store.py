"""ServerStore: the store of a gunicorn server, which its configuration or environment names, or a new one of its own.

Belongs to the master. Only a store of the server's own is ever removed: at once if no epoch could begin in it, else
when the server ends and no process is left in it.
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
"""Environment variables for the next master: the store, the number of its epoch, and whether the store is our own."""


class ServerStore:
    """The store that this master uses."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._environ = environ
        self._store: Store | None = None
        self._is_ours = False
        self.is_shared = False
        """True if the epoch is that of the master before (SIGUSR2)."""

    def enter(self, provider: Provider, configured: str | None, cfg: Any) -> None:
        """Attach ``provider`` to an epoch of the store ``configured``, else the environment's, else a new one.

        Raises StoreError and OSError if that fails; a new store is removed then.
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
            # As the workers' user: the store belongs to this user, so links in it could misdirect root.
            with acting_as(cfg.uid, cfg.gid):
                # After SIGUSR2, two masters with their workers are one server and count in the same epoch.
                epoch = self._store.join(before, is_server=True) if self.is_shared else self._store.begin()
            # As our own user: this makes our slab, which the workers' user must not be able to truncate.
            provider.attach(epoch)
        finally:
            if provider.epoch is not None:
                self._tell(provider.epoch)
            elif not directory:  # no other process knows the new store yet
                if epoch is not None:
                    epoch.close()
                remove_if_dead(self._store.path, grace=0.0)

    def _before(self) -> int | None:
        """Return the number of the epoch to continue after SIGUSR2, or None."""
        number = self._environ.get("MPMETRICS_EPOCH", "") if "GUNICORN_PID" in self._environ else ""
        return int(number) if number.isdecimal() else None

    def _open(self, directory: str | None, uid: int, gid: int) -> Store:
        if not directory:
            base = default_base(self._environ)
            for path in remove_dead_stores(base, uid):
                log.info("removed the store %s, whose server is gone", path)
            directory = new_default_directory(base, uid)
        store = Store(directory, owner=(uid, gid))
        if store.owner[0] != uid:
            msg = (
                f"the store {directory} belongs to user {store.owner[0]}, but the workers run as user {uid};"
                " give that user the directory, or name another one"
            )
            raise StoreUnavailableError(msg)
        return store

    def _tell(self, epoch: Epoch) -> None:
        """Set the environment variables from which children and the next master learn the epoch."""
        self._environ["MPMETRICS_DIR"] = os.path.dirname(epoch.path)
        self._environ["MPMETRICS_EPOCH"] = str(epoch.number)
        self._environ.pop("MPMETRICS_TEMPORARY", None)
        if self._is_ours:
            self._environ["MPMETRICS_TEMPORARY"] = "1"

    def leave(self) -> None:
        """At the end of the server, which has left the epoch: remove a store of its own, unless a process is in it."""
        if self._is_ours and self._store is not None:
            remove_if_dead(self._store.path)


def default_base(environ: Mapping[str, str]) -> str:
    """Return the directory in which default stores are made, on tmpfs if there is one."""
    for candidate in ("/dev/shm", environ.get("XDG_RUNTIME_DIR", "")):  # noqa: S108 (a private directory is made in it)
        if candidate and os.path.isdir(candidate) and os.access(candidate, os.W_OK | os.X_OK):
            return candidate
    return tempfile.gettempdir()


def new_default_directory(base: str, uid: int) -> str:
    """Return an unused path for a store of user ``uid``; nothing is created."""
    return os.path.join(base, f"mpmetrics-{uid}-{secrets.token_hex(6)}")


def remove_dead_stores(base: str, uid: int) -> list[str]:
    """Remove the default stores of user ``uid`` in ``base`` in which all epochs are dead; return their paths."""
    removed = []
    for entry in os.scandir(base):
        if entry.name.startswith(f"mpmetrics-{uid}-") and entry.is_dir(follow_symlinks=False):
            with contextlib.suppress(OSError):  # another process removes it at this moment
                if entry.stat(follow_symlinks=False).st_uid == uid and remove_if_dead(entry.path):
                    removed.append(entry.path)
    return removed
