"""Warnings that go into the log once for each cause, and never while this thread holds the lock they came up under.

A log handler may wait for a thread that in turn waits for that lock, or be interrupted by what needs it.
"""

from __future__ import annotations

import _thread
import logging
import os

from mpmetrics import fork

__all__ = ["LogOnce"]

log = logging.getLogger("mpmetrics")


class LogOnce:
    """``with log, log.lock:`` takes the lock; what was said under it goes into the log once it is released."""

    def __init__(self) -> None:
        self._locks: dict[int, _thread.RLock] = {}
        self._said: set[str] = set()
        self._unsaid: list[str] = []
        fork.register(self)

    @property
    def lock(self) -> _thread.RLock:
        """What orders the threads of this process; a child that was forked while one had it has another."""
        return self._locks.setdefault(os.getpid(), _thread.RLock())

    def after_fork_in_child(self) -> None:
        """Forget the locks of the parent, whose process id may come again."""
        self._locks = {}

    def say(self, cause: str, message: str) -> None:
        """Have ``message`` logged as a warning, once for each ``cause``, when the ``with`` of this log ends."""
        if cause not in self._said:
            self._said.add(cause)
            self._unsaid.append(message)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._unsaid and not self.lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001
            unsaid, self._unsaid = self._unsaid, []
            for message in unsaid:
                log.warning("%s", message)
