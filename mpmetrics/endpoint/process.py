"""The endpoint process: one collector and its HTTP server, beside the server whose metrics it serves.

It is a process of its own, so that a scrape never competes with requests for a GIL. It folds slabs of dead processes,
also without scrapes. It sends a heartbeat while its event loop turns and no collection hangs, so that its parent can
replace it, and ends by itself when its parent is gone.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 (asyncio imports it late: this process may not be allowed to read it then)
import contextlib
import ctypes
import errno
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Protocol

from mpmetrics.collector.callback_modules import CallbackModules
from mpmetrics.endpoint.app import MetricsApp
from mpmetrics.errors import LockTimeoutError
from mpmetrics.http.server import HttpServer
from mpmetrics.log_once import LogOnce
from mpmetrics.storage.locks import Mutex

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from mpmetrics.endpoint.collector import Collector
    from mpmetrics.http.address import Address
    from mpmetrics.http.security.protection import Protection

__all__ = ["BEAT", "Endpoint"]

log = logging.getLogger("mpmetrics")

BEAT = 0.25
"""Seconds between heartbeats, and between checks of the parent."""

PASSING = {errno.EMFILE, errno.ENFILE, errno.EINTR, errno.EIO, errno.ENOMEM, errno.ENOLCK}
"""Errors that may not occur at the next try."""

PATIENT_BEATS = 4
"""Tries of the election in a row that may fail with one of them."""

FOLD_EVERY = 2.0

MODULES_SECONDS = 5.0
"""Seconds that the first scrape waits for the modules that register callbacks; then it is answered without them."""

SERVICE_GRACE = 0.6
"""Seconds that a service has to finish its work, and again to clean up."""

HUNG_AFTER = 60.0
"""Seconds of one collection after which the process counts as hung."""

SWITCH_INTERVAL = 0.0005
"""Seconds after which a computing thread yields the interpreter to the event loop.

TLS releases the interpreter with each record. Scrapes over TLS beside a crowd of hostile clients took about 80 ms with
Python's 5 ms, and about 20 ms with this.
"""

_LOOK = 0.01
_PR_SET_PDEATHSIG = 1


class Service(Protocol):
    """Work on a thread of its own."""

    def start(self) -> None:
        """Begin."""

    def stop(self, timeout: float) -> None:
        """End, within so many seconds."""


class Endpoint:
    """Serves ``collector`` on ``listeners`` until SIGTERM, or until process ``parent`` is no longer its parent.

    The listening sockets belong to the parent and are inherited: connections wait in them while this process is
    replaced. ``unix`` is one more address, which this process opens. ``heartbeat`` is the descriptor of a pipe that
    gets a byte with each beat. ``election`` is the path of a lock: only its holder serves, other collectors wait.
    ``modules`` are imported first, but a slow one does not delay serving for long. ``services`` run while it serves.
    ``protection`` is for ``listeners``; ``unix`` is protected by the permissions of its file.
    """

    def __init__(
        self,
        collector: Collector,
        listeners: Sequence[socket.socket],
        *,
        unix: Address | None = None,
        parent: int,
        heartbeat: int,
        election: str | None = None,
        modules: CallbackModules | None = None,
        services: Sequence[Service] = (),
        protection: Protection | None = None,
    ) -> None:
        self._services = services
        self._protection = protection
        self._modules = modules or CallbackModules(())
        self._collector = collector
        self._listeners = listeners
        self._unix = unix
        self._parent = parent
        self._heartbeat = heartbeat
        self._election = election
        self._server = HttpServer(MetricsApp(collector))

    def run(self) -> None:
        """Serve. Returns when this process is to end."""
        die_with_parent(self._parent)
        # Ctrl-C at the terminal signals the whole group, but the parent ends this process, after the others.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.setswitchinterval(SWITCH_INTERVAL)
        asyncio.run(self._main())

    async def _main(self) -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        beat = asyncio.create_task(self._beat(stop))
        elected = contextlib.ExitStack()
        try:
            if await self._win(elected, stop):
                await self._serve(stop)
        finally:
            elected.close()
            beat.cancel()

    async def _win(self, elected: contextlib.ExitStack, stop: asyncio.Event) -> bool:
        """Wait for the election lock; False if this process is to end before it has it.

        If the lock cannot be opened, serve without it: two collectors do no harm, and without one scrapes would wait.
        Errors that may pass, as when descriptors have run out, get a few beats to do so.
        """
        tries = PATIENT_BEATS
        while self._election is not None and not stop.is_set():
            try:
                elected.enter_context(Mutex(self._election, 0.0))
            except LockTimeoutError:
                tries = PATIENT_BEATS
            except OSError as error:
                tries -= 1
                if error.errno not in PASSING or not tries:
                    log.warning("metrics are served without an election among collectors: %s", error)
                    break
            else:
                break
            await _sleep(stop, BEAT)
        return not stop.is_set()

    async def _serve(self, stop: asyncio.Event) -> None:
        self._modules.load()
        end = time.monotonic() + MODULES_SECONDS
        while not (self._modules.wait(0) or stop.is_set() or time.monotonic() > end):
            await _sleep(stop, _LOOK)
        server = self._server
        await server.start()
        for listener in self._listeners:
            await server.add(listener, self._protection)
        for listener in self._listen_in_store():
            await server.add(listener)
        keeper = asyncio.create_task(self._keep_house())
        for service in self._services:
            service.start()
        await stop.wait()
        keeper.cancel()
        await asyncio.gather(*(asyncio.to_thread(service.stop, SERVICE_GRACE) for service in self._services))
        await server.close(1.0)

    def _listen_in_store(self) -> list[socket.socket]:
        """Open the Unix socket in the store, unless its path is too long for one."""
        if self._unix is None:
            return []
        try:
            return [self._unix.listen()]
        except OSError as error:
            log.warning("metrics cannot be served at %s: %s", self._unix, error)
            return []

    async def _keep_house(self) -> None:
        """Fold slabs of dead processes, also without scrapes."""
        failures = LogOnce()
        while True:
            await asyncio.sleep(FOLD_EVERY)
            try:
                await asyncio.to_thread(self._collector.fold)
            except Exception as error:  # noqa: BLE001 (whatever it is, scrapes go on, and the next time may do better)
                failures.error(str(error), "folding slabs of dead processes failed: %s", error, error=error)

    async def _beat(self, stop: asyncio.Event) -> None:
        while True:
            if os.getppid() != self._parent:
                stop.set()
            if self._server.busy_for() < HUNG_AFTER:
                with contextlib.suppress(BlockingIOError, BrokenPipeError):
                    os.write(self._heartbeat, b".")
            await asyncio.sleep(BEAT)


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


def die_with_parent(parent: int) -> None:
    """On Linux, have the kernel kill this process when its parent dies, even if it hangs or is stopped."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        os._exit(0)
