"""Driver: the base of all drivers, which calls a method every few seconds, on a thread of its own if wanted."""

from __future__ import annotations

import abc
import logging
import math
import threading
import time
from typing import TYPE_CHECKING

from mpmetrics import fork
from mpmetrics.drivers.stop import Stop
from mpmetrics.log_once import LogOnce

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics.collector.collection import Collection

__all__ = ["Driver", "check_interval"]

log = logging.getLogger("mpmetrics")

LONGEST_PAUSE = 60.0
FIRST_PAUSE = 1.0


class Driver(abc.ABC):
    """Calls :meth:`once` every ``interval`` seconds. Any thread may call the methods.

    A failure is counted, and logged once for each message until the driver works again. The driver tries again after a
    pause, which doubles from 1 s to the interval or to 60 s, whichever is less.

    A forked child inherits the driver without its thread; it drives nothing there unless it is started.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._stop = Stop()
        self._thread: threading.Thread | None = None
        self._failing = LogOnce()
        self._once = threading.RLock()
        self._is_out = False
        """True if this process has sent metrics out that :meth:`stop` must remove."""
        self.successes = 0
        """How often it worked, in this process."""
        self.failures = 0
        """How often it failed, in this process."""
        fork.register(self)

    @abc.abstractmethod
    def once(self) -> None:
        """Send the metrics out now. Raises an exception if that fails."""

    def use(self, collection: Collection) -> None:
        """Take the metrics of ``collection``, if this driver sends all metrics of the server. For the collector."""
        del collection

    def run(self) -> None:
        """Call :meth:`once` now and every interval, until :meth:`stop`. A signal handler may call :meth:`stop`, too.

        If :meth:`stop` was called before, this returns at once.
        """
        self._loop(self._stop)
        self._stop = Stop()  # so that it can run again

    def _loop(self, stop: Stop) -> None:
        pause = 0.0
        due = time.monotonic()
        while not stop.is_set():
            if self._attempt(self.once):
                self.successes += 1
                pause = 0.0
                # Counted from the due time, so that it does not drift. Missed times are skipped.
                now = time.monotonic()
                due += self._interval * max(1, math.ceil((now - due) / self._interval))
            else:
                pause = min(2 * pause or FIRST_PAUSE, max(self._interval, FIRST_PAUSE), LONGEST_PAUSE)
                due = time.monotonic() + pause
            self._wait_until(due, stop)

    def _wait_until(self, due: float, stop: Stop) -> None:
        """Wait until ``due``, on the monotonic clock, or until the stop."""
        stop.wait(max(0.0, due - time.monotonic()))

    def _attempt(self, action: Callable[[], object]) -> bool:
        """Call ``action``; True if it worked. A failure is counted and logged."""
        try:
            with self._once:
                action()
        except Exception as error:  # noqa: BLE001 (whatever failed, the next time may work)
            self.failures += 1
            message = f"{type(error).__name__}: {error}"
            self._failing.warn(message, "%r failed and is tried again: %s", self, message)
            return False
        if self._failing.clear():
            log.info("%r works again", self)
        return True

    def start(self) -> None:
        """Run on a thread of this process, unless it runs already. RuntimeError if the system has no thread for us."""
        if self._thread is None or not self._thread.is_alive():
            # A new Stop: an old thread that hung when it was stopped must not continue beside the new one.
            self._stop = Stop()
            name = f"mpmetrics-{type(self).__name__}"
            self._thread = threading.Thread(target=self._loop, args=(self._stop,), name=name, daemon=True)
            self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End :meth:`run`, on whichever thread it runs, and wait at most ``timeout`` seconds for its thread."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _take_back(self, remove: Callable[[], object]) -> None:
        """Call ``remove`` to remove what this process has sent out, if it has; a failure is logged."""
        if not self._is_out:
            return
        self._is_out = False
        try:
            remove()
        except Exception as error:  # noqa: BLE001 (stop() must not raise)
            self.failures += 1
            log.warning("%r could not remove its metrics, which stay: %s: %s", self, type(error).__name__, error)

    def after_fork_in_child(self) -> None:
        """Forget the thread and what was sent out: both are the parent's."""
        self._is_out = False
        self._stop = Stop()
        self._thread = None
        self._once = threading.RLock()


def check_interval(what: str, seconds: float) -> float:
    """Return ``seconds`` as a float; TypeError unless it is a number, ValueError unless it is finite and above 0."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        msg = f"{what} must be a number of seconds, not {seconds!r}"
        raise TypeError(msg)
    if not 0 < seconds < math.inf:
        msg = f"{what} must be a number of seconds above 0, not {seconds!r}"
        raise ValueError(msg)
    return float(seconds)
