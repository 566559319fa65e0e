"""A lock that orders what threads do, and that none of them waits for longer than a moment."""

from __future__ import annotations

import sys
import threading
import time
from types import FrameType  # noqa: TC003 (the tuple below needs it)
from typing import NamedTuple

__all__ = ["Turns"]

PATIENCE = 0.25
"""Seconds to wait for one's turn."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.0001, 0.005
"""Seconds between two looks at a turn that somebody else has."""


class _Turn(NamedTuple):
    """Whose turn it is: a thread, and the frame whose ``with`` it is."""

    thread: int
    user: FrameType

    @property
    def is_over(self) -> bool:
        """Whether that code does not run any more, in whichever thread or greenlet."""
        try:
            self.user.clear()
        except RuntimeError:  # it cannot be cleared while it runs
            return False
        return True


class Turns:
    """``with turns:`` one thread after the other, as long as that takes no time.

    A lock that is waited for without end deadlocks with whatever else the application's code holds: a thread that logs
    while it has ours waits for a log handler's, whose own thread makes a metric, and so waits for ours. Here the wait
    ends, and the thread goes on beside the other one. What is done under it has to bear that; it has to anyway, as a
    signal handler or finaliser has its turn within that of what it interrupted.

    An exception out of a signal handler may end a turn without its end. Whoever waits sees that the code whose turn it
    was does not run any more. So a generator or coroutine must not pause within its turn: before Python 3.13, to look
    at one that does would close it.
    """

    def __init__(self, patience: float | None = None) -> None:
        self._patience = patience
        self._taken: dict[None, _Turn] = {}

    def __enter__(self) -> None:
        self.take(sys._getframe(1))  # noqa: SLF001 (documented; what else tells whether the holder still runs?)

    def __exit__(self, *_: object) -> None:
        self.give_back(sys._getframe(1))  # noqa: SLF001 (as above)

    def take(self, user: FrameType) -> None:
        """Wait for a turn, for the code that runs in the frame ``user``."""
        mine = _Turn(threading.get_ident(), user)
        end = time.monotonic() + (PATIENCE if self._patience is None else self._patience)
        pause = SHORTEST_PAUSE
        # Taken in one step, with the name of its holder: there is no moment at which nobody knows whose it is.
        while (held := self._taken.setdefault(None, mine)) is not mine:
            if held.is_over or (held.thread != mine.thread and time.monotonic() > end):
                if self._taken.get(None) is held:
                    self._taken.pop(None, None)
            elif held.thread == mine.thread:
                return
            else:
                time.sleep(pause)
                pause = min(1.5 * pause, LONGEST_PAUSE)

    def give_back(self, user: FrameType) -> None:
        """End the turn of the code in this frame, unless it has none of its own."""
        held = self._taken.get(None)
        if held is not None and held.user is user:
            self._taken.pop(None, None)

    def after_fork_in_child(self) -> None:
        """A thread that had its turn is not here."""
        self._taken = {}
