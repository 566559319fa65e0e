"""A lock that orders what threads do, and that none of them waits for longer than a moment."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["Turns"]

PATIENCE = 0.25
"""Seconds to wait for one's turn."""


class Turns:
    """``with turns:`` one thread after the other, as long as that takes no time.

    A lock that is waited for without end deadlocks with whatever else the application's code holds: a thread that logs
    while it has ours waits for a log handler's, whose own thread makes a metric, and so waits for ours. Here the wait
    ends, and the thread goes on beside the other one. What is done under it has to bear that; it has to anyway, as the
    lock is re-entrant for the sake of signal handlers and finalisers.

    Whoever's wait ends puts a new lock in the place of that one, for those who come later: an exception out of a signal
    handler may have kept its holder from letting go of it.
    """

    def __init__(self, patience: float | None = None) -> None:
        self._patience = patience
        self._lock: Any = threading.RLock()

    def __enter__(self) -> None:
        lock = self._lock
        if not lock.acquire(timeout=PATIENCE if self._patience is None else self._patience) and lock is self._lock:
            fresh = threading.RLock()
            fresh.acquire()
            self._lock = fresh

    def __exit__(self, *_: object) -> None:
        if self._lock._is_owned():  # noqa: SLF001 (Condition's way to ask); not if it is another one by now
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """A thread that had its turn is not here."""
        self._lock = threading.RLock()
