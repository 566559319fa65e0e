"""The append lock, and shared locks; those that one process has alone for longer are in ``exclusive.py``.

All of a store's locks are flock underneath, which the kernel drops with the process, in any PID namespace.

* :class:`AppendLock` is flock on a descriptor that stays open. It is on the path of a series' first use, where a flock
  takes half a microsecond, and opening and closing the lock file each time many times that.
* :func:`hold_shared` and :func:`probe` are shared locks, which filelock does not have: any number of processes may keep
  an epoch alive, and any number of readers may look whether a slab's owner lives, without disturbing each other.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from mpmetrics.errors import StoreUnavailableError
from mpmetrics.storage.descriptor import Descriptor, open_private

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["AppendLock", "hold_shared", "probe", "remove_unheld", "unheld"]

MOST_PATIENT = 3.0
"""Seconds that one may wait for an append lock which others take and give back all the time."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.0001, 0.01
"""Seconds between two looks at an append lock that another process has."""


class AppendLock:
    """The append lock of a series directory: between the threads of a process, and between processes.

    ``acquire`` waits a bounded time for both and answers whether it has them. A thread that holds the lock, or is about
    to, and asks again (from a signal handler or a finaliser that interrupted it) is refused at once.

    ``progress`` is a number that changes while others use the lock. As long as it does, the wait goes on, up to
    ``MOST_PATIENT``: there are many in front. When it does not, the holder is stopped: then nobody waits for a while,
    or one request after the other would wait for it.

    An exception that a signal handler raises may leave the lock taken: in ``acquire``, before the caller's ``try``, or
    at the very start of ``release``. Whoever let such an exception through calls :meth:`settle`; where nobody does,
    the next to ask finds that the code which took the lock is not running any more, and takes it back.
    """

    def __init__(self, path: str, progress: Callable[[], int], owner: tuple[int, int] | None = None) -> None:
        self._path = path
        self._progress = progress
        self._owner = owner
        self._descriptor = Descriptor(-1)
        # Re-entrant only because it knows its owner from the moment it is taken, whatever interrupts that.
        self._threads: Any = threading.RLock()
        self._user: FrameType | None = None
        self._is_waiting = False
        self._hopeless_until = 0.0

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread has the lock, or is about to."""
        return bool(self._threads._is_owned())  # noqa: SLF001 (Condition's way to ask, which other locks have too)

    def check(self, error: BaseException | None = None) -> None:
        """StoreUnavailableError in a child that a signal handler forked amid the use of the lock, and that goes on.

        What it goes on with is the parent's; ``error`` is what came of that.
        """
        if not self.is_mine:
            msg = f"{self._path} is the parent's: this process was forked while it used it"
            raise StoreUnavailableError(msg) from error

    def acquire(self, timeout: float) -> bool:
        """Take the lock within ``timeout`` seconds, for the caller's caller; OSError when its file cannot be opened."""
        user = sys._getframe(2)  # noqa: SLF001 (documented; what else tells whether the holder still runs?)
        if time.monotonic() < self._hopeless_until:
            timeout = 0.0
        if self.is_mine:
            # A greenlet that waits for the other lock is of this thread, too, and is not in its stack.
            if self._is_waiting or not self._is_abandoned(user):
                return False
            self.release()
        taken, threads, holder = False, self._threads, self._user
        try:
            if threads.acquire(timeout=timeout):
                self._user = user
                taken = self._flock(timeout)
            else:
                self._hopeless_until = time.monotonic() + 1.0
                # Only the one that had it through the whole wait can have abandoned it.
                if timeout and (self._threads, self._user) == (threads, holder):
                    self._mend()
        finally:
            if not taken:
                self.release()
        return taken and self.is_mine  # else we are in a forked child, whose lock is another one

    def _mend(self) -> None:
        """Begin anew when the thread that has the lock is not in the code that uses it any more."""
        me = threading.get_ident()
        others = [frame for thread, frame in sys._current_frames().items() if thread != me]  # noqa: SLF001 (as above)
        # A greenlet has no frames to look at, but it only gives way where it waits.
        if not self._is_waiting and all(map(self._is_abandoned, others)):
            self.forget()

    def _is_abandoned(self, frame: FrameType | None) -> bool:
        """Whether neither the code that took the lock nor that which takes it or gives it back is in this stack."""
        while frame is not None:
            if frame is self._user or frame.f_code.co_filename == __file__:
                return False
            frame = frame.f_back
        return True

    def _flock(self, timeout: float) -> bool:
        if self._descriptor.fileno() < 0:
            self._descriptor = Descriptor(open_private(self._path, os.O_RDWR | os.O_CREAT, self._owner))
        descriptor = self._descriptor
        start = time.monotonic()
        deadline, seen = start + timeout, self._progress()
        pause = SHORTEST_PAUSE
        self._is_waiting = True
        try:
            while descriptor.fileno() >= 0:
                try:
                    fcntl.flock(descriptor.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if self._progress() != seen and timeout:
                        seen = self._progress()
                        deadline = min(time.monotonic() + timeout, start + MOST_PATIENT)
                    if time.monotonic() >= deadline:
                        self._hopeless_until = time.monotonic() + 1.0
                        return False
                    # The lock is held for some 10 us at a time, so sleeping long loses one's turn to others. But where
                    # many wait, those that look all the time keep the one that has it from the processor.
                    time.sleep(pause)
                    pause = min(1.2 * pause, LONGEST_PAUSE)
                else:
                    if os.fstat(descriptor.fileno()).st_nlink or not self._open_anew():
                        return True
                    descriptor = self._descriptor
            return False  # closed by a fork, or by a signal handler
        finally:
            self._is_waiting = False

    def _open_anew(self) -> bool:
        """Open the file by its name: ours was removed, and who came since has another one. False: there is no place."""
        try:
            self._descriptor = Descriptor(open_private(self._path, os.O_RDWR | os.O_CREAT, self._owner))
        except FileNotFoundError:  # the whole directory is gone, and nobody comes any more
            return False
        return True

    def release(self, error: BaseException | None = None) -> None:
        """Give the lock back, if the calling thread has it: a child that was forked within does not.

        ``error`` is what ended its use: in such a child :meth:`check` raises in its place.
        """
        threads = self._threads
        if not threads._is_owned():  # noqa: SLF001 (as in is_mine)
            if isinstance(error, Exception):
                self.check(error)
            return
        self._user = None
        try:
            if self._descriptor.fileno() >= 0:
                fcntl.flock(self._descriptor.fileno(), fcntl.LOCK_UN)
        except (OSError, ValueError):  # or a signal handler closed it
            self._descriptor.close()  # which gives it back whatever was wrong
        # Last: for as long as the threads' lock is ours, an exception that comes in between can be made good.
        if threads._is_owned():  # noqa: SLF001 (else a signal handler forked, and this is the child)
            threads.release()

    def settle(self, user: FrameType | None = None) -> None:
        """Give the lock back if an exception left it taken by this thread, or if ``user`` took it, who gives up."""
        if self.is_mine:
            caller = sys._getframe(1)  # noqa: SLF001 (as above)
            if self._is_abandoned(caller) or (user is not None and user is self._user):
                self.release()

    def forget(self) -> None:
        """Begin anew, with a lock of our own: in a forked child, where an unlock would unlock the parent's, too."""
        self._descriptor.close()
        self._threads = threading.RLock()
        self._user = None
        self._is_waiting = False

    def close(self) -> None:
        """Close the lock's file."""
        self._descriptor.close()


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
