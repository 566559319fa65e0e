"""Who is connected to the endpoint, and who of them can be dropped first. Belongs to the event loop's thread."""

from __future__ import annotations

import asyncio
from typing import Protocol

from mpmetrics.http.unsent import Unsent

__all__ = ["Guest", "Roster"]


class Guest(Protocol):
    """A connection, as the roster sees it."""

    def drop(self) -> None:
        """Close at once and leave the roster."""


class Roster:
    """Who is connected, and who of them can be dropped first: who has kept us waiting longest.

    Somebody keeps us waiting who owes us a request, or who does not read his answer. There is no time that everyone is
    granted, nor does one kind go before the other: either would have a client that just came, or one behind a slow
    link, dropped before a hostile one. A client that reads what it is sent, however slowly, owes us nothing in between.

    When more than `max_unsent` bytes wait to be sent, some of those who do not read are dropped; see `Unsent`.
    """

    def __init__(self, max_unsent: int) -> None:
        self._open: set[Guest] = set()
        # In order of time, as dicts are: the first has kept us waiting longest. True: for it does not read.
        self._owing: dict[Guest, bool] = {}
        self._unsent: Unsent[Guest] = Unsent(max_unsent)
        self.closing = False
        self._empty = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def is_crowded(self) -> bool:
        """Whether so much waits to be sent that it is better to make few answers."""
        return self._unsent.many

    def wait(self, connection: Guest) -> None:
        """The connection owes us a request (or is new, or is only being heard out): it can be dropped."""
        self._open.add(connection)
        self._unsent.release(connection)
        self._owing.pop(connection, None)
        self._owing[connection] = False

    def serve(self, connection: Guest) -> None:
        """The connection has sent its request: it stays."""
        self._owing.pop(connection, None)

    def answer(self, connection: Guest, body: bytes) -> None:
        """The connection is being sent `body`, which is kept until it waits again or leaves."""
        self._unsent.hold(connection, body)
        self._trim()

    def stall(self, connection: Guest) -> None:
        """The client does not read from now on. It may be dropped, also before this returns."""
        # One that owes us a request as well has done so for longer.
        if connection in self._open and connection not in self._owing:
            self._owing[connection] = True
            self._trim()

    def resume(self, connection: Guest) -> None:
        """The client has read on."""
        if self._owing.get(connection):
            del self._owing[connection]

    def leave(self, connection: Guest) -> None:
        """The connection is gone."""
        self._open.discard(connection)
        self._owing.pop(connection, None)
        self._unsent.release(connection)
        if not self._open:
            self._empty.set()

    def evict(self) -> bool:
        """Drop whoever has kept us waiting longest. False when nobody does, so that everyone deserves the place."""
        victim = next(iter(self._owing), None)
        if victim is not None:
            victim.drop()
        return victim is not None

    def _trim(self) -> None:
        while self._unsent.too_many:
            victims = self._unsent.longest_unread(guest for guest, stalled in self._owing.items() if stalled)
            for victim in victims:
                victim.drop()
            if not victims:
                return

    def dismiss(self, *, everyone: bool) -> None:
        """Drop those that wait for a request, or everyone."""
        waiting = [guest for guest, stalled in self._owing.items() if not stalled]
        for connection in list(self._open) if everyone else waiting:
            connection.drop()

    async def wait_empty(self) -> None:
        """Wait until nobody is connected."""
        while self._open:
            self._empty.clear()
            await self._empty.wait()
