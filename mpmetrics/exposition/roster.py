"""Who is connected to the endpoint, and who of them can be dropped first. Belongs to the event loop's thread."""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["Guest", "Roster"]


class Guest(Protocol):
    """A connection, as the roster sees it."""

    def drop(self) -> None:
        """Close at once and leave the roster."""


class Roster:
    """Who is connected, and who of them can be dropped first."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._open: set[Guest] = set()
        # Both in order of time, as dicts are: the first has waited longest.
        self._waiting: dict[Guest, None] = {}
        self._stalled: dict[Guest, float] = {}
        self.closing = False
        self._empty = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    def wait(self, connection: Guest) -> None:
        """The connection owes us a request (or is new, or is only being heard out): it can be dropped."""
        self._open.add(connection)
        self._waiting[connection] = None

    def serve(self, connection: Guest) -> None:
        """The connection has sent its request: it stays."""
        self._waiting.pop(connection, None)

    def stall(self, connection: Guest, since: float | None) -> None:
        """The client reads no further since then; None: it does again."""
        self._stalled.pop(connection, None)
        if since is not None and connection in self._open:
            self._stalled[connection] = since

    def leave(self, connection: Guest) -> None:
        """The connection is gone."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)
        self._stalled.pop(connection, None)
        if not self._open:
            self._empty.set()

    def evict(self, now: float) -> bool:
        """Drop whoever has waited longest without a complete request, else one that has not read its answer for long.

        False when everyone deserves the place.
        """
        victim = next(iter(self._waiting), None)
        if victim is None:
            stalled, since = next(iter(self._stalled.items()), (None, now))
            victim = stalled if now - since >= self._patience else None
        if victim is not None:
            victim.drop()
        return victim is not None

    def dismiss(self, *, everyone: bool) -> None:
        """Drop those that wait for a request, or everyone."""
        for connection in list(self._open if everyone else self._waiting):
            connection.drop()

    async def wait_empty(self) -> None:
        """Wait until nobody is connected."""
        while self._open:
            self._empty.clear()
            await self._empty.wait()
