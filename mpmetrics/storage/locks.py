"""Locks on files: for one operation (:class:`Mutex`), for a process's life, or shared by all processes of an epoch.

All are flocks. An flock belongs to the open file, which a map keeps open without a descriptor; so a map holds each lock
that lives longer than an operation. A forked child shares the open file. A slab's lease must end with its process even
if a child lives on, so children do not inherit its map; an epoch must live as long as any of its processes, so
children inherit the map of the epoch's lease.

filelock's functions for descriptors take the exclusive locks. Its classes were rejected: one process-wide lock guards
their bookkeeping. An exception from a signal handler at the wrong moment leaves it locked for ever, and with it every
other lock and every fork.
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

__all__ = ["DirectoryMutex", "Mutex", "Shield", "TryLock", "hold_shared", "is_held"]

_PAUSE = 0.005
"""Seconds between attempts to take a lock that another process holds."""


def hold_shared(name: str, directory: Directory) -> Map:
    """Hold a shared lock on a file in ``directory`` while the returned map lives, here or in a forked child.

    BlockingIOError when another process holds the lock exclusively, FileNotFoundError when the file is missing or was
    unlinked, OSError for other failures.
    """
    with directory.open() as dir_fd, open_regular(name, dir_fd=dir_fd) as descriptor:
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
    """A shared lock on the directory ``path``, which keeps systemd-tmpfiles from cleaning it up.

    systemd-tmpfiles skips locked directories and their contents (https://systemd.io/TEMPORARY_DIRECTORIES/). A
    directory cannot be mapped, so this lock needs a descriptor, and code that closes all descriptors ends it. OSError
    when another process has locked the directory exclusively.
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
        """Release the lock. If the application has reused the descriptor's number, its file stays open."""
        descriptor, self._descriptor = self._descriptor, -1
        with contextlib.suppress(OSError):
            if descriptor >= 0 and os.path.samestat(os.fstat(descriptor), self._status):
                os.close(descriptor)


class TryLock:
    """An exclusive lock on an existing file, for a ``with``; yields whether the lock was free. Never waits.

    A missing file counts as free. A process that gets the lock of an epoch's lease unlinks the file before it releases
    the lock, so no process joins the dead epoch.
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
    """An exclusive lock on the file ``path``, for a ``with``; waits at most ``timeout`` seconds.

    Creates a missing file with mode 0600, but no directory. Raises :class:`LockTimeoutError` when another process holds
    the lock for longer, OSError for other failures.
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
                    msg = f"another process has held {self._path} for more than {self._timeout} s; is one stopped?"
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
        """LockTimeoutError in a child that a signal handler forked during our call: the lock is its parent's."""
        if os.getpid() != self._pid:
            msg = f"{self._path}: the parent of this process was locking it at the fork; only the parent holds the lock"
            raise LockTimeoutError(msg) from error

    def _try(self) -> bool:
        self._is_opening = True
        self._descriptor = self._open()
        self._is_opening = False
        descriptor = self._descriptor.fileno()
        # Without a link the file was removed after we opened it: then we try again with a new file.
        if lock_descriptor(descriptor, blocking=False) and os.fstat(descriptor).st_nlink:
            return True
        self._release()
        return False

    def _open(self) -> Descriptor:
        return open_private(self._path, os.O_RDWR | os.O_CREAT, None, dir_fd=self._dir_fd)

    def _release(self) -> None:
        try:
            self._unlock()
        except BaseException:  # from a signal handler; a kept traceback would keep this object, and so the lock
            self._unlock()
            raise

    def _unlock(self) -> None:
        descriptor = self._descriptor.fileno()
        if descriptor >= 0:
            # Closing is not enough: a child process shares the open file until it executes its program.
            with contextlib.suppress(OSError):
                unlock_descriptor(descriptor)
            self._descriptor.close()

    def __del__(self) -> None:
        self._release()

    def after_fork_in_child(self) -> None:
        """Close the descriptor without unlocking, which would release the parent's lock."""
        self._descriptor.close()
        if self._is_opening:
            with contextlib.suppress(OSError):
                fork.blind(self._path, self._dir_fd)


class DirectoryMutex(Mutex):
    """A :class:`Mutex` on an existing directory."""

    def _open(self) -> Descriptor:
        return open_directory(self._path, dir_fd=self._dir_fd)
