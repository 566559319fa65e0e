"""The endpoint's listening sockets, which the master owns and each collector process inherits.

So a collector can be replaced without a connection being refused: meanwhile they wait. So can a master, which hands
them over to the next one. A privileged port is opened while the master still may. Workers close their copies, so that a
port is free as soon as master and collector are gone.
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
"""Seconds after which an address that was not to be had is tried again."""


def resolve(bind: str | Iterable[str], held: list[Address] | None) -> list[Address]:
    """The addresses that ``bind`` names, separated by commas or one by one.

    ValueError for one that is none, or whose host has no address. With those that are ``held``, on a reload, gunicorn
    would end the server for that: so it is said in the log, and these stay.
    """
    texts = bind.split(",") if isinstance(bind, str) else list(bind)
    try:
        return list(dict.fromkeys(parse(text).resolved() for text in texts))
    except ValueError as error:
        if held is None:
            raise
        log.error("%s; the endpoint stays where it was", error)
        return held


def _listening(number: int) -> socket.socket | None:
    """The listening socket that has this descriptor, not inherited any further; None when there is none."""
    try:
        listener = socket.socket(fileno=number)
    except OSError:
        return None
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.detach()  # somebody else's
        return None
    listener.set_inheritable(False)
    return listener


class Listeners:
    """Sockets that listen at the addresses last given to :meth:`set`, as far as these can be had."""

    def __init__(self) -> None:
        self._addresses: list[Address] = []
        self._open: dict[Address, socket.socket] = {}
        self._failures = LogOnce()
        self._due = 0.0
        self._scheme = "http"

    def set(self, addresses: Sequence[Address], scheme: str = "http") -> None:
        """Listen at these from the next :meth:`open` on; sockets of others are closed. ``scheme`` is for messages."""
        self._scheme = scheme
        for address in set(self._addresses) - set(addresses):
            self._failures.forget(address)
        self._addresses = list(addresses)
        for address in set(self._open) - set(addresses):
            self._open.pop(address).close()
        self._due = 0.0

    def open(self) -> bool:
        """Try those that are missing, at most once a second; answers whether there is a new one. Never raises."""
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
        """In the child that becomes the next master: keep the sockets open, and say what it has to know of them."""
        for listener in self._open.values():
            listener.set_inheritable(True)
        return json.dumps({str(address): listener.fileno() for address, listener in self._open.items()})

    def take_over(self, said: str, wanted: Sequence[Address]) -> None:
        """Have the sockets of the master before, which ``said`` this, at the ``wanted`` addresses; close the others.

        What nobody can have said is said in the log, and the addresses are opened as at any start.
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
        """The sockets that listen now."""
        return list(self._open.values())

    def remove(self) -> None:
        """Close all of them and remove the files of unix sockets: nobody is going to listen there."""
        for address in self._open:
            if address.path:
                with contextlib.suppress(OSError):
                    os.unlink(address.path)
        self.close()

    def close(self) -> None:
        """Close all of them, in this process."""
        for listener in self._open.values():
            listener.close()
        self._open.clear()
        self._addresses.clear()
