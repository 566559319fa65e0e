"""One run of a function for all who ask for it at the same time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SharedCall"]

Result = TypeVar("Result")

PAUSE = 0.0005
"""Seconds between the first two looks at a run of another thread."""

LONGEST_PAUSE = 0.01
"""Seconds between two looks at most. A tenth of the wait so far: dozens of threads that wait must not slow the run."""

PATIENCE = 30.0
"""Seconds to wait for others before one helps oneself: longer than any run takes that is not stuck."""


class SharedCall(Generic[Result]):
    """Calls ``function`` for many threads, never twice at a time.

    Each caller gets the result of a run that began after it asked, so nobody is given values older than its question;
    all who ask during a run share the next one. An exception goes to the caller that ran the function; the others try
    again themselves.

    A signal handler or a finaliser that asks while its own thread is in the function cannot wait for that run, nor can
    a callback that the run waits for: ``on_behalf_of`` tells whose. They get the result of ``aside``, which has to
    stand being called in the middle of ``function``. So does who has waited for others too long: they may be waiting
    for a lock that the caller holds.

    Waiting is looking again and again: who is interrupted between a look and a wait misses no notification, and
    greenlets take turns, even where gevent patched ``time.sleep`` only after the import of this module.
    """

    def __init__(
        self,
        function: Callable[[], Result],
        aside: Callable[[], Result],
        on_behalf_of: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._function = function
        self._aside = aside
        self._on_behalf_of = on_behalf_of
        # Re-entrant: what is done under it is a few assignments, in an order that bears interruption between any two.
        self._lock = threading.RLock()
        self._runner: int | None = None
        """The thread that runs the function."""
        self._started = 0
        self._finished: tuple[int, Result] | None = None
        """The number of the last run that ended well, and its result."""

    def __call__(self) -> Result:
        """The result of a run that begins after this call; what the function raises when this caller runs it."""
        me = threading.get_ident()
        lock = self._lock
        wanted = self._started + 1
        since = time.monotonic()
        mine = 0
        try:
            while True:
                with lock:
                    finished, runner = self._finished, self._runner
                    if finished is not None and finished[0] >= wanted:
                        return finished[1]
                    if runner is None:
                        mine = self._started + 1
                        # One assignment: whoever interrupts us from here on sees that this thread runs the function.
                        self._runner = me
                        self._started = mine
                        break
                waited = time.monotonic() - since
                if runner in {me, self._on_behalf_of()} or waited > PATIENCE:
                    return self._aside()
                time.sleep(max(PAUSE, min(waited / 10, LONGEST_PAUSE)))
            result = self._function()
            with lock:
                if lock is self._lock:  # else we are in a forked child, with what was begun in its parent
                    self._finished = (mine, result)
                    self._runner = None
            return result
        finally:
            if mine and lock is self._lock and self._runner == me:
                self._runner = None

    def reset(self) -> None:
        """In a forked child: nobody is running or waiting here."""
        self._lock = threading.RLock()
        self._runner = None
