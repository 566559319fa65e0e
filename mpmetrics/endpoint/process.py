"""The endpoint process: one collector and its HTTP server, beside the server whose metrics it tells.

Runs in a process of its own, so that a scrape never competes with requests for a GIL. It folds the dead also when
nobody scrapes. It sends a heartbeat for as long as its event loop turns and no collection hangs, so that whoever
started it can replace it, and it ends by itself when its parent is gone.
"""

from __future__ import annotations

import asyncio
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
"""Seconds between heartbeats, and between looks at the parent."""

PASSING = {errno.EMFILE, errno.ENFILE, errno.EINTR, errno.EIO, errno.ENOMEM, errno.ENOLCK}
"""Errors that may be gone at the next try."""

PATIENT_BEATS = 4
"""How often in a row the election is tried while it fails with one of them."""

FOLD_EVERY = 2.0

MODULES_SECONDS = 5.0
"""How long the first scrape waits for the modules that register callbacks, before it is answered without them."""

SERVICE_GRACE = 0.6
"""Seconds that a service has to end, which it may use twice: for what is under way, and for tidying up."""

HUNG_AFTER = 60.0
"""Seconds of one collection after which the process counts as hung."""

SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread that computes lets the event loop have the interpreter.

TLS gives the interpreter away with each record. With Python's 5 ms, scrapes over TLS beside a crowd of hostile clients
took about 80 ms, with this about 20 ms.
"""

_LOOK = 0.01
_PR_SET_PDEATHSIG = 1


class Service(Protocol):
    """Something that runs on a thread of its own."""

    def start(self) -> None:
        """Begin."""

    def stop(self, timeout: float) -> None:
        """End, within so many seconds."""


class Endpoint:
    """Serves ``collector`` on ``listeners`` until SIGTERM, or until process ``parent`` is not its parent any more.

    The listening sockets belong to the parent and are inherited: while this process is being replaced, connections wait
    in them. ``unix`` is one more address, which this process makes itself. ``heartbeat`` is the descriptor of a pipe
    that gets a byte with each beat. ``election`` is the path of a lock: only its holder serves, others wait.
    ``modules`` are imported first; one that takes long, or hangs, is left to it. ``services`` run while it serves.
    ``protection`` is for who comes in at ``listeners``; at ``unix``, the permissions of its file are all there is.
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
        """Serve; returns when it is time to go."""
        die_with_parent(self._parent)
        # A Ctrl-C at the terminal goes to the whole group: the parent decides when we end, and last.
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
        """Wait for the election lock; False when it is time to go first.

        Where it cannot be had at all we serve without it: two collectors harm nobody, and none leaves scrapes waiting.
        What may pass, as when descriptors have run out, gets a few beats to do so.
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
        """The unix socket in the store, where its path is not too long for one."""
        if self._unix is None:
            return []
        try:
            return [self._unix.listen()]
        except OSError as error:
            log.warning("metrics cannot be served at %s: %s", self._unix, error)
            return []

    async def _keep_house(self) -> None:
        """Fold the dead when nobody scrapes, too."""
        while True:
            await asyncio.sleep(FOLD_EVERY)
            try:
                await asyncio.to_thread(self._collector.fold)
            except Exception:  # whatever it is, scrapes go on, and the next time may do better
                log.exception("folding the dead failed")

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
    """Have the kernel kill this process when its parent dies, even if it hangs or is stopped, where it can (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before it could be asked
        os._exit(0)
