"""Which responses are kept in memory until their clients have read them. Belongs to the event loop's thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Unsent"]

Client = TypeVar("Client")

_ALWAYS = 4
"""Bodies that may be kept however large they are, or scrapes of very many series could not be answered at all."""


class Unsent(Generic[Client]):
    """The bodies that are not sent yet, and whom each is kept for. A body that many clients are sent counts once.

    There are too many when there are more than four, and more than ``most`` bytes in all.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = 0
        # By identity: to compare bodies of many megabytes would take time, and equal ones take their memory twice.
        self._bodies: dict[int, tuple[bytes, set[Client]]] = {}
        self._held: dict[Client, int] = {}

    def __len__(self) -> int:
        return len(self._bodies)

    def hold(self, client: Client, body: bytes) -> None:
        """``client``, who held nothing, is to be sent ``body``."""
        key = id(body)
        if key not in self._bodies:
            self._bodies[key] = (body, set())
            self.size += len(body)
        self._bodies[key][1].add(client)
        self._held[client] = key

    def release(self, client: Client) -> None:
        """``client`` has all of it, or is gone."""
        key = self._held.pop(client, None)
        if key is None:
            return
        body, clients = self._bodies[key]
        clients.remove(client)
        if not clients:
            del self._bodies[key]
            self.size -= len(body)

    @property
    def too_many(self) -> bool:
        """Whether somebody has to go without the rest of his answer."""
        return self.size > self._most and len(self._bodies) > _ALWAYS

    @property
    def many(self) -> bool:
        """Whether it may soon be too many."""
        return self.size > self._most // 2 and len(self._bodies) > _ALWAYS // 2

    def longest_unread(self, stalled: Iterable[Client]) -> list[Client]:
        """Those who have to go for the memory of one body; ``stalled`` are who read nothing, the longest first.

        That is the body of which nobody has read anything for the longest time. One that somebody reads stays, and to
        drop others who are sent the same would free nothing. Empty when each body is being read.
        """
        waiting: dict[int, list[Client]] = {}
        for client in stalled:
            key = self._held.get(client)
            if key is not None:
                waiting.setdefault(key, []).append(client)
                if len(waiting[key]) == len(self._bodies[key][1]):
                    return waiting[key]
        return []
