"""The thread of a worker that answers collectors: it runs the worker's callbacks when one asks.

One agent a provider and process. It leases the process's slab first: without one, nobody could
see what the callbacks observe. Requests and answers are one line of JSON each, over a unix socket in the epoch::

    {"seconds": 0.2, "max_age": 0.0}          run your callbacks within 0.2 s
    {"shown": [12, 13]}                       done; these are the first words of the series that show

One request at a time. A request whose sender has given up meanwhile is not carried out: the callbacks would run for
nobody.
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
"""Seconds that a collector may take to send its request, or to read the answer."""

_LONGEST = 4096
_BACKLOG = 64

_LOOK = 1.0
"""Seconds between two looks whether another epoch took the place of ours, which happens to guests alone."""


class Agent:
    """Answers collectors from a daemon thread, in the epoch of ``memory``.

    ``refresh(seconds, max_age)`` runs the worker callbacks and returns the series that show, by metric and key.
    """

    def __init__(self, memory: Memory, refresh: Refresh) -> None:
        self._memory = memory
        self._refresh = refresh
        self._listener: socket.socket | None = None
        self._status: os.stat_result | None = None
        """What the socket is: code that turns a process into a daemon closes it, and has another under its number."""
        self._slab = ""
        """Identity of the slab that the socket is named by."""
        self._path = ""
        """Of the socket."""
        self._is_closed = False
        self._log = LogOnce()

    def start(self) -> None:
        """Start the thread; RuntimeError when the system gives us none."""
        threading.Thread(target=self._run, name="mpmetrics-agent", daemon=True).start()

    def _run(self) -> None:
        while not self._is_closed:
            try:
                if self._listener is None or not self._is_ours(self._listener):
                    self._listener = self._listen()
                    if self._is_closed:  # meanwhile
                        self.close()
                        return
                self._accept(self._listener)
            except OSError as error:
                # Whoever asked is gone; or there is no descriptor or no room for now, or we were closed.
                if not self._is_closed and not isinstance(error, (ConnectionError, TimeoutError)):
                    self._log.warn(
                        "socket",
                        "the callbacks of process %d cannot be asked for: %s; trying again",
                        os.getpid(),
                        error,
                    )
                    time.sleep(_RETRY)
            except Exception as error:  # noqa: BLE001 (whatever one collection meets, the next one is answered)
                cause = type(error).__qualname__
                self._log.error(cause, "the callbacks of process %d could not be run", os.getpid(), error=error)

    def _accept(self, listener: socket.socket) -> None:
        """Wait for a collector and answer; go on in another epoch if this process has moved over meanwhile."""
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            memory = self._memory
            if memory.process.is_due:
                memory.notice()
            slab = memory.slab_name
            if slab is not None and slab.identity != self._slab:
                self._listener = None
                self._hang_up(listener)
            return
        with connection:
            self._answer(connection)

    def _listen(self) -> socket.socket:
        """Lease the slab and listen beside it; OSError when the store has no room for that now."""
        memory = self._memory
        memory.lease()
        slab, epoch = memory.slab_name, memory.epoch
        if slab is None or epoch is None:
            raise OSError("no slab can be leased")
        self._slab, self._path = slab.identity, os.path.join(epoch.path, socket_name(slab))
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Under its own name only once it listens: whoever finds it there is accepted.
            temporary = f"new-ask-{slab.identity}"
            with short(epoch.path, temporary) as where:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(where)  # of an attempt that did not come this far
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
            # For the whole of it: one that drips must not keep the others waiting.
            connection.settimeout(max(_LEAST, end - time.monotonic()))
            chunk = connection.recv(_LONGEST)
            if not chunk or len(request) > _LONGEST or time.monotonic() > end:
                return
            request += chunk
        try:
            asked = json.loads(request)
            seconds, max_age = float(asked["seconds"]), float(asked["max_age"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            log.warning("a collector of another version asked: %r", request)
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
        """Whether it is still open; it lets go of a number that is somebody else's by now."""
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
        """In a forked child: the socket is the parent's, and would outlive it here."""
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
