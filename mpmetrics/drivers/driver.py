"""What all drivers have in common: doing something every few seconds, on a thread of its own if wanted."""

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
    """Calls :meth:`once` every ``interval`` seconds. Any thread may call its methods.

    A failure is logged, once for each cause until it works again, and counted; it is tried again after a pause that
    doubles from 1 s to the interval, or a minute if that is less.

    A forked child has the driver, but not its thread: it drives nothing unless it is started there.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._stop = Stop()
        self._thread: threading.Thread | None = None
        self._failing = LogOnce()
        self._once = threading.RLock()
        self._is_out = False
        """Whether something was put out that is to be taken back at the end."""
        self.successes = 0
        """How often it worked, in this process."""
        self.failures = 0
        """How often it failed, in this process."""
        fork.register(self)

    @abc.abstractmethod
    def once(self) -> None:
        """Do it now; raises what it fails with."""

    def use(self, collection: Collection) -> None:
        """Of a driver that was made for all metrics of this server: they are those of ``collection``."""
        del collection

    def run(self) -> None:
        """Do it now and every interval; returns after :meth:`stop`, which a signal handler may call, too.

        A stop that comes before it ends it as soon as it begins.
        """
        self._loop(self._stop)
        self._stop = Stop()  # it can run again

    def _loop(self, stop: Stop) -> None:
        pause = 0.0
        due = time.monotonic()
        while not stop.is_set():
            if self._attempt(self.once):
                self.successes += 1
                pause = 0.0
                # From when it was due, so that it does not drift; what was missed is not made up for.
                now = time.monotonic()
                due += self._interval * max(1, math.ceil((now - due) / self._interval))
            else:
                pause = min(2 * pause or FIRST_PAUSE, max(self._interval, FIRST_PAUSE), LONGEST_PAUSE)
                due = time.monotonic() + pause
            self._wait_until(due, stop)

    def _wait_until(self, due: float, stop: Stop) -> None:
        """Wait for the next time, on the monotonic clock, or the end."""
        stop.wait(max(0.0, due - time.monotonic()))

    def _attempt(self, action: Callable[[], object]) -> bool:
        """Whether ``action`` worked; what it fails with is counted and said."""
        try:
            with self._once:
                action()
        except Exception as error:  # noqa: BLE001 (whatever it is, the next time may do better)
            self.failures += 1
            message = f"{type(error).__name__}: {error}"
            self._failing.warn(message, "%r failed and is tried again: %s", self, message)
            return False
        if self._failing.clear():
            log.info("%r works again", self)
        return True

    def start(self) -> None:
        """Run on a thread of this process; again does nothing while it does. RuntimeError when there is no thread."""
        if self._thread is None or not self._thread.is_alive():
            # One of its own: a thread that hung when it was stopped is not to go on beside the new one.
            self._stop = Stop()
            name = f"mpmetrics-{type(self).__name__}"
            self._thread = threading.Thread(target=self._loop, args=(self._stop,), name=name, daemon=True)
            self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End :meth:`run` wherever it runs, and wait for its thread, for at most so many seconds; again is harmless."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _take_back(self, remove: Callable[[], object]) -> None:
        """Have ``remove`` take back what this process put out, if it did; what keeps us from that is logged."""
        if not self._is_out:
            return
        self._is_out = False
        try:
            remove()
        except Exception as error:  # noqa: BLE001 (the end is no time to raise)
            self.failures += 1
            log.warning("%r leaves its metrics where they are: %s: %s", self, type(error).__name__, error)

    def after_fork_in_child(self) -> None:
        """The thread is the parent's, and so is what was put out."""
        self._is_out = False
        self._stop = Stop()
        self._thread = None
        self._once = threading.RLock()


def check_interval(what: str, seconds: float) -> float:
    """``seconds`` as a float; TypeError unless it is a number, ValueError unless it is finite and above 0."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        msg = f"{what} is a number of seconds, not {seconds!r}"
        raise TypeError(msg)
    if not 0 < seconds < math.inf:
        msg = f"{what} is a number of seconds above 0, not {seconds!r}"
        raise ValueError(msg)
    return float(seconds)
