"""Stores: where they live, and how an epoch of one begins, is joined and is cleaned up.

A store is a directory. A server begins an epoch in it; processes that merely find the store, its *guests*, join the
current one if it lives, and else begin one. Every process of an epoch holds a shared lock on its ``lease`` file, forked
children included, for as long as any of them lives: an epoch whose lease nobody holds is dead, and the next one to
begin in that store removes it, the lease first. An epoch that lost its lease lives while the owner of a slab does.

A guest may outlive its server. A server that begins takes over the guests of living epochs that have no server: it
links their slabs into its own epoch, and names itself in their shared page, so that they move over when they look.
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
from mpmetrics.storage.epoch import Epoch, alone, remove_epoch
from mpmetrics.storage.locks import Mutex, Sole, hold
from mpmetrics.storage.shared import Shared, create_shared
from mpmetrics.storage.slab import SlabName, is_alive, list_slabs, slab_name

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Store", "remove_if_dead"]

_EPOCH = re.compile(r"epoch-(\d{1,18})\Z")
_BEGIN_TIMEOUT = 5.0
_PAUSE = 0.002
"""Seconds between two looks at an epoch that another process is just removing."""

_GRACE = 60.0
"""Seconds for which a store without an epoch may be one that a server is about to begin."""


def remove_if_dead(path: str, grace: float = _GRACE) -> bool:
    """Remove the store at ``path`` when nobody is left in it; whether it is gone. Keeps others out meanwhile.

    One without any epoch stays for ``grace`` seconds, for a server that may be about to begin one.
    """
    lock = os.path.join(path, "lock")
    # Where it cannot be done, someone else begins or cleans it at this moment.
    with contextlib.suppress(OSError, LockTimeoutError, FormatError), contextlib.ExitStack() as stack:
        if os.path.exists(lock):
            stack.enter_context(Mutex(lock, 0.0))
        epochs = [os.path.join(path, f"epoch-{number}") for number in _epochs(path)]
        if not epochs and time.time() - os.stat(path).st_mtime < grace:
            return False
        if not all(stack.enter_context(alone(epoch)) for epoch in epochs):
            return False
        for epoch in epochs:
            remove_epoch(epoch)
        shutil.rmtree(path)
        return True
    return False


def _epochs(path: str) -> list[int]:
    return sorted(int(match[1]) for match in map(_EPOCH.match, os.listdir(path)) if match)


def _secure_directory(path: str, owner: tuple[int, int] | None) -> Descriptor:
    """Give a directory that we made its mode and owner, and open it; a umask may have left us no right even to that."""
    handle = Descriptor(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW))
    os.chmod(f"/proc/self/fd/{handle.fileno()}", 0o700)
    descriptor = open_directory(path)
    secure(descriptor.fileno(), 0o700, owner)
    return descriptor


def _link(source: str, target: str, slab: SlabName) -> None:
    """Link a slab to its name in ``target``; where that is another guest's, to one of a higher ordinal."""
    ordinals = itertools.count(slab.ordinal or 0)
    for name in (slab.file,) if slab.identity or slab.is_set_aside else map(slab_name, ordinals):
        with contextlib.suppress(FileExistsError):
            os.link(source, os.path.join(target, name), follow_symlinks=False)
            return


class Store:
    """The store in ``directory``, which is created, with mode 0700, when it is not there.

    ``owner`` (uid, gid) is who the store belongs to when a privileged process creates it for others; by default the
    user who creates it. ``clock`` tells the seconds since 1970, by which epochs are numbered. Raises
    :class:`~mpmetrics.errors.StoreUnavailableError` when the directory cannot be created, is no directory, belongs to
    someone else, or can be written by others.
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
            with contextlib.suppress(OSError):  # someone is in it already: so be it
                os.rmdir(self.path)
            raise

    def begin(self) -> Epoch:
        """Begin a new epoch as its server, and remove dead ones. StoreUnavailableError when that cannot be done."""
        return self._guarded(lambda: self._locked(lambda: self._begin(is_server=True)))

    def join(self, number: int | None = None, *, is_server: bool = False) -> Epoch:
        """Join epoch ``number``, with ``is_server`` as its next master; or by default the current one, if it lives.

        Else a new one begins. Nobody who joins a living epoch waits for another process. StoreUnavailableError when it
        cannot be done, and when there is no epoch of that number.
        """
        if number is None:
            return self._guarded(self._join_current)
        return self._guarded(lambda: Epoch(self, number, is_server=is_server))

    def current(self) -> str | None:
        """Directory of the current epoch, for a reader that takes no part in it; None when there is none."""
        epochs = _epochs(self.path)
        return self.epoch_path(epochs[-1]) if epochs else None

    def epoch_path(self, number: int) -> str:
        """Directory of epoch ``number``."""
        return os.path.join(self.path, f"epoch-{number}")

    def _guarded(self, action: Callable[[], Epoch]) -> Epoch:
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
            with alone(self.epoch_path(latest)) as is_dead:
                if is_dead:  # and nobody can join it meanwhile
                    return self._locked(functools.partial(self._begin_first, instead_of=latest))
            try:
                return Epoch(self, latest, is_server=False)
            except (BlockingIOError, FileNotFoundError):  # somebody is just removing it, or has
                if time.monotonic() > end:
                    raise
                time.sleep(_PAUSE)

    def _begin_first(self, instead_of: int | None = None) -> Epoch:
        """Under the begin lock: remove a dead epoch, and begin one unless somebody has."""
        if instead_of is not None:
            remove_epoch(self.epoch_path(instead_of))
        return self._join_current() if _epochs(self.path) else self._begin(is_server=False)

    def _begin(self, *, is_server: bool) -> Epoch:
        # Looked for before the dead go. A number never comes back, not even in a store that was removed and made anew:
        # a process that still has the old one open would take the new one's files for its own.
        before = _epochs(self.path)
        number = max([1, int(1000 * self._clock()), *(number + 1 for number in before)])
        self._remove_leftovers()
        guests = [] if not is_server else [each for each in _epochs(self.path) if self._has_no_server(each)]
        temporary = os.path.join(self.path, f"new-epoch-{secrets.token_hex(8)}")
        os.mkdir(temporary, 0o700)
        # From here on it is its owner's, who may put a link in its place: root makes no file by its path.
        with _secure_directory(temporary, self.owner) as folder:
            for name in ("lease", "server", "removals", "removals.lock", "fold.lock"):
                open_private(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, self.owner, dir_fd=folder).close()
            create_shared(folder, self.owner, self._first_generation(guests))
        lease = hold("lease", Directory.at(temporary))
        known: set[int] = set()
        for guest in guests:
            self._link_slabs(guest, temporary, known, only_living=True)
        # The commit: the epoch is there, whole and alive; a kill before leaves a directory that the next one removes.
        os.rename(temporary, self.epoch_path(number))
        for guest in guests:
            self._announce(guest, number)
            # Those that were made meanwhile, though their owners may have moved over: later ones are made here.
            self._link_slabs(guest, self.epoch_path(number), known, only_living=False)
        return Epoch(self, number, is_server=is_server, lease=lease)

    def _remove_leftovers(self) -> None:
        for name in os.listdir(self.path):
            path = os.path.join(self.path, name)
            with contextlib.suppress(OSError, FormatError):  # what cannot be looked at is not ours to remove
                if name.startswith("new-epoch-"):
                    shutil.rmtree(path, ignore_errors=True)
                elif _EPOCH.match(name):
                    with alone(path) as is_dead:
                        if is_dead:
                            remove_epoch(path)

    def _has_no_server(self, number: int) -> bool:
        with contextlib.suppress(OSError, FormatError), Sole(os.path.join(self.epoch_path(number), "server")) as had:
            return had
        return False

    def _first_generation(self, guests: list[int]) -> int:
        """One that no series of the guests has: so a removal in the new epoch ends theirs, too."""
        generations = [0]
        for number in guests:
            with contextlib.suppress(OSError, FormatError, StoreUnavailableError):
                generations.append(Shared(Directory.at(self.epoch_path(number))).generation + 2)
        return max(generations)

    def _link_slabs(self, number: int, target: str, known: set[int], *, only_living: bool) -> None:
        """Have the slabs of guests in the new epoch at ``target``, too: what they count goes on to be read.

        ``known`` are the numbers of the files that were looked at before; those of this epoch are added.
        """
        path = self.epoch_path(number)
        slabs = []
        with contextlib.suppress(OSError):  # a directory that nobody may look at: its guests are on their own
            slabs = list_slabs(path)
        for slab in slabs:
            source = os.path.join(path, slab.file)
            with contextlib.suppress(OSError):  # it has gone
                inode = os.stat(source, follow_symlinks=False).st_ino
                if inode not in known and (not only_living or is_alive(source)):
                    _link(source, target, slab)
                known.add(inode)

    def _announce(self, number: int, successor: int) -> None:
        """Have guests move to the epoch ``successor`` when they look a series up, or fork."""
        with contextlib.suppress(OSError, FormatError, StoreUnavailableError, LockTimeoutError):
            directory = Directory.at(self.epoch_path(number))
            shared = Shared(directory)
            shared.successor = successor
            with directory.open() as folder, Mutex("removals.lock", 1.0, dir_fd=folder):
                shared.generation += 1
