"""One client's connection to the endpoint, from accept to close. Belongs to the event loop's thread."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from mpmetrics.http.messages import Conversation, Request, Response, plain
from mpmetrics.http.tls_transport import TlsTransport
from mpmetrics.http.transports import untie

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from mpmetrics.http.limits import Limits
    from mpmetrics.http.roster import Roster

__all__ = ["Connection"]

logger = logging.getLogger("mpmetrics")

_RESET = struct.pack("ii", 1, 0)
_UNSENT_MARK: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # Linux and macOS have it
_NOTHING = memoryview(b"")
_LINGER = 1.0  # seconds in which a client that is still sending may fetch its refusal


class Connection(asyncio.BufferedProtocol):
    """One client: reading a request, or having it answered, or writing the answer, and again.

    All of it happens in callbacks of the loop; while an answer is made or written, nothing is read. `ask` gets the
    request and what is to be called with its response. With ``tls``, all of it is encrypted.
    """

    _transport: asyncio.Transport
    _client: socket.socket

    def __init__(
        self,
        limits: Limits,
        roster: Roster,
        ask: Callable[[Request, Callable[[Response], None]], None],
        scratch: memoryview,
        *,
        refuse: bool,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._roster = roster
        self._ask = ask
        # All connections read into the same memory: what arrived is copied out before the loop goes on.
        self._scratch = scratch
        self._refuse = refuse
        self._tls = tls
        self._talk = Conversation(limits.max_head)
        self._unsent = _NOTHING
        self._paused = self._lingering = self._gone = self._idle = self._ended = False
        self._opening: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(limits.header_timeout, self._tardy)
        roster.wait(self)

    def open(self, client: socket.socket) -> None:
        """Take over an accepted socket."""
        self._client = client
        if _UNSENT_MARK is not None and client.family != socket.AF_UNIX:
            # Else the system takes megabytes that a client does not read, and then has us wait until it has read a
            # third of them, so that one behind a slow link would look like one that does not read.
            with suppress(OSError):  # a connection that is gone already
                client.setsockopt(socket.IPPROTO_TCP, _UNSENT_MARK, self._limits.chunk)
        self._opening = self._loop.create_task(self._open(client))
        # The task may be cancelled before it has begun, and then closes nothing itself.
        self._opening.add_done_callback(lambda task: client.close() if task.cancelled() else None)

    async def _open(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._reader, client)
        except OSError as error:
            logger.debug("a client's connection failed before its first request: %s", error)
            client.close()
            self.drop()

    def _reader(self) -> asyncio.BufferedProtocol:
        return self if self._tls is None else TlsTransport(self, self._tls, self._scratch)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast("asyncio.Transport", transport)
        self._opening = None
        if self._gone:
            self._transport.abort()
            return
        # The transport asks for a pause as soon as it has to keep anything: so it never keeps more than one chunk.
        self._transport.set_write_buffer_limits(high=0)
        if self._refuse:
            self._reply(plain(503, ("Retry-After", "1")))

    def drop(self) -> None:
        """Close at once, whatever is under way; the place is free when this returns."""
        if self._gone:
            return
        self._gone = True
        self._timer.cancel()
        self._roster.leave(self)
        self._unsent = _NOTHING
        if self._paused:
            # Reset it: the system would keep for minutes what the client does not read.
            with suppress(OSError):  # gone already
                self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if self._opening is not None:
            self._opening.cancel()
        else:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The transport is closed, by whomever."""
        self.drop()
        if self._tls is None:  # else its own protocol does
            untie(self._transport)

    # Reading

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Where to put what arrives."""
        # No more than the conversation has room for: so a head is refused at its limit, not somewhere beyond.
        return self._scratch if self._lingering else self._scratch[: self._talk.room]

    def buffer_updated(self, nbytes: int) -> None:
        """So much arrived."""
        if self._lingering or self._gone:
            return
        if self._idle:
            self._idle = False
            self._limit(self._limits.header_timeout, self._tardy)
        self._talk.feed(bytes(self._scratch[:nbytes]))
        self._advance()

    def eof_received(self) -> bool:
        """The client sends no more. One that has sent its request gets its answer all the same."""
        self._ended = True
        if self._lingering:
            return False
        self._talk.feed(b"")
        self._advance()
        return not self._gone

    def _advance(self) -> None:
        found = self._talk.take()
        if found is None:
            if self._ended:
                self.drop()
            else:
                self._transport.resume_reading()
            return
        self._transport.pause_reading()
        self._roster.serve(self)
        self._timer.cancel()
        if isinstance(found, Response):
            self._reply(found)
        else:
            self._ask(found, self._reply)

    def _tardy(self) -> None:
        if self._idle or self._opening is not None or not self._talk.begun:
            self.drop()
            return
        self._transport.pause_reading()
        self._roster.serve(self)
        self._reply(plain(408))

    # Writing

    def _reply(self, response: Response) -> None:
        if self._gone:
            return
        last = self._roster.closing or self._ended
        try:
            head, body = self._talk.answer(response, last=last)
        except Exception:  # whatever a handler made of it
            # Not the response itself, whose body may be large.
            logger.exception("a response cannot be sent: status %r", getattr(response, "status", type(response)))
            head, body = self._talk.answer(plain(500), last=last)
        self._limit(self._limits.write_timeout, self.drop)
        first = max(0, self._limits.chunk - len(head))
        self._unsent = body[first:]
        if self._unsent:
            self._roster.answer(self, cast("bytes", body.obj))
        self._transport.write(b"".join((head, body[:first])))
        self._go_on()

    def _go_on(self) -> None:
        # Not on the spot: other connections have their turn between two chunks, and a transport that has just called
        # `resume_writing` is not ready to be closed.
        if not self._paused:
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        if self._gone:
            return
        if not self._unsent:
            # An empty part of a body would keep all of it.
            self._unsent = _NOTHING
            self._sent()
            return
        chunk, self._unsent = self._unsent[: self._limits.chunk], self._unsent[self._limits.chunk :]
        self._transport.write(chunk)
        self._go_on()

    def pause_writing(self) -> None:
        """The client does not read as fast as we write."""
        self._paused = True
        self._roster.stall(self)

    def resume_writing(self) -> None:
        """The client has read all that was written."""
        self._paused = False
        self._roster.resume(self)
        self._go_on()

    def _sent(self) -> None:
        if not self._roster.closing and self._talk.renew():
            self._roster.wait(self)
            self._idle = not self._talk.begun
            limits = self._limits
            self._limit(limits.idle_timeout if self._idle else limits.header_timeout, self._tardy)
            self._advance()
            return
        self._lingering = True
        self._roster.wait(self)
        self._limit(_LINGER, self.drop)
        if self._talk.heard_out or self._ended:
            self._transport.close()
        else:
            # To close before the client has stopped sending would reset the connection, and the reset may overtake
            # the answer. So say that this is the end, and throw away what comes.
            try:
                self._transport.write_eof()
            except OSError:  # reset by the client, which the transport has not noticed yet
                self.drop()
            else:
                self._transport.resume_reading()

    def _limit(self, seconds: float, then: Callable[[], None]) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(seconds, then)
