"""One client's connection, from accept to close. Belongs to the event loop's thread."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from mpmetrics.http.messages import Conversation, Request, Response, plain

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from mpmetrics.http.eviction import Eviction
    from mpmetrics.http.limits import Limits

__all__ = ["Connection"]

logger = logging.getLogger("mpmetrics")

_RESET = struct.pack("ii", 1, 0)
_CHUNKS = 4  # chunks that a client that reads is sent in one turn of the loop, before others have theirs
_UNSENT_MARK: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # Linux and macOS have it


class Connection(asyncio.BufferedProtocol):
    """Reads a request, has it answered, writes the answer, and begins again; all in callbacks of the event loop.

    `ask` gets the request, and the function to call with its response. What the client sends while its answer is made
    or written is kept up to the size of a request head; a client that sends more is dropped. Reading never pauses:
    asyncio's TLS does not report that a client has gone while it does, and logs a warning for each later write.
    """

    _transport: asyncio.Transport | None = None

    def __init__(
        self,
        limits: Limits,
        eviction: Eviction,
        ask: Callable[[Request, Callable[[Response], None]], None],
        scratch: memoryview,
        *,
        refuse: bool,
        closing: Callable[[], bool],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._eviction = eviction
        self._ask = ask
        # All connections read into the same memory: what arrived is copied out before the loop goes on.
        self._scratch = scratch
        self._refuse = refuse
        self._closing = closing
        self._talk = Conversation(limits.max_head)
        self._unsent: memoryview | None = None  # None: no answer is being written
        self._idle = self._answering = self._paused = self._lingering = self._gone = self._ended = False
        self._timer = self._loop.call_later(limits.header_timeout, self._time_out)
        eviction.wait(self)

    def open(self, client: socket.socket, context: ssl.SSLContext | None) -> None:
        """Take over an accepted socket, and speak TLS with `context` on it."""
        self._client = client
        if _UNSENT_MARK is not None and client.family != socket.AF_UNIX:
            # Otherwise the system buffers megabytes that the client does not read, and reports the socket as writable
            # only when a third of them are read: a client behind a slow link would look like one that does not read.
            with suppress(OSError):  # the connection is closed already
                client.setsockopt(socket.IPPROTO_TCP, _UNSENT_MARK, self._limits.chunk)
        self._opening: asyncio.Task[None] | None = self._loop.create_task(self._open(client, context))
        # A task that is cancelled before it has begun closes nothing itself.
        self._opening.add_done_callback(lambda task: client.close() if task.cancelled() else None)

    async def _open(self, client: socket.socket, context: ssl.SSLContext | None) -> None:
        options: dict[str, Any] = {}
        if context is not None:
            options = {
                "ssl": context,
                "ssl_handshake_timeout": self._limits.header_timeout,
                "ssl_shutdown_timeout": self._limits.write_timeout,
            }
        try:
            await self._loop.connect_accepted_socket(lambda: self, client, **options)
        except OSError as error:
            logger.debug("a client's connection failed before its first request: %s", error)
            # asyncio raises it from a frame that holds it, so that both would wait for the garbage collector.
            error.with_traceback(None)
            client.close()
            self.drop()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is ready, its TLS handshake included."""
        self._opening = None
        self._transport = cast("asyncio.Transport", transport)
        if self._gone:
            self._transport.abort()
            return
        # The transport asks for a pause as soon as it has to keep anything, so it never keeps more than one chunk; of
        # TLS, two. (Not 0, with which asyncio's TLS would pause without end.)
        self._transport.set_write_buffer_limits(high=1)
        if self._refuse:
            self._begin_answer(plain(503, ("Retry-After", "1")))

    def drop(self) -> None:
        """Close at once, whatever is under way; the place is free when this returns."""
        if self._gone:
            return
        self._gone = True
        self._timer.cancel()
        self._eviction.leave(self)
        if self._unsent is not None:
            # Reset: otherwise the system would keep for minutes what the client does not read.
            with suppress(OSError):  # closed already
                self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._unsent = None
        if self._transport is not None:
            # Not here and now: asyncio's TLS may be in the middle of reading.
            self._loop.call_soon(self._transport.abort)
        elif self._opening is not None:
            self._opening.cancel()
            self._opening = None  # its exception would hold this object

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The transport is closed, by either side."""
        self.drop()
        # The transport holds this object: together they would stay in memory until the garbage collector comes.
        self._transport = None

    # Reading

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Where to put what arrives."""
        # No more than the conversation has room for: so a head is refused at its limit, and not somewhere past it.
        return self._scratch if self._lingering or self._gone else self._scratch[: self._talk.room]

    def buffer_updated(self, nbytes: int) -> None:
        """So much arrived."""
        if self._lingering or self._gone:
            return
        if self._idle:
            self._idle = False
            self._limit(self._limits.header_timeout, self._time_out)
        self._talk.feed(bytes(self._scratch[:nbytes]))
        if not self._answering:
            self._take()
        elif not self._talk.room:
            self.drop()

    def eof_received(self) -> bool:
        """The client sends no more. Without TLS, it still gets its answers; asyncio's TLS has no half-closed state."""
        self._ended = True
        if self._lingering or self._gone or not self._has_half_close:
            self.drop()
            return False
        self._talk.feed(b"")
        if not self._answering:
            self._take()
        return not self._gone

    @property
    def _has_half_close(self) -> bool:
        return self._transport is not None and self._transport.can_write_eof()

    def _take(self) -> None:
        """Have the next request answered, if it is complete."""
        found = self._talk.take()
        if found is None:
            if self._ended:
                self.drop()
            return
        self._eviction.serve(self)
        self._answering = True
        self._timer.cancel()
        if isinstance(found, Response):
            self._begin_answer(found)
        else:
            self._ask(found, self._begin_answer)

    def _time_out(self) -> None:
        """The request is late."""
        if self._talk.begun:
            self._eviction.serve(self)
            self._begin_answer(plain(408))
        else:
            self.drop()

    # Writing

    def _begin_answer(self, response: Response) -> None:
        if self._gone or self._transport is None:
            return
        self._answering = True
        last = self._closing() or (self._ended and not self._talk.held)
        try:
            head, body = self._talk.answer(response, last=last)
        except Exception:  # whatever a handler made of it
            # Not the response itself, whose body may be large.
            logger.exception("a response cannot be sent: status %r", getattr(response, "status", type(response)))
            head, body = self._talk.answer(plain(500), last=last)
        self._limit(self._limits.write_timeout, self.drop)
        first = max(0, self._limits.chunk - len(head))
        self._unsent = body[first:]
        self._eviction.answer(self, cast("bytes", body.obj) if self._unsent else b"")
        if self._paused:
            self._eviction.stall(self)
        if not self._gone:  # else it had to go for the memory of others
            self._transport.write(b"".join((head, body[:first])))
            self._go_on()

    def _go_on(self) -> None:
        # Not on the spot: other connections have their turn between some chunks, and a transport that has just called
        # `resume_writing` is not ready to be closed.
        self._loop.call_soon(self._write)

    def _write(self) -> None:
        for _ in range(_CHUNKS):
            if self._gone or self._paused or self._unsent is None or self._transport is None:
                return
            if not self._unsent:
                self._end_answer(self._transport)
                return
            chunk, self._unsent = self._unsent[: self._limits.chunk], self._unsent[self._limits.chunk :]
            self._transport.write(chunk)
        self._go_on()

    def pause_writing(self) -> None:
        """The client does not read as fast as we write."""
        self._paused = True
        self._eviction.stall(self)

    def resume_writing(self) -> None:
        """The client has read all that was written."""
        self._paused = False
        self._eviction.resume(self)
        self._go_on()

    def _end_answer(self, transport: asyncio.Transport) -> None:
        self._unsent = None  # an empty part of a body would keep all of it
        if not self._closing() and self._talk.renew():
            self._answering = False
            self._eviction.wait(self)
            self._idle = not self._talk.begun
            limits = self._limits
            self._limit(limits.idle_timeout if self._idle else limits.header_timeout, self._time_out)
            self._take()
            return
        # The client may now fetch the end of its answer, within `write_timeout`, unless its place is needed.
        self._lingering = True
        self._eviction.answer(self, b"")
        self._eviction.stall(self)
        if self._talk.heard_out or self._ended:
            transport.close()
        elif self._has_half_close:
            # To close before the client has stopped sending would reset the connection, and the reset may overtake
            # the answer. So send the end, and throw away what comes.
            try:
                transport.write_eof()
            except OSError:  # reset by the client, which the transport has not noticed yet
                self.drop()

    def _limit(self, seconds: float, then: Callable[[], None]) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(seconds, then)
