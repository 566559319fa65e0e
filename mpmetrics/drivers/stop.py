"""Stop: a flag that ends a driver's wait, and that a signal handler may set."""

from __future__ import annotations

import contextlib
import threading

__all__ = ["Stop"]


class Stop:
    """Any thread or signal handler sets it, once; one thread waits for it.

    Not a ``threading.Event``: if a signal handler interrupts the waiting thread while it holds the event's lock, and
    sets the event, it waits for that lock without end.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def is_set(self) -> bool:
        """True once it was set."""
        return self._is_set

    def set(self) -> None:
        """Set it, which wakes the waiting thread."""
        self._is_set = True
        self._open()

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds`` until it is set; True if it is."""
        if not self._is_set and self._lock.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            self._open()
        return self._is_set

    def _open(self) -> None:
        with contextlib.suppress(RuntimeError):  # the lock is released already
            self._lock.release()
