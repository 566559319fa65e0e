"""An end that is waited for."""

from __future__ import annotations

import contextlib
import threading

__all__ = ["Stop"]


class Stop:
    """Is set once, by any thread or signal handler, and waited for by one thread.

    Not a ``threading.Event``: a signal handler that interrupts the waiting thread at the wrong moment, and sets it,
    waits there for the lock that this thread holds.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._is_set

    def set(self) -> None:
        """Have the waiting thread go on."""
        self._is_set = True
        self._open()

    def wait(self, seconds: float) -> bool:
        """Wait until it is set, at most so long; whether it is."""
        if not self._is_set and self._lock.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            self._open()
        return self._is_set

    def _open(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is open already
            self._lock.release()
