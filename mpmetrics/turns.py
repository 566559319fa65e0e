"""A lock with a bounded wait, for work that tolerates a second thread beside it."""

from __future__ import annotations

import threading
import time

__all__ = ["Turns"]

PATIENCE = 0.25
"""Seconds that a thread waits for its turn."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.0001, 0.005
"""Seconds between two looks at the turn of another thread."""


class Turns:
    """``with turns:`` runs one thread after the other, unless the wait takes longer than ``patience`` seconds.

    A lock without a time limit deadlocks with locks of the application: thread A holds our lock and logs, so it waits
    for a log handler; thread B runs in that log handler and makes a metric, so it waits for our lock. Here the wait
    ends, and the thread runs beside the other one. The work under the lock must tolerate this. It must anyway: a signal
    handler or finaliser takes a turn within the turn that it interrupts.

    A thread that waited in vain ends the other's turn, so an abandoned turn delays only one thread. A turn is abandoned
    if a signal handler raises between the two steps of taking and using it.
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
        # One step takes the turn and stores its holder, so at no moment is the turn taken without a known holder.
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
        """The thread that had its turn does not exist here."""
        self._taken = {}
