"""SharedCall: one run of a function for all threads that ask for it at the same time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SharedCall"]

Result = TypeVar("Result")

PAUSE, LONGEST_PAUSE = 0.0005, 0.01
"""Seconds between two looks at the run of another thread: a tenth of the wait so far, within these limits.

Dozens of threads may wait, and their looks must not slow down the run.
"""

PATIENCE = 30.0
"""Seconds that a caller waits for others before it calls ``aside``: longer than any run that is not stuck."""


class SharedCall(Generic[Result]):
    """Calls ``function`` for many threads, never twice at a time.

    Each caller gets the result of a run that began after its call, so no value is older than the call; all callers
    during a run share the next one. An exception goes to the caller that ran the function; the others run it again.

    A caller that the run waits for cannot wait for the run. That is a signal handler or finaliser that interrupted the
    function on this thread, or a callback that the function waits for: ``on_behalf_of`` returns the thread that waits
    for this one. Such a caller gets the result of ``aside``, which must tolerate being called in the middle of
    ``function``. So does a caller that has waited for ``patience`` seconds: the others may wait for a lock it holds.

    A caller waits by looking again and again, not for a notification, which it could miss if it is interrupted before
    the wait. Greenlets take turns, too, even if gevent patches ``time.sleep`` after the import of this module.
    """

    def __init__(
        self,
        function: Callable[[], Result],
        aside: Callable[[], Result],
        on_behalf_of: Callable[[], int | None] = lambda: None,
        *,
        patience: float = PATIENCE,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._patience = patience
        self._sleep = sleep
        """None: ``time.sleep``, as it is at the time of the call."""
        self._function = function
        self._aside = aside
        self._on_behalf_of = on_behalf_of
        # Re-entrant: the code under it is a few assignments, in an order that tolerates interruption between any two.
        self._lock = threading.RLock()
        self._runner: int | None = None
        """The ident of the thread that runs the function."""
        self._started = 0
        self._finished: tuple[int, Result] | None = None
        """The number of the last run that returned, and its result."""

    def __call__(self) -> Result:
        """Return the result of a run that begins after this call. Raises what the function raises on this thread."""
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
                        # One assignment: code that interrupts us from here on sees that this thread runs the function.
                        self._runner = me
                        self._started = mine
                        break
                waited = time.monotonic() - since
                if runner in {me, self._on_behalf_of()} or waited > self._patience:
                    return self._aside()
                (self._sleep or time.sleep)(min(max(PAUSE, waited / 10), LONGEST_PAUSE))
            result = self._function()
            with lock:
                if lock is self._lock:  # else this is a forked child, and the run began in its parent
                    self._finished = (mine, result)
                    self._runner = None
            return result
        finally:
            if mine and lock is self._lock and self._runner == me:
                self._runner = None

    def reset(self) -> None:
        """In a forked child: no thread runs the function or waits here."""
        self._lock = threading.RLock()
        self._runner = None
