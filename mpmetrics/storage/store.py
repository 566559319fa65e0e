"""Stores and their epochs: where they live, who may use them, how an epoch begins, is joined and is cleaned up.

A store is a directory. A server begins an epoch in it; processes that merely find the store join the current one. Every
process of an epoch holds a shared lock on its ``lease`` file, forked children included, for as long as any of them
lives: an epoch whose lease nobody holds is dead, and the next server to begin one in that store removes it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpmetrics.errors import LockTimeoutError, StoreUnavailableError
from mpmetrics.storage.catalog import Catalog
from mpmetrics.storage.descriptor import Descriptor, open_private, secure
from mpmetrics.storage.exclusive import mutex
from mpmetrics.storage.locks import hold_shared, unheld
from mpmetrics.storage.series_file import create_series_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


__all__ = ["Epoch", "Store", "default_base", "new_default_directory", "remove_dead_stores"]

_EPOCH = re.compile(r"epoch-(\d{1,18})\Z")
_BEGIN_TIMEOUT = 5.0
_GRACE = 60.0
"""Seconds for which a default store without an epoch may be one that a server is about to begin."""


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
            with contextlib.suppress(OSError, LockTimeoutError):  # someone else begins or cleans it at this moment
                if entry.stat(follow_symlinks=False).st_uid == uid and _remove_if_dead(entry.path):
                    removed.append(entry.path)
    return removed


def _remove_if_dead(path: str) -> bool:
    """Remove the store at ``path`` unless an epoch of it lives or may be about to begin; keeps others out meanwhile."""
    lock = os.path.join(path, "lock")
    with mutex(lock, 0.0) if os.path.exists(lock) else contextlib.nullcontext():
        epochs = _epochs(path)
        if not epochs and time.time() - os.stat(path).st_mtime < _GRACE:
            return False
        if not all(unheld(os.path.join(path, f"epoch-{number}", "lease")) for number in epochs):
            return False
        shutil.rmtree(path)
    return True


def _epochs(path: str) -> list[int]:
    return sorted(int(match[1]) for match in map(_EPOCH.match, os.listdir(path)) if match)


def _secure_directory(path: str, owner: tuple[int, int] | None) -> None:
    """Give a directory that we made its mode and owner; a umask may have left us no right even to open it."""
    handle = Descriptor(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW))
    os.chmod(f"/proc/self/fd/{handle.fileno()}", 0o700)
    descriptor = Descriptor(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))
    secure(descriptor.fileno(), 0o700, owner)


def _check(path: str, status: os.stat_result, what: str = "store") -> None:
    """StoreUnavailableError unless we can trust the directory of this status: nobody else can put values in it."""
    if not stat.S_ISDIR(status.st_mode):
        msg = f"the {what} {path} is no directory (a symbolic link does not count); choose another MPMETRICS_DIR"
        raise StoreUnavailableError(msg)
    if os.geteuid() not in (status.st_uid, 0):
        owner, user = status.st_uid, os.geteuid()
        msg = f"the {what} {path} belongs to user {owner}, not to {user}; choose another MPMETRICS_DIR"
        raise StoreUnavailableError(msg)
    if status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        msg = f"the {what} {path} can be written by others (mode {mode:04o}); run: chmod 0700 {path}"
        raise StoreUnavailableError(msg)


@dataclass(frozen=True)
class Epoch:
    """An epoch that this process is part of: its directory, its files' owner, the descriptors that keep it alive.

    ``shield`` holds a shared flock on the store's directory: systemd-tmpfiles passes over directories that are locked,
    with all that is in them (https://systemd.io/TEMPORARY_DIRECTORIES/).
    """

    path: str
    owner: tuple[int, int]
    lease: Descriptor
    shield: Descriptor

    @property
    def number(self) -> int:
        """The epoch's number within its store."""
        return int(os.path.basename(self.path).removeprefix("epoch-"))


class Store:
    """The store in ``directory``, which is created, with mode 0700, when it is not there.

    ``owner`` (uid, gid) is who the store belongs to when a privileged process creates it for others; by default the
    user who creates it. Raises :class:`~mpmetrics.errors.StoreUnavailableError` when the directory cannot be created,
    is no directory, belongs to someone else, or can be written by others.
    """

    def __init__(self, directory: str | os.PathLike[str], *, owner: tuple[int, int] | None = None) -> None:
        self.path = os.path.abspath(directory)
        try:
            self._create(owner)
            status = os.lstat(self.path)
        except OSError as error:
            msg = f"the store {self.path} cannot be created: {error.strerror or error}; choose another MPMETRICS_DIR"
            raise StoreUnavailableError(msg) from error
        _check(self.path, status)
        self.owner = (status.st_uid, status.st_gid)

    def _create(self, owner: tuple[int, int] | None) -> None:
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            return
        _secure_directory(self.path, owner)

    def begin(self) -> Epoch:
        """Begin a new epoch, and remove dead ones. StoreUnavailableError when that cannot be done."""
        return self._locked(self._begin)

    def join(self, number: int | None = None) -> Epoch:
        """Join epoch ``number``, by default the current one, or begin the first one.

        StoreUnavailableError when that cannot be done, and when there is no epoch of that number.
        """
        try:
            return self._locked(lambda: self._join(number))
        except StoreUnavailableError as error:
            living = self._join_living(number) if isinstance(error.__cause__, LockTimeoutError) else None
            if living is None:
                raise
            return living

    def current(self) -> str | None:
        """Directory of the current epoch, for a reader that takes no part in it; None when there is none."""
        epochs = _epochs(self.path)
        return self._epoch_path(epochs[-1]) if epochs else None

    def _locked(self, action: Callable[[], Epoch]) -> Epoch:
        lock = os.path.join(self.path, "lock")
        try:
            os.close(open_private(lock, os.O_RDWR | os.O_CREAT, self.owner))
            with mutex(lock, _BEGIN_TIMEOUT):
                return action()
        except (OSError, LockTimeoutError) as error:
            msg = f"the store {self.path} cannot be used: {error}"
            raise StoreUnavailableError(msg) from error

    def _epoch_path(self, number: int) -> str:
        return os.path.join(self.path, f"epoch-{number}")

    def _join(self, number: int | None) -> Epoch:
        epochs = _epochs(self.path)
        if not epochs and number is None:
            return self._begin()
        if number is not None and number not in epochs:
            msg = f"the store {self.path} has no epoch {number}"
            raise StoreUnavailableError(msg)
        path = self._epoch_path(epochs[-1] if number is None else number)
        return self._epoch(path, hold_shared(os.path.join(path, "lease")))

    def _epoch(self, path: str, lease: Descriptor) -> Epoch:
        _check(path, os.lstat(path), "epoch")
        shield = Descriptor(-1)
        with contextlib.suppress(OSError):  # someone has the directory to himself, a cleaner perhaps: so be it
            shield = hold_shared(self.path)
        return Epoch(path, self.owner, lease, shield)

    def _join_living(self, number: int | None) -> Epoch | None:
        """Join without the lock, whose holder is stopped, an epoch that is nobody's to remove: others are in it."""
        epochs = [each for each in _epochs(self.path) if number in {None, each}]
        lease = os.path.join(self._epoch_path(epochs[-1]), "lease") if epochs else ""
        with contextlib.suppress(OSError):
            if lease and not unheld(lease):
                return self._epoch(os.path.dirname(lease), hold_shared(lease))
        return None

    def _begin(self) -> Epoch:
        # Looked for before the dead go. A number never comes back, not even in a store that was removed and made anew:
        # who still has the old one open would take the new one's files for its own.
        number = max([1, time.time_ns() // 1_000_000, *(number + 1 for number in _epochs(self.path))])
        self._remove_leftovers()
        temporary = os.path.join(self.path, f"new-epoch-{secrets.token_hex(8)}")
        os.mkdir(temporary, 0o700)
        _secure_directory(temporary, self.owner)
        for name in ("lease", "series.lock", "fold.lock"):
            os.close(open_private(os.path.join(temporary, name), os.O_RDWR | os.O_CREAT | os.O_EXCL, self.owner))
        os.close(create_series_file(os.path.join(temporary, "series"), Catalog(), (1, 0), self.owner))
        lease = hold_shared(os.path.join(temporary, "lease"))
        # The commit: the epoch is there, whole and alive; a kill before leaves a directory that the next one removes.
        os.rename(temporary, self._epoch_path(number))
        return self._epoch(self._epoch_path(number), lease)

    def _remove_leftovers(self) -> None:
        for name in os.listdir(self.path):
            path = os.path.join(self.path, name)
            with contextlib.suppress(OSError):  # what cannot be looked at is not ours to remove
                dead = _EPOCH.match(name) and unheld(os.path.join(path, "lease"))
                if dead or name.startswith("new-epoch-"):
                    shutil.rmtree(path, ignore_errors=True)

    def remove_if_dead(self) -> bool:
        """Remove the whole store when nobody is left in it; answers whether it is gone."""
        with contextlib.suppress(OSError, LockTimeoutError):
            return _remove_if_dead(self.path)
        return False
