"""Exclusive locks on files, held through one operation (:func:`mutex`) or for the life of a process (:class:`Lease`).

Both are a flock on a descriptor of their own, taken by filelock's functions for descriptors. Its classes are not used:
they guard their bookkeeping with one lock for the whole process, and an exception out of a signal handler that comes
at the wrong moment leaves that locked for good, and with it every other lock and every fork.

A flock belongs to the open file, which a forked child shares: a child that kept its parent's would keep a dead process
alive, or a folder out. So each forked child lets go of what its parent had locked, also of a file that another thread
was just about to open.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from filelock import lock_descriptor, unlock_descriptor

from mpmetrics.errors import LockTimeoutError
from mpmetrics.storage import fork
from mpmetrics.storage.descriptor import Descriptor, open_private

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["Lease", "mutex"]

_PAUSE = 0.005
"""Seconds between two looks at a lock that somebody else has."""

_LEASE_TIMEOUT = 1.0
"""Seconds for a new file, which only who removes leftovers may have locked for a moment."""


class _Lock:
    """An exclusive flock on the file ``path``, made with mode 0600 where it is not there; its directory is not made.

    A mutex has it through a ``with``, a lease from the start.
    """

    _is_opening = False
    _descriptor = Descriptor(-1)

    def __init__(self, path: str, owner: tuple[int, int] | None = None) -> None:
        self._path = path
        self._owner = owner
        self._pid = os.getpid()
        fork.register(self)

    def take(self, timeout: float) -> None:
        """Lock it within ``timeout`` seconds; LockTimeoutError when somebody else has it for longer, else OSError.

        Whatever it raises, the caller releases: an exception out of a signal handler may come when it is locked.
        """
        end = time.monotonic() + timeout
        try:
            while not self._try():
                if time.monotonic() >= end:
                    msg = f"{self._path} is held by another process for more than {timeout} s; is one stopped?"
                    raise LockTimeoutError(msg)
                time.sleep(_PAUSE)
            self._check()
        except (OSError, ValueError) as error:
            self._check(error)
            raise

    def _check(self, error: Exception | None = None) -> None:
        """LockTimeoutError in a child that a signal handler forked, and that goes on with what is the parent's."""
        if os.getpid() != self._pid:
            msg = f"{self._path} is the parent's to lock: this process was forked while it did"
            raise LockTimeoutError(msg) from error

    def _try(self) -> bool:
        self._is_opening = True
        self._descriptor = Descriptor(open_private(self._path, os.O_RDWR | os.O_CREAT, self._owner))
        self._is_opening = False
        descriptor = self._descriptor.fileno()
        # A file without a name was removed between the two calls: whoever comes next makes another one.
        if lock_descriptor(descriptor, blocking=False) and os.fstat(descriptor).st_nlink:
            return True
        self.release()
        return False

    def fileno(self) -> int:
        """The descriptor of the locked file; -1 when it is not locked, and in a forked child."""
        return self._descriptor.fileno()

    def release(self) -> None:
        """Unlock it; again does nothing."""
        try:
            self._release()
        except BaseException:  # out of a signal handler, which somebody may keep, and with it us
            self._release()
            raise

    def _release(self) -> None:
        descriptor = self._descriptor.fileno()
        if descriptor >= 0:
            # Not by closing alone: a process that is being started has the same open file until it executes.
            with contextlib.suppress(OSError):
                unlock_descriptor(descriptor)
            self._descriptor.close()

    def __del__(self) -> None:
        self.release()

    def after_fork_in_child(self) -> None:
        """Let go without unlocking, which would unlock the parent's."""
        self._descriptor.close()
        if self._is_opening:
            with contextlib.suppress(OSError):
                _blind(self._path)


def _blind(path: str) -> None:
    """In a forked child: have whatever descriptors lead to ``path`` lead nowhere.

    They stay open: who was interrupted while opening one, and goes on here, closes it.
    """
    status = os.stat(path)
    nowhere = Descriptor(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing is closed by now
            if os.path.samestat(os.fstat(int(name)), status):
                os.dup2(nowhere.fileno(), int(name), inheritable=False)


def mutex(path: str, timeout: float) -> AbstractContextManager[object]:
    """An exclusive lock on ``path``, to be used in a ``with``; waits at most ``timeout`` seconds.

    Raises :class:`LockTimeoutError` when someone else holds it for longer.
    """
    return _Mutex(path, timeout)


class _Mutex(_Lock):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__(path)
        self._timeout = timeout

    def __enter__(self) -> None:
        try:
            self.take(self._timeout)
        except BaseException:
            self.release()
            raise

    def __exit__(self, *_: object) -> None:
        self.release()


class Lease(_Lock):
    """An exclusive flock on a new file, for the life of the process; the kernel drops it with the process.

    ``path`` is created with mode 0600, and belongs to ``owner`` where a privileged process creates it for others. The
    lock belongs to the open file, so renaming the file keeps it. Raises OSError when the file cannot be made, and
    :class:`LockTimeoutError` when it cannot be locked.
    """

    def __init__(self, path: str, owner: tuple[int, int] | None = None) -> None:
        super().__init__(path, owner)
        try:
            self.take(_LEASE_TIMEOUT)
        except BaseException:
            self.release()
            raise
