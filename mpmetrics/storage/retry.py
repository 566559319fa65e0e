"""Moving private values into the store, again and again until they are all there.

Private values are trouble: nobody else sees them, and they are gone with the process. So while there are any, a thread
of the process tries to move them in, soon at first and once a second later; it ends when there are none. An orderly end
of the process makes a last attempt. A process without trouble has no such thread.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import logging
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics._cells import Guard

__all__ = ["SETTLE", "Retry"]

log = logging.getLogger("mpmetrics")

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
"""Seconds between attempts: doubled from the first to the longest."""

SETTLE = 1.0
"""Seconds to wait, where the values have to be there, for an attempt that another thread is making."""


class Retry:
    """Has ``attempt`` made, under ``guard``, for as long as ``is_needed`` answers true once it was :meth:`wanted`."""

    def __init__(self, guard: Guard, attempt: Callable[[None], None], is_needed: Callable[[], bool]) -> None:
        self._guard = guard
        self._attempt = attempt
        self._is_needed = is_needed
        self._is_running = False
        self._is_registered = False
        self._is_ending = False

    def wanted(self) -> None:
        """There is something to move in: see to it. Neither waits nor raises; called with every private store."""
        if self._is_ending:  # no thread comes to it any more: functions that atexit calls after ours count, too
            if self._is_needed():
                self.now()
            return
        if self._is_running or not self._is_needed():
            return
        self._is_running = True
        self._register()
        # Not threading.Thread, whose start waits for the thread: this may be in a signal handler or a finaliser.
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:  # no more threads now, or the interpreter is ending and the last attempt is registered
            self._is_running = False

    def _register(self) -> None:
        if not self._is_registered:
            self._is_registered = True
            with contextlib.suppress(RuntimeError):  # it is already ending
                atexit.register(self._end)
            util = sys.modules.get("multiprocessing.util")
            if util is not None:  # its children end without atexit
                util.Finalize(None, self._end, exitpriority=0)

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while self._is_running:
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                self.now()
            except Exception:  # whatever it is, the next attempt may do better, and nobody else would see it
                log.exception("moving private values into the store failed")
            if not self._is_needed():
                self._is_running = False
                if self._is_needed():  # since we looked
                    self._is_running = True

    def now(self) -> None:
        """Make an attempt now."""
        self._guard.run(self._attempt, None)

    def _end(self) -> None:
        """The process ends."""
        self._is_ending = True
        self.now()
        self._guard.settle(SETTLE)

    def reset(self) -> None:
        """In a forked child: the thread is the parent's; the child's first private store starts another."""
        self._is_running = False
        self._is_registered = False
        self._is_ending = False
