"""Agent: the thread of a worker that answers collectors by running the worker's callbacks.

A process has one agent for each provider with worker callbacks. The agent leases the process's slab before it listens,
because the callbacks put their values there. A request and its answer are one line of JSON each, over a unix socket in
the epoch::

    {"seconds": 0.2, "max_age": 0.0}          run your callbacks within 0.2 s
    {"shown": [12, 13]}                       done; these are the first words of the series to show

The agent answers one request at a time. It ignores a request whose sender has hung up, so no callback runs in vain.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

from mpmetrics.log_once import LogOnce
from mpmetrics.serving.worker_socket import short, socket_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mpmetrics.callbacks.callback import Target
    from mpmetrics.names.family import Key
    from mpmetrics.storage.memory import Memory

    Refresh = Callable[[float, float], Mapping[tuple[str, Key], Target]]

__all__ = ["Agent"]

log = logging.getLogger("mpmetrics")

_RETRY = 1.0
_LEAST = 0.001
_PATIENCE = 1.0
"""Seconds that a collector may take to send its request, and to read the answer."""

_LONGEST = 4096
_BACKLOG = 64

_LOOK = 1.0
"""Seconds between two checks whether another epoch has replaced ours; only a guest's epoch can be replaced."""


class Agent:
    """Answers collectors on a daemon thread, in the epoch of ``memory``.

    ``refresh(seconds, max_age)`` runs the worker callbacks and returns the series to show, by metric and key.
    """

    def __init__(self, memory: Memory, refresh: Refresh) -> None:
        self._memory = memory
        self._refresh = refresh
        self._listener: socket.socket | None = None
        self._status: os.stat_result | None = None
        """Identifies the socket: code that daemonizes closes all descriptors, and its own get the same numbers."""
        self._slab = ""
        """Identity of the slab after which the socket is named."""
        self._path = ""
        """Path of the socket."""
        self._is_closed = False
        self._log = LogOnce()

    def start(self) -> None:
        """Start the thread; RuntimeError if the system has none for us."""
        threading.Thread(target=self._run, name="mpmetrics-agent", daemon=True).start()

    def _run(self) -> None:
        while not self._is_closed:
            try:
                if self._listener is None or not self._is_ours(self._listener):
                    self._listener = self._listen()
                    if self._is_closed:  # while it began to listen
                        self.close()
                        return
                self._accept(self._listener)
            except OSError as error:
                # The collector hung up, or the process has no descriptor or the store no room, or we were closed.
                if not self._is_closed and not isinstance(error, (ConnectionError, TimeoutError)):
                    self._log.warn(
                        "socket",
                        "process %d cannot answer collectors, so its callbacks do not run: %s; trying again",
                        os.getpid(),
                        error,
                    )
                    time.sleep(_RETRY)
            except Exception as error:  # noqa: BLE001 (whatever fails in one collection, the next one is answered)
                cause = type(error).__qualname__
                self._log.error(cause, "process %d failed to run its callbacks", os.getpid(), error=error)

    def _accept(self, listener: socket.socket) -> None:
        """Wait for a collector and answer it; stop listening if this process has moved to another slab."""
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            memory = self._memory
            if memory.process.is_due:
                memory.catch_up()
            slab = memory.slab_name
            if slab is not None and slab.identity != self._slab:
                self._listener = None
                self._hang_up(listener)
            return
        with connection:
            self._answer(connection)

    def _listen(self) -> socket.socket:
        """Lease the slab and listen; OSError if the store has no room for that now."""
        memory = self._memory
        memory.lease()
        slab, epoch = memory.slab_name, memory.epoch
        if slab is None or epoch is None:
            raise OSError("it has no slab in the store")
        self._slab, self._path = slab.identity, os.path.join(epoch.path, socket_name(slab))
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # It gets its name only once it listens, so a collector that finds it can connect.
            temporary = f"new-ask-{slab.identity}"
            with short(epoch.path, temporary) as where:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(where)  # of an earlier attempt that failed
                listener.bind(where)
                os.chmod(where, 0o600)
                listener.listen(_BACKLOG)
                os.rename(where, self._path)
            listener.settimeout(None if epoch.is_server else _LOOK)
            self._status = os.fstat(listener.fileno())
        except BaseException:
            listener.close()
            raise
        return listener

    def _answer(self, connection: socket.socket) -> None:
        end = time.monotonic() + _PATIENCE
        request = b""
        while not request.endswith(b"\n"):
            # One time limit for the whole request: a slow sender must not block the other collectors.
            connection.settimeout(max(_LEAST, end - time.monotonic()))
            chunk = connection.recv(_LONGEST)
            if not chunk or len(request) > _LONGEST or time.monotonic() > end:
                return
            request += chunk
        try:
            asked = json.loads(request)
            seconds, max_age = float(asked["seconds"]), float(asked["max_age"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            log.warning("a collector of another version asked process %d: %r; not answered", os.getpid(), request)
            return
        if _has_hung_up(connection):
            return
        observed = self._refresh(seconds, max_age)
        places = (target.place(key) for (_, key), target in observed.items())
        shown = [place for place in places if place is not None]
        connection.sendall(json.dumps({"shown": shown}).encode() + b"\n")

    def close(self) -> None:
        """Stop listening; the thread ends."""
        self._is_closed = True
        listener = self._listener
        if listener is not None:
            self._hang_up(listener)

    def _is_ours(self, listener: socket.socket) -> bool:
        """True if the socket is still open; else detach it, because its number may belong to other code by now."""
        with contextlib.suppress(OSError):
            if self._status is not None and os.path.samestat(os.fstat(listener.fileno()), self._status):
                return True
        listener.detach()
        return False

    def _hang_up(self, listener: socket.socket) -> None:
        if self._is_ours(listener):
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def abandon(self) -> None:
        """In a forked child: close this copy of the parent's socket, which would outlive the parent here."""
        self._is_closed = True
        if self._listener is not None and self._is_ours(self._listener):
            self._listener.close()


def _has_hung_up(connection: socket.socket) -> bool:
    connection.setblocking(False)  # noqa: FBT003 (its only parameter)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(_PATIENCE)
