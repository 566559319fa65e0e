"""A store: how its epochs begin, are joined and are removed.

A store is a directory. A server begins an epoch in it. A *guest*, a process without a server of its own, joins the
current epoch if that lives, else begins one. Each process of an epoch, forked children included, holds a shared lock
on the epoch's ``lease`` file. An epoch whose lease is free is dead, unless the lease file is missing and the owner of a
slab lives. The next process that begins an epoch removes the dead ones.

A guest may outlive its server. A server that begins takes over the guests of living epochs without a server: it links
their slabs into its own epoch and writes its number into their shared page. The guests then join the new epoch.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import secrets
import shutil
import time
from typing import TYPE_CHECKING

from mpmetrics.errors import FormatError, LockTimeoutError, StoreUnavailableError
from mpmetrics.storage.descriptor import Descriptor, Directory, check_trust, open_directory, open_private, secure
from mpmetrics.storage.epoch import Epoch, lock_if_dead, remove_epoch
from mpmetrics.storage.locks import Mutex, TryLock, hold_shared
from mpmetrics.storage.shared import Shared, create_shared
from mpmetrics.storage.slab import SlabName, is_alive, list_slabs, slab_name

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Store", "remove_if_dead"]

_EPOCH = re.compile(r"epoch-(\d{1,18})\Z")
_BEGIN_TIMEOUT = 5.0
_PAUSE = 0.002
"""Seconds between attempts to join an epoch that another process is removing."""

_GRACE = 60.0
"""Seconds for which a store without an epoch is kept: a server may be about to begin one."""


def remove_if_dead(path: str, grace: float = _GRACE) -> bool:
    """Remove the store at ``path`` if no process is in it; returns whether it was removed. No process joins meanwhile.

    A store without any epoch stays for ``grace`` seconds, as a server may be about to begin one.
    """
    lock = os.path.join(path, "lock")
    # These errors mean that another process begins an epoch in the store or removes it now.
    with contextlib.suppress(OSError, LockTimeoutError, FormatError), contextlib.ExitStack() as stack:
        if os.path.exists(lock):
            stack.enter_context(Mutex(lock, 0.0))
        epochs = [os.path.join(path, f"epoch-{number}") for number in _epochs(path)]
        if not epochs and time.time() - os.stat(path).st_mtime < grace:
            return False
        if not all(stack.enter_context(lock_if_dead(epoch)) for epoch in epochs):
            return False
        for epoch in epochs:
            remove_epoch(epoch)
        shutil.rmtree(path)
        return True
    return False


def _epochs(path: str) -> list[int]:
    return sorted(int(match[1]) for match in map(_EPOCH.match, os.listdir(path)) if match)


def _secure_directory(path: str, owner: tuple[int, int] | None) -> Descriptor:
    """Set mode and owner of a directory that we made, and open it. The umask may have denied us even that."""
    handle = Descriptor(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW))
    os.chmod(f"/proc/self/fd/{handle.fileno()}", 0o700)
    descriptor = open_directory(path)
    secure(descriptor.fileno(), 0o700, owner)
    return descriptor


def _link(source: str, target: str, slab: SlabName) -> None:
    """Link a slab to its name in ``target``; if another guest's slab has that name, to the next free ordinal."""
    ordinals = itertools.count(slab.ordinal or 0)
    for name in (slab.file,) if slab.identity or slab.is_set_aside else map(slab_name, ordinals):
        with contextlib.suppress(FileExistsError):
            os.link(source, os.path.join(target, name), follow_symlinks=False)
            return


class Store:
    """The store in ``directory``, created with mode 0700 if it does not exist.

    ``owner`` (uid, gid) owns a store that root creates for another user; default: the creating user. ``clock`` returns
    the Unix time in seconds, by which epochs are numbered. Raises :class:`~mpmetrics.errors.StoreUnavailableError` when
    ``directory`` cannot be created, is no directory, belongs to another user, or is writable by others.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        owner: tuple[int, int] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self.path = os.path.abspath(directory)
        try:
            self._create(owner)
            status = os.lstat(self.path)
        except OSError as error:
            msg = f"the store {self.path} cannot be created: {error.strerror or error}; choose another MPMETRICS_DIR"
            raise StoreUnavailableError(msg) from error
        check_trust(self.path, status)
        self.owner = (status.st_uid, status.st_gid)

    def _create(self, owner: tuple[int, int] | None) -> None:
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            return
        try:
            _secure_directory(self.path, owner).close()
        except BaseException:
            with contextlib.suppress(OSError):  # another process uses it already
                os.rmdir(self.path)
            raise

    def begin(self) -> Epoch:
        """Begin a new epoch as its server, and remove dead ones. StoreUnavailableError when that fails."""
        return self._translate_errors(lambda: self._locked(lambda: self._begin(is_server=True)))

    def join(self, number: int | None = None, *, is_server: bool = False) -> Epoch:
        """Join epoch ``number``, with ``is_server`` as its next master.

        Without a number: join the current epoch if it lives, else begin one. Joining a living epoch waits for no other
        process. StoreUnavailableError when joining fails or epoch ``number`` does not exist.
        """
        if number is None:
            return self._translate_errors(self._join_current)
        return self._translate_errors(lambda: Epoch(self, number, is_server=is_server))

    def current(self) -> str | None:
        """Directory of the current epoch, for a reader that does not join it; None when the store has no epoch."""
        epochs = _epochs(self.path)
        return self.epoch_path(epochs[-1]) if epochs else None

    def epoch_path(self, number: int) -> str:
        """Directory of epoch ``number``."""
        return os.path.join(self.path, f"epoch-{number}")

    def _translate_errors(self, action: Callable[[], Epoch]) -> Epoch:
        try:
            return action()
        except (OSError, LockTimeoutError, FormatError) as error:
            msg = f"the store {self.path} cannot be used: {error}"
            raise StoreUnavailableError(msg) from error

    def _locked(self, action: Callable[[], Epoch]) -> Epoch:
        lock = os.path.join(self.path, "lock")
        open_private(lock, os.O_RDWR | os.O_CREAT, self.owner).close()
        with Mutex(lock, _BEGIN_TIMEOUT):
            return action()

    def _join_current(self) -> Epoch:
        end = time.monotonic() + _BEGIN_TIMEOUT
        while True:
            epochs = _epochs(self.path)
            if not epochs:
                return self._locked(self._begin_first)
            latest = epochs[-1]
            with lock_if_dead(self.epoch_path(latest)) as is_dead:
                if is_dead:  # and locked, so no process joins it meanwhile
                    return self._locked(functools.partial(self._begin_first, instead_of=latest))
            try:
                return Epoch(self, latest, is_server=False)
            except (BlockingIOError, FileNotFoundError):  # another process is removing it, or has removed it
                if time.monotonic() > end:
                    raise
                time.sleep(_PAUSE)

    def _begin_first(self, instead_of: int | None = None) -> Epoch:
        """Under the begin lock: remove a dead epoch; then join an epoch if there is one now, else begin one."""
        if instead_of is not None:
            remove_epoch(self.epoch_path(instead_of))
        return self._join_current() if _epochs(self.path) else self._begin(is_server=False)

    def _begin(self, *, is_server: bool) -> Epoch:
        # List epochs before removing dead ones: a number must never come back, not even in a store that was removed and
        # made anew. A process that still uses the old epoch would take the new one's files for its own.
        before = _epochs(self.path)
        number = max([1, int(1000 * self._clock()), *(number + 1 for number in before)])
        self._remove_leftovers()
        guests = [] if not is_server else [each for each in _epochs(self.path) if self._has_no_server(each)]
        temporary = os.path.join(self.path, f"new-epoch-{secrets.token_hex(8)}")
        os.mkdir(temporary, 0o700)
        # The owner may replace this directory by a link, so root makes files by descriptor, not by path.
        with _secure_directory(temporary, self.owner) as dir_fd:
            for name in ("lease", "server", "removals", "removals.lock", "fold.lock"):
                open_private(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, self.owner, dir_fd=dir_fd).close()
            create_shared(dir_fd, self.owner, self._first_generation(guests))
        lease = hold_shared("lease", Directory.at(temporary))
        known: set[int] = set()
        for guest in guests:
            self._link_slabs(guest, temporary, known, only_living=True)
        # The commit: the epoch exists, complete and alive. After a kill before it, the next begin removes the rest.
        os.rename(temporary, self.epoch_path(number))
        for guest in guests:
            self._announce(guest, number)
            # Slabs that guests made since the first pass. From now on guests make their slabs in the new epoch.
            self._link_slabs(guest, self.epoch_path(number), known, only_living=False)
        return Epoch(self, number, is_server=is_server, lease=lease)

    def _remove_leftovers(self) -> None:
        for name in os.listdir(self.path):
            path = os.path.join(self.path, name)
            with contextlib.suppress(OSError, FormatError):  # what cannot be checked is not removed
                if name.startswith("new-epoch-"):
                    shutil.rmtree(path, ignore_errors=True)
                elif _EPOCH.match(name):
                    with lock_if_dead(path) as is_dead:
                        if is_dead:
                            remove_epoch(path)

    def _has_no_server(self, number: int) -> bool:
        path = os.path.join(self.epoch_path(number), "server")
        with contextlib.suppress(OSError, FormatError), TryLock(path) as is_locked:
            return is_locked
        return False

    def _first_generation(self, guests: list[int]) -> int:
        """A generation above those of the guests' series, so that removals in the new epoch end these, too."""
        generations = [0]
        for number in guests:
            with contextlib.suppress(OSError, FormatError, StoreUnavailableError):
                generations.append(Shared(Directory.at(self.epoch_path(number))).generation + 2)
        return max(generations)

    def _link_slabs(self, number: int, target: str, known: set[int], *, only_living: bool) -> None:
        """Link the slabs of epoch ``number`` into the new epoch at ``target``, so that readers still find them.

        ``known`` holds the inode numbers of slabs handled before; those of this epoch are added.
        """
        path = self.epoch_path(number)
        slabs = []
        with contextlib.suppress(OSError):  # an unreadable directory: its guests are not taken over
            slabs = list_slabs(path)
        for slab in slabs:
            source = os.path.join(path, slab.file)
            with contextlib.suppress(OSError):  # the slab is gone
                inode = os.stat(source, follow_symlinks=False).st_ino
                if inode not in known and (not only_living or is_alive(source)):
                    _link(source, target, slab)
                known.add(inode)

    def _announce(self, number: int, successor: int) -> None:
        """Make guests join the epoch ``successor`` when they next look up a series or fork."""
        with contextlib.suppress(OSError, FormatError, StoreUnavailableError, LockTimeoutError):
            directory = Directory.at(self.epoch_path(number))
            shared = Shared(directory)
            shared.successor = successor
            with directory.open() as dir_fd, Mutex("removals.lock", 1.0, dir_fd=dir_fd):
                shared.generation += 1
