"""Listeners: the endpoint's listening sockets. The master owns them, and each collector process inherits them.

So no connection is refused while a collector is replaced; connections wait. The same holds for a new master (SIGUSR2),
to which the old one hands the sockets over. The master opens privileged ports with its own rights. Workers close their
copies, so a port is free as soon as master and collector are gone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from typing import TYPE_CHECKING

from mpmetrics.http.address import parse
from mpmetrics.log_once import LogOnce

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mpmetrics.http.address import Address

__all__ = ["Listeners", "resolve"]

log = logging.getLogger("mpmetrics")

RETRY = 1.0
"""Seconds after which an address at which listening failed is tried again."""


def resolve(bind: str | Iterable[str], held: list[Address] | None) -> list[Address]:
    """Return the addresses in ``bind``, a comma-separated str or an iterable.

    ValueError for an invalid address, and for a host that has none. On a reload, ``held`` are the addresses in use:
    then an error is logged and these stay, because gunicorn would end the server for an exception.
    """
    texts = bind.split(",") if isinstance(bind, str) else list(bind)
    try:
        return list(dict.fromkeys(parse(text).resolved() for text in texts))
    except ValueError as error:
        if held is None:
            raise
        log.error("%s; the endpoint stays at its addresses", error)
        return held


def _listening(number: int) -> socket.socket | None:
    """Return the listening socket with this descriptor, no longer inheritable; None if it is no listening socket."""
    try:
        listener = socket.socket(fileno=number)
    except OSError:
        return None
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.detach()  # it belongs to other code
        return None
    listener.set_inheritable(False)
    return listener


class Listeners:
    """Sockets that listen at the addresses last given to :meth:`set`, if listening there is possible."""

    def __init__(self) -> None:
        self._addresses: list[Address] = []
        self._open: dict[Address, socket.socket] = {}
        self._failures = LogOnce()
        self._due = 0.0
        self._scheme = "http"

    def set(self, addresses: Sequence[Address], scheme: str = "http") -> None:
        """Set the addresses for the next :meth:`open`; close the sockets of others. ``scheme`` is for messages."""
        self._scheme = scheme
        for address in set(self._addresses) - set(addresses):
            self._failures.forget(address)
        self._addresses = list(addresses)
        for address in set(self._open) - set(addresses):
            self._open.pop(address).close()
        self._due = 0.0

    def open(self) -> bool:
        """Try to open the missing sockets, at most once a second; True if there is a new one. Never raises."""
        if len(self._open) == len(self._addresses) or time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + RETRY
        before = len(self._open)
        for address in self._addresses:
            if address not in self._open:
                try:
                    self._open[address] = address.listen()
                except OSError as error:
                    self._failures.error(
                        address,
                        "metrics cannot be served at %s: %s; trying again every %g s",
                        address,
                        error.strerror or error,
                        RETRY,
                    )
                else:
                    log.info("metrics are served at %s", address.url_of(self._scheme))
        return len(self._open) > before

    def hand_over(self) -> str:
        """In the child that becomes the next master: make the sockets inheritable; return the text for take_over()."""
        for listener in self._open.values():
            listener.set_inheritable(True)
        return json.dumps({str(address): listener.fileno() for address, listener in self._open.items()})

    def take_over(self, said: str, wanted: Sequence[Address]) -> None:
        """Take the sockets of the master before at the ``wanted`` addresses, and close its others.

        ``said`` is what its :meth:`hand_over` returned. If it is invalid, that is logged, and :meth:`open` opens the
        addresses as at any start.
        """
        try:
            handed = {text: _listening(number) for text, number in json.loads(said).items()}
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            log.error("no sockets are taken over: %s from %r", error, said)
            return
        for address in wanted:
            listener = handed.pop(str(address), None)
            if listener is not None:
                self._open[address] = listener
        for listener in handed.values():
            if listener is not None:
                listener.close()

    def sockets(self) -> list[socket.socket]:
        """Return the sockets that listen now."""
        return list(self._open.values())

    def remove(self) -> None:
        """Close all sockets and remove the files of unix sockets, because no process will listen there."""
        for address in self._open:
            if address.path:
                with contextlib.suppress(OSError):
                    os.unlink(address.path)
        self.close()

    def close(self) -> None:
        """Close all sockets in this process."""
        for listener in self._open.values():
            listener.close()
        self._open.clear()
        self._addresses.clear()
