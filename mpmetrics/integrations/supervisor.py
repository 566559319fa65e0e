"""Supervisor: keeps one child process running; it starts it, replaces it when it dies or hangs, and ends it.

Belongs to the parent's main thread. The parent calls :meth:`Supervisor.check` about once a second; that never waits.
The supervisor needs no SIGCHLD: the child holds the writing end of a pipe, so the pipe ends when the child dies,
whichever code reaps it.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import time
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Supervisor"]

log = logging.getLogger("mpmetrics")

HUNG_AFTER = 10.0
"""Seconds without a heartbeat after which the child is killed."""

BACK_OFF = (0.0, 0.0, 0.5)
"""Seconds to wait before the next start, by how often in a row the child died young.

The last one is short, so that scrapers do not wait long, whatever keeps ending the child.
"""

LOGGED_FIRST, LOGGED_EVERY = 5, 100
"""Of early deaths in a row, the first 5 are logged, then every 100th."""

YOUNG = 10.0
"""A child that lives for fewer seconds has died young."""


class Supervisor:
    """Runs ``body(parent pid, heartbeat descriptor)`` in a forked child.

    The child writes to the descriptor regularly, to show that it does not hang. When ``body`` returns, the child ends;
    an exception is printed and ends it with status 1. ``name`` is for messages.
    """

    def __init__(self, name: str, body: Callable[[int, int], None]) -> None:
        self._name = name
        self._body = body
        self._pid = 0
        self._pipe = -1
        self._started = 0.0
        self._beaten = 0.0
        self._young_deaths = 0
        self._next_start = 0.0
        self._owner = os.getpid()

    @property
    def pid(self) -> int:
        """The child's process id, 0 while no child runs."""
        return self._pid

    def check(self) -> None:
        """Start the child if it does not run, kill it if it hangs. Never waits, never raises."""
        if os.getpid() != self._owner:
            return
        try:
            now = time.monotonic()
            if self._pid and not self._alive(now):
                self._bury(now)
            if not self._pid and now >= self._next_start:
                self._start()
        except OSError as error:
            log.error("the %s cannot be started, the next attempt follows: %s", self._name, error)
            self._next_start = time.monotonic() + BACK_OFF[-1]

    def _alive(self, now: float) -> bool:
        try:
            beats = os.read(self._pipe, 4096)
        except BlockingIOError:
            if now - self._beaten > HUNG_AFTER:
                log.error(
                    "the %s (pid %d) hangs: no heartbeat for %g s; replacing it", self._name, self._pid, HUNG_AFTER
                )
                self._signal(signal.SIGKILL)
                self._beaten = now
            return True
        if beats:
            self._beaten = now
        return bool(beats)

    def _bury(self, now: float) -> None:
        """Forget the child, which is gone, and set the time of the next start."""
        young = now - self._started < YOUNG
        self._young_deaths = self._young_deaths + 1 if young else 0
        pause = BACK_OFF[min(self._young_deaths, len(BACK_OFF) - 1)]
        if self._young_deaths <= LOGGED_FIRST or self._young_deaths % LOGGED_EVERY == 0:
            log.warning("the %s (pid %d) is gone; starting another in %g s", self._name, self._pid, pause)
        self._next_start = now + pause
        self._forget()

    def _forget(self) -> None:
        os.close(self._pipe)
        with contextlib.suppress(ChildProcessError):  # the server's SIGCHLD handler has reaped it
            os.waitpid(self._pid, os.WNOHANG)
        self._pid, self._pipe = 0, -1

    def _start(self) -> None:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            self._child(parent, writing)
        os.close(writing)
        self._pid, self._pipe = pid, reading
        self._started = self._beaten = time.monotonic()

    def _child(self, parent: int, writing: int) -> None:
        """Run the body and end the process; this never returns to the parent's code."""
        status = 1
        try:
            gc.freeze()  # keeps the parent's memory pages shared
            self._body(parent, writing)
            status = 0
        except BaseException:  # noqa: BLE001 (no exception may leave the child)
            traceback.print_exc()
        finally:
            logging.shutdown()
            os._exit(status)

    def release_in_child(self) -> None:
        """In another child of the parent, such as a worker: close the pipe."""
        if self._pipe >= 0:
            os.close(self._pipe)
        self._pid, self._pipe = 0, -1

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def _is_stopped(self) -> bool:
        """True if the child is stopped (SIGSTOP), so that only SIGKILL reaches it. Does not reap it."""
        try:
            return os.waitid(os.P_PID, self._pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return False

    def stop(self, grace: float) -> None:
        """End the child and wait for it: SIGTERM, then SIGKILL after ``grace`` seconds, or at once if it is stopped."""
        if not self._pid or os.getpid() != self._owner:
            return
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        os.set_blocking(self._pipe, False)
        while True:
            try:
                if not os.read(self._pipe, 4096):
                    break
            except BlockingIOError:
                pass
            if time.monotonic() > deadline or self._is_stopped():
                self._signal(signal.SIGKILL)
                deadline = float("inf")
            time.sleep(0.01)
        self._forget()
