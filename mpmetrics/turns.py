"""A lock that orders what threads do, and that none of them waits for longer than a moment."""

from __future__ import annotations

import threading
import time

__all__ = ["Turns"]

PATIENCE = 0.25
"""Seconds to wait for one's turn."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.0001, 0.005
"""Seconds between two looks at a turn that another thread has."""


class Turns:
    """``with turns:`` one thread after the other, as long as that takes no time.

    A lock that is waited for without end deadlocks with whatever else the application's code holds: a thread that logs
    while it has ours waits for a log handler's, whose own thread makes a metric, and so waits for ours. Here the wait
    ends after ``patience`` seconds, and the thread goes on beside the other one. What is done under it has to bear
    that; it has to anyway, as a signal handler or finaliser has its turn within that of what it interrupted.

    A turn that was waited for in vain is ended, as an exception out of a signal handler may have ended the code that
    had it. So nobody waits for it a second time.
    """

    def __init__(self, patience: float | None = None) -> None:
        self._patience = patience
        self._taken: dict[None, object] = {}
        self._mine: dict[int, list[object]] = {}

    def __enter__(self) -> None:
        thread = threading.get_ident()
        mine: object = (thread, object())
        end = time.monotonic() + (PATIENCE if self._patience is None else self._patience)
        pause = SHORTEST_PAUSE
        # Taken in one step, with the name of its holder: there is no moment at which nobody knows whose it is.
        while (held := self._taken.setdefault(None, mine)) is not mine:
            if held[0] == thread:  # type: ignore[index]  # a pair, as above
                break
            if time.monotonic() > end:
                if self._taken.get(None) is held:
                    self._taken.pop(None, None)
            else:
                time.sleep(pause)
                pause = min(1.5 * pause, LONGEST_PAUSE)
        self._mine.setdefault(thread, []).append(mine)

    def __exit__(self, *_: object) -> None:
        turns = self._mine[threading.get_ident()]
        mine = turns.pop()
        if not turns:
            self._mine.pop(threading.get_ident(), None)
        if self._taken.get(None) is mine:
            self._taken.pop(None, None)

    def after_fork_in_child(self) -> None:
        """A thread that had its turn is not here."""
        self._taken = {}
