"""Which connections are open, and which of them is closed first. Belongs to the event loop's thread."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from itertools import chain
from typing import Protocol

__all__ = ["Eviction"]

_ALWAYS = 4
"""Unread answers that are kept whatever their size, so that very large scrapes can be answered at all."""

_AT_ONCE = 2
"""How many times the limit of unread answers may be passed while clients still have time to begin reading."""

_TURNS = 5
"""Turns of the event loop for which a connection keeps its place. A request that has arrived is read in the fourth."""

_GRACE, _GRACE_TO_READ = 0.025, 0.15
"""Seconds for which it keeps its place: while its request is incomplete, and while its client does not read.

A TLS handshake takes a round trip or two, and a busy machine makes any client pause for that long.
"""


class Evictable(Protocol):
    """A connection, as far as eviction needs it."""

    def drop(self) -> None:
        """Close at once and call :meth:`Eviction.leave`."""


class Eviction:
    """The open connections, and the order in which they are closed when places or memory run out.

    A connection keeps the server waiting while its request is incomplete, or while the client does not read its answer.
    The connection that has kept the server waiting longest is closed first. Clients that have read a part of their
    answer, and wait again, go after all others: they may be behind a slow link.

    Unread answers are limited to `max_unsent` bytes or to four of any size. A body that several clients are sent counts
    once. Past the limit, the connections that have not read for longest are closed until it is kept, and past twice the
    limit also those that have just begun not to read.
    """

    def __init__(self, max_unsent: int) -> None:
        self._max_unsent = max_unsent
        self._turn = 0
        self._unsent = 0
        self._open: set[Evictable] = set()
        self._waiting: dict[Evictable, tuple[int, float]] = {}
        """Connections that keep the server waiting, the first for longest; turn and time until which they may."""
        self._slow: dict[Evictable, tuple[int, float]] = {}
        """The same for clients that have read a part of their answer."""
        self._readers: set[Evictable] = set()
        """Connections whose clients have read a part of the answer under way."""
        self._answers: dict[Evictable, bytes] = {}
        # By identity: comparing large bodies takes long, and equal ones occupy memory twice.
        self._clients: Counter[int] = Counter()
        self._empty = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    def wait(self, connection: Evictable) -> None:
        """The server waits for a request of this connection, which may be new."""
        self._forget(connection)
        self._open.add(connection)
        self._waiting[connection] = self._turn + _TURNS, time.monotonic() + _GRACE

    def serve(self, connection: Evictable) -> None:
        """The request is complete; the connection is not closed while its answer is made."""
        self._forget(connection)

    def answer(self, connection: Evictable, body: bytes) -> None:
        """The connection is sent an answer. `body` stays in memory until it waits again or leaves."""
        self._release(connection)
        self._answers[connection] = body
        if body:
            if not self._clients[id(body)]:
                self._unsent += len(body)
            self._clients[id(body)] += 1
            self._trim()

    def stall(self, connection: Evictable) -> None:
        """The client does not read its answer from now on. The connection may be closed before this returns."""
        if connection in self._answers and connection not in self._waiting and connection not in self._slow:
            order = self._slow if connection in self._readers else self._waiting
            order[connection] = self._turn + _TURNS, time.monotonic() + _GRACE_TO_READ
            self._trim()

    def resume(self, connection: Evictable) -> None:
        """The client has read."""
        if connection in self._answers:
            self._waiting.pop(connection, None)
            self._slow.pop(connection, None)
            self._readers.add(connection)

    def leave(self, connection: Evictable) -> None:
        """The connection is closed."""
        self._forget(connection)
        self._open.discard(connection)
        if not self._open:
            self._empty.set()

    @property
    def can_evict(self) -> bool:
        """Whether a connection has kept the server waiting for so long that another one may have its place."""
        return self._victim() is not None

    def tick(self) -> None:
        """Count a turn of the event loop in which connections are accepted."""
        self._turn += 1

    def evict(self) -> bool:
        """Close the connection that has kept the server waiting longest; False when none keeps it waiting."""
        victim = self._victim() or next(chain(self._waiting, self._slow), None)
        if victim is not None:
            victim.drop()
        return victim is not None

    def _victim(self, *, unread: bool = False) -> Evictable | None:
        """The connection to close first, of all or of those with an answer, if one has had its time."""
        now, held = time.monotonic(), chain(self._waiting.items(), self._slow.items())
        late = (one for one, (turn, end) in held if turn <= self._turn and end <= now)
        return next((one for one in late if not unread or self._answers.get(one)), None)

    def dismiss(self, *, everyone: bool) -> None:
        """Close the connections whose requests are incomplete, or every connection."""
        for connection in list(self._open):
            if everyone or (connection in self._waiting and connection not in self._answers):
                connection.drop()

    async def wait_empty(self) -> None:
        """Wait until no connection is open."""
        while self._open:
            self._empty.clear()
            await self._empty.wait()

    def _forget(self, connection: Evictable) -> None:
        self._release(connection)
        self._waiting.pop(connection, None)
        self._slow.pop(connection, None)
        self._readers.discard(connection)

    def _release(self, connection: Evictable) -> None:
        body = self._answers.pop(connection, b"")
        if body:
            self._clients[id(body)] -= 1
            if not self._clients[id(body)]:
                del self._clients[id(body)]
                self._unsent -= len(body)

    def _trim(self) -> None:
        while self._unsent > self._max_unsent and len(self._clients) > _ALWAYS:
            victim = self._victim(unread=True)
            if victim is None and self._unsent > _AT_ONCE * self._max_unsent:
                victim = next((one for one in chain(self._waiting, self._slow) if self._answers.get(one)), None)
            if victim is None:
                return
            victim.drop()
