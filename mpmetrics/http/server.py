"""The HTTP/1.1 server of the scrape endpoint: listening sockets, places for connections, and stopping.

Role: `HttpServer` serves a `Handler` on listening sockets within an event loop; `ServerThread` brings the loop along.
`connection.py` is the life of one connection, `messages.py` what its bytes mean.

Ownership: everything belongs to the event loop's thread, but `Handler.__call__` runs on daemon threads. The server owns
and closes each socket that was added; the file of a Unix socket stays the caller's.

Guarantees: a slow, idle or silent client costs a place, and loses it to the next client when places run out; so a
scrape is answered whatever other clients do, as long as the handler answers. Memory is bounded: a connection holds at
most one request head and one chunk of its response besides the body. With TLS, asyncio holds up to half a megabyte
more. `Limits.max_unsent` bounds the bodies of all connections. With credentials, only refusals that come from the
protocol itself (400, 405, 408, 431, 503, 505) and the health path are answered without them.

Limits: a handler is never interrupted; if it hangs, its thread stays busy until it returns. Threads do not survive a
fork, sockets do: start the server after forking, in the process that is to answer.

Rejected: asyncio's own server, because it does not close waiting connections when descriptors run out; and ASGI and
WSGI servers, as docs/design/dependencies.md measures.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from mpmetrics.http.connection import Connection
from mpmetrics.http.eviction import Eviction
from mpmetrics.http.limits import Limits
from mpmetrics.http.threads import HandlerThreads
from mpmetrics.log_once import LogOnce

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics.http.messages import Handler, Request, Response
    from mpmetrics.http.security.protection import Protection

__all__ = ["HttpServer"]

_SHARE = 8  # one turn of the event loop gives away one in so many places
_FULL = 1.0  # seconds that new connections wait in the listen queue while all places or threads are taken
_LOOK = 0.005  # seconds between two checks whether they still are
_RETRY = 1.0  # seconds until the next accept if descriptors have run out and no connection can be closed
_LATE = 0.05  # seconds that a request may arrive after its connection when the server closes
_COMPLAINTS = 60.0  # seconds between two log lines about failing accepts


class _Door(NamedTuple):
    """How requests on one listening socket are answered, and what protects them."""

    ask: Callable[[Request, Callable[[Response], None]], None]
    protection: Protection | None


class HttpServer:
    """Serves a handler on any number of listening sockets, within the running event loop.

    A new connection beyond `limits.max_connections` takes the place of the one that has kept the server waiting
    longest, for a complete request or for reading its answer. Connections that have just begun to do so keep their
    places for a moment, for which new ones wait in the listen queue. If all connections are being answered for a
    second, new ones are refused with 503.

    All methods belong to the loop's thread. A server starts once and closes once.
    """

    def __init__(self, handler: Handler, limits: Limits | None = None) -> None:
        self._handler = handler
        self._limits = limits or Limits()
        self._eviction = Eviction(self._limits.max_unsent)
        self._scratch = memoryview(bytearray(self._limits.max_head))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: HandlerThreads | None = None
        self._closing = False
        self._full_since = 0.0
        self._sockets: dict[socket.socket, asyncio.TimerHandle | None] = {}
        self._doors: dict[socket.socket, _Door] = {}
        self._log = LogOnce(again_after=_COMPLAINTS)

    async def start(self) -> None:
        """Begin. Raises RuntimeError if this server was started before."""
        if self._loop is not None:
            raise RuntimeError("an HttpServer starts once; make another one")
        self._loop = asyncio.get_running_loop()
        self._threads = HandlerThreads(self._limits.threads)

    async def add(self, sock: socket.socket, protection: Protection | None = None) -> None:
        """Serve on `sock` too, which is bound and listens, and belongs to the server from now on.

        Clients of this socket need TLS and credentials as `protection` says.

        Raises RuntimeError unless the server runs, ValueError if the socket does not listen.
        """
        if self._loop is None or self._threads is None or self._closing:
            raise RuntimeError("the HttpServer does not run: await start() first, and add nothing after close()")
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError(f"{sock!r} does not listen: call bind() and listen() first")
        sock.setblocking(False)  # noqa: FBT003 (its only parameter)
        handler = self._handler if protection is None else protection.guard(self._handler)
        self._doors[sock] = _Door(functools.partial(self._threads.ask, handler), protection)
        self._listen(self._loop, sock)

    def busy_for(self) -> float:
        """Seconds that the handler has been working on its oldest request; 0 when there is none."""
        return 0.0 if self._threads is None else self._threads.busy_for()

    async def close(self, grace: float) -> None:
        """Stop accepting, close waiting connections, give answers under way `grace` seconds, then close all.

        A client that has just connected is about to send its request, so the server reads for a moment more. A handler
        that still runs is left alone; its thread ends when it returns.
        """
        self._closing = True
        for sock, retry in self._sockets.items():
            if retry is not None:
                retry.cancel()
            elif self._loop is not None:
                self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()
        for seconds, everyone in ((_LATE, False), (grace, True)):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._eviction.wait_empty()
            self._eviction.dismiss(everyone=everyone)
        # The transports close their sockets in the loop's next turn.
        await asyncio.sleep(0)

    # Accepting

    def _listen(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._sockets[sock] = None
        loop.add_reader(sock, self._accept, loop, sock)

    def _accept(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._eviction.tick()
        # Only a few in each turn: a request is read some turns after its connection was accepted, and a burst of other
        # connections must not take its place before that.
        for _ in range(max(1, self._limits.max_connections // _SHARE)):
            if self._must_wait(loop.time()):
                loop.remove_reader(sock)
                self._sockets[sock] = loop.call_later(_LOOK, self._listen, loop, sock)
                return
            try:
                client, _address = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._back_off(loop, sock, error)
                return
            client.setblocking(False)  # noqa: FBT003 (its only parameter)
            self._admit(client, self._doors[sock])

    def _must_wait(self, now: float) -> bool:
        """Whether new connections stay in the listen queue for now, because a crowd is being answered."""
        is_full = self._is_full
        if not is_full:
            self._full_since = now
        return is_full and now - self._full_since < _FULL

    @property
    def _is_full(self) -> bool:
        if self._threads is not None and self._threads.all_busy:
            return True
        return len(self._eviction) >= self._limits.max_connections and not self._eviction.can_evict

    def _back_off(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, error: OSError) -> None:
        """Accept again later; the socket stays readable, so the loop would spin."""
        self._log.error("accept", "cannot accept connections on %s: %s; trying again", sock.getsockname(), error)
        short = error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
        # If a connection was closed, its descriptor is free after two turns of the loop.
        delay = 0.01 if short and self._eviction.evict() else _RETRY
        loop.remove_reader(sock)
        self._sockets[sock] = loop.call_later(delay, self._listen, loop, sock)

    def _admit(self, client: socket.socket, door: _Door) -> None:
        refuse = False
        while len(self._eviction) >= self._limits.max_connections and not refuse:
            refuse = not self._eviction.evict()
        # A refused connection is like any other until the client has read why. It counts as waiting, so the next
        # connection takes its place, and at most one connection is too many.
        connection = Connection(
            self._limits, self._eviction, door.ask, self._scratch, refuse=refuse, closing=lambda: self._closing
        )
        connection.open(client, None if door.protection is None else door.protection.context())
