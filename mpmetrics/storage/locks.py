"""Locks on files: held through one operation (:class:`Mutex`), for life, or shared by all processes of an epoch.

All are flocks. One belongs to the open file, and a map keeps that open without a descriptor, so what is held for life
is held by a map. A forked child shares the open file. A lease is to end with its process although a child lives on, so
a child does not get that map; an epoch is to live as long as any process of it, so a child does get that one.

Exclusive locks are taken by filelock's functions for descriptors. Its classes are not used: they guard their
bookkeeping with one lock for the whole process, and an exception out of a signal handler that comes at the wrong moment
leaves that locked for good, and with it every other lock and every fork.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

from filelock import lock_descriptor, unlock_descriptor

from mpmetrics import fork
from mpmetrics._cells import Map
from mpmetrics.errors import LockTimeoutError
from mpmetrics.storage import format as fmt
from mpmetrics.storage.descriptor import Descriptor, open_directory, open_private, open_regular

if TYPE_CHECKING:
    from mpmetrics.storage.descriptor import Directory

__all__ = ["DirectoryMutex", "Mutex", "Shield", "Sole", "hold", "is_held"]

_PAUSE = 0.005
"""Seconds between two looks at a lock that another process has."""


def hold(name: str, directory: Directory) -> Map:
    """Share the lock of a file in ``directory`` for as long as the returned map lives, here or in a forked child.

    BlockingIOError when another process holds it exclusively, FileNotFoundError when it has no name, else OSError.
    """
    with directory.open() as folder, open_regular(name, dir_fd=folder) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        held = Map(descriptor, fmt.PAGE)
        if not os.fstat(descriptor).st_nlink:
            raise FileNotFoundError(name)
    return held


def is_held(descriptor: int) -> bool:
    """Whether a process holds an exclusive lock on the open file; for a slab, whether its owner lives."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


class Shield:
    """A shared lock on the directory ``path``; OSError when somebody has it alone.

    systemd-tmpfiles passes over directories that are locked, with all that is in them
    (https://systemd.io/TEMPORARY_DIRECTORIES/). A directory cannot be mapped, so this one needs its descriptor, and is
    gone where all descriptors are closed.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._status = os.fstat(self._descriptor)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BaseException:
            os.close(self._descriptor)
            raise

    def close(self) -> None:
        """Let go of it; a descriptor that is somebody else's by now is left alone."""
        descriptor, self._descriptor = self._descriptor, -1
        with contextlib.suppress(OSError):
            if descriptor >= 0 and os.path.samestat(os.fstat(descriptor), self._status):
                os.close(descriptor)


class Sole:
    """An exclusive lock on an existing file for the length of a ``with``, which says whether it was free.

    A missing file counts as free. A process that gets an epoch's lease this way unlinks the file before it releases the
    lock, so no other process can join the epoch that it takes for dead.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = Descriptor(-1)

    def __enter__(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            self._descriptor = open_regular(self._path)
            if not lock_descriptor(self._descriptor.fileno(), blocking=False):
                self._descriptor.close()
                return False
        return True

    def __exit__(self, *_: object) -> None:
        self._descriptor.close()


class Mutex:
    """An exclusive lock on the file ``path``, to be used in a ``with``; waits at most ``timeout`` seconds.

    The file is made with mode 0600 where it is not there; its directory is not made. Raises :class:`LockTimeoutError`
    when another process holds it for longer, else OSError.
    """

    _is_opening = False

    def __init__(self, path: str, timeout: float, *, dir_fd: int | None = None) -> None:
        self._path = path
        self._timeout = timeout
        self._dir_fd = dir_fd
        self._descriptor = Descriptor(-1)
        self._pid = os.getpid()
        fork.register(self)

    def __enter__(self) -> None:
        end = time.monotonic() + self._timeout
        try:
            while not self._try():
                if time.monotonic() >= end:
                    msg = f"{self._path} is held by another process for more than {self._timeout} s; is one stopped?"
                    raise LockTimeoutError(msg)
                time.sleep(_PAUSE)
            self._check()
        except BaseException as error:
            self._release()
            if isinstance(error, OSError | ValueError):
                self._check(error)
            raise

    def __exit__(self, *_: object) -> None:
        self._release()

    def _check(self, error: Exception | None = None) -> None:
        """LockTimeoutError in a child that a signal handler forked, and that goes on with what is the parent's."""
        if os.getpid() != self._pid:
            msg = f"{self._path} is the parent's to lock: this process was forked while it did"
            raise LockTimeoutError(msg) from error

    def _try(self) -> bool:
        self._is_opening = True
        self._descriptor = self._open()
        self._is_opening = False
        descriptor = self._descriptor.fileno()
        # A file without a name was removed between the two calls: whoever comes next makes another one.
        if lock_descriptor(descriptor, blocking=False) and os.fstat(descriptor).st_nlink:
            return True
        self._release()
        return False

    def _open(self) -> Descriptor:
        return open_private(self._path, os.O_RDWR | os.O_CREAT, None, dir_fd=self._dir_fd)

    def _release(self) -> None:
        try:
            self._unlock()
        except BaseException:  # out of a signal handler, which somebody may keep, and with it us
            self._unlock()
            raise

    def _unlock(self) -> None:
        descriptor = self._descriptor.fileno()
        if descriptor >= 0:
            # Not by closing alone: a process that is being started has the same open file until it executes.
            with contextlib.suppress(OSError):
                unlock_descriptor(descriptor)
            self._descriptor.close()

    def __del__(self) -> None:
        self._release()

    def after_fork_in_child(self) -> None:
        """Let go without unlocking, which would unlock the parent's."""
        self._descriptor.close()
        if self._is_opening:
            with contextlib.suppress(OSError):
                fork.blind(self._path, self._dir_fd)


class DirectoryMutex(Mutex):
    """A :class:`Mutex` on a directory, which has to exist."""

    def _open(self) -> Descriptor:
        return open_directory(self._path, dir_fd=self._dir_fd)
