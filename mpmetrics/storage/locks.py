"""Every lock of a store, and the only module that uses a lock library.

Three kinds, all of them flock underneath, which the kernel drops with the process, in any PID namespace:

* :func:`mutex` and :class:`Lease` are filelock's locks: taken rarely, held through a whole operation or for life.
  filelock closes their descriptors in a forked child, so a lease never outlives its owner through one.
* :class:`AppendLock` is flock on a descriptor that stays open. It is on the path of a series' first use, where opening
  and closing the lock file each time, as filelock does, costs over 50 us and a flock alone half a microsecond.
* :func:`hold_shared` and :func:`probe` are shared locks, which filelock does not have: any number of processes may keep
  an epoch alive, and any number of readers may look whether a slab's owner lives, without disturbing each other.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from mpmetrics.errors import LockTimeoutError
from mpmetrics.storage.descriptor import Descriptor

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import FrameType

__all__ = ["AppendLock", "Lease", "hold_shared", "mutex", "open_private", "probe", "remove_unheld", "secure", "unheld"]

FILE_MODE = 0o600

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_PAUSING = _HERE + "retry.py"
"""Where a thread sleeps for as long as there are private values, and holds nothing."""

MOST_PATIENT = 3.0
"""Seconds that one may wait for an append lock which others take and give back all the time."""


def mutex(path: str, timeout: float) -> AbstractContextManager[object]:
    """An exclusive lock on ``path``, to be used in a ``with``; waits at most ``timeout`` seconds.

    Raises :class:`LockTimeoutError` when someone else holds it for longer.
    """
    return _Mutex(path, timeout)


def _check_directory(path: str) -> None:
    """FileNotFoundError unless the directory of ``path`` is there: filelock would bring back one that was deleted."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise FileNotFoundError(errno.ENOENT, "the directory is gone", directory)


class _Mutex:
    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._lock = FileLock(path, mode=FILE_MODE, thread_local=False, fallback_to_soft=False, poll_interval=0.005)

    def __enter__(self) -> None:
        _check_directory(self._path)
        try:
            self._lock.acquire(timeout=self._timeout)
        except Timeout as error:
            msg = f"{self._path} is held by another process for more than {self._timeout} s; is one stopped?"
            raise LockTimeoutError(msg) from error

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Lease:
    """An exclusive flock on a new file, for the life of the process; the kernel drops it with the process.

    ``path`` is created with mode 0600. The lock belongs to the open file, so renaming the file keeps it.
    """

    def __init__(self, path: str) -> None:
        _check_directory(path)
        self._descriptor = -1
        self._lock = FileLock(
            path,
            mode=FILE_MODE,
            thread_local=False,
            fallback_to_soft=False,
            on_acquired=self._take,
            preserve_lock_file=True,
        )
        self._lock.acquire(timeout=1.0)

    def _take(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor of the locked file; it is closed by :meth:`release`, and by filelock in a forked child."""
        return self._descriptor

    def release(self) -> None:
        """Give the lease up; the file becomes a dead process's."""
        self._lock.release(force=True)


class AppendLock:
    """The append lock of a series directory: between the threads of a process, and between processes.

    ``acquire`` waits a bounded time for both and answers whether it has them. A thread that holds the lock and asks
    again (from a signal handler or a finaliser that interrupted it) is refused at once.

    ``progress`` is a number that changes while others use the lock. As long as it does, the wait goes on, up to
    ``MOST_PATIENT``: there are many in front. When it does not, the holder is stopped: then nobody waits for a while,
    or one request after the other would wait for it.
    """

    def __init__(self, path: str, progress: Callable[[], int], owner: tuple[int, int] | None = None) -> None:
        self._path = path
        self._progress = progress
        self._owner = owner
        self._descriptor = Descriptor(-1)
        self._threads = threading.Lock()
        self._mending = threading.Lock()
        self._holder = 0
        self._hopeless_until = 0.0

    def acquire(self, timeout: float) -> bool:
        """Take the lock within ``timeout`` seconds; OSError when its file cannot be opened."""
        me = threading.get_ident()
        if time.monotonic() < self._hopeless_until:
            timeout = 0.0
        if self._holder == me:
            return False
        threads = self._threads
        if not threads.acquire(timeout=timeout):
            self._hopeless_until = time.monotonic() + 1.0
            self._mend(threads)
            return False
        self._holder = me
        taken = False
        try:
            taken = self._flock(timeout)
        finally:
            if not taken:
                self._holder = 0
                threads.release()
        return taken

    def _mend(self, threads: threading.Lock) -> None:
        """Begin anew when ``threads``, which was not to be had, was abandoned.

        An exception that a signal handler raises between taking a lock and the ``try`` leaves it taken. Then there is
        nobody in the code that uses it; whoever takes it or gives it back at this moment is.
        """
        # Only one may begin anew: a second one would take the new lock from who has it by now.
        mending = self._mending
        if mending.acquire(blocking=False):
            try:
                if self._threads is threads and not _others_are_here():
                    self.forget()
            finally:
                mending.release()

    def _flock(self, timeout: float) -> bool:
        if self._descriptor.fileno() < 0:
            self._descriptor = Descriptor(open_private(self._path, os.O_RDWR | os.O_CREAT, self._owner))
        start = time.monotonic()
        deadline, seen = start + timeout, self._progress()
        while True:
            try:
                fcntl.flock(self._descriptor.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._progress() != seen and timeout:
                    seen = self._progress()
                    deadline = min(time.monotonic() + timeout, start + MOST_PATIENT)
                if time.monotonic() >= deadline:
                    self._hopeless_until = time.monotonic() + 1.0
                    return False
                # The lock is held for some 10 us at a time: sleeping longer only loses one's turn to others.
                time.sleep(0.0001)
            else:
                return True

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor.fileno() >= 0:
            fcntl.flock(self._descriptor.fileno(), fcntl.LOCK_UN)
        self._holder = 0
        self._threads.release()

    def forget(self) -> None:
        """Begin anew, with a lock of our own: in a forked child, where an unlock would unlock the parent's, too."""
        self._descriptor.close()
        self._threads = threading.Lock()
        self._mending = threading.Lock()
        self._holder = 0

    def close(self) -> None:
        """Close the lock's file."""
        self._descriptor.close()


def _others_are_here() -> bool:
    """Whether another thread, or what the calling one interrupted, is in code that may have an append lock."""
    for thread, top in sys._current_frames().items():  # noqa: SLF001 (documented, for just such a look)
        frame: FrameType | None = top
        if thread == threading.get_ident():
            while frame is not None and _may_lock(frame):
                frame = frame.f_back
        while frame is not None:
            if _may_lock(frame):
                return True
            frame = frame.f_back
    return False


def _may_lock(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return name.startswith(_HERE) and name != _PAUSING


def open_private(path: str, flags: int, owner: tuple[int, int] | None) -> int:
    """Open ``path``, never through a symbolic link; a file that this creates has mode 0600 and belongs to ``owner``."""
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    create = flags & os.O_CREAT
    try:
        # Exclusively: what is made our owner's has to be what we made.
        descriptor = os.open(path, flags | (os.O_EXCL if create else 0), FILE_MODE)
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        return os.open(path, flags & ~os.O_CREAT)
    if create:
        secure(descriptor, FILE_MODE, owner)
    return descriptor


def secure(descriptor: int, mode: int, owner: tuple[int, int] | None) -> None:
    """Give a file of ours its mode, whatever the umask was, and its owner where a privileged process made it."""
    os.fchmod(descriptor, mode)
    if owner is not None and (os.geteuid(), os.getegid()) != owner and os.geteuid() == 0:
        os.fchown(descriptor, *owner)


def hold_shared(path: str) -> Descriptor:
    """Open ``path`` and hold a shared lock on it until the descriptor is closed, forked children included."""
    descriptor = Descriptor(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK))
    fcntl.flock(descriptor.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    return descriptor


def unheld(path: str) -> bool:
    """Whether nobody holds a lock on ``path``; a file that is not there is held by nobody."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def remove_unheld(path: str) -> bool:
    """Remove the file ``path`` unless someone holds a lock on it, keeping others from taking one meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def probe(descriptor: int) -> bool:
    """Whether the owner of an open slab lives, that is, holds its lease."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False
