"""TLS between a connection and its socket. Belongs to the event loop's thread.

Stands in the place of the transport for the connection, and in the place of the connection for the socket's transport.
asyncio's own TLS is not used: it keeps up to half a megabyte for each client, cannot send the end of what it sends
without closing, and does not answer a client that said its own end first.

Guarantees: holds no more than two reads of a client that are not decrypted, and one record beside what the socket's
transport holds. A client that does not finish its handshake looks to the connection like one that says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from typing import cast

from mpmetrics.http.transports import untie

__all__ = ["TlsTransport"]

logger = logging.getLogger("mpmetrics")

_RECORD = 16 * 1024  # bytes of plain text that one record may hold


class TlsTransport(asyncio.BufferedProtocol):
    """Encrypts what ``protocol`` writes, and decrypts what it reads. All connections share ``scratch`` to read into.

    What is written before the handshake is done is sent after it.
    """

    _raw: asyncio.Transport

    def __init__(self, protocol: asyncio.BufferedProtocol, context: ssl.SSLContext, scratch: memoryview) -> None:
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._scratch = scratch
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._early = b""
        self._stands = False  # the handshake is done
        self._wants = True  # the protocol wants to read
        self._stalled = False  # the client does not read, so that nothing is read from it either
        self._ended = False  # the client has sent all that it is going to send
        self._closing = False  # so have we, or will have with what is in `_early`

    # What the socket's transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands; the handshake is to come."""
        self._raw = cast("asyncio.Transport", transport)
        self._protocol.connection_made(cast("asyncio.Transport", self))

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed. From now on the protocol calls nothing here that calls it."""
        self._protocol.connection_lost(exc)
        # Each holds the other, and OpenSSL's memory would stay until the garbage collector comes.
        del self._protocol
        untie(self._raw)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Where to put what arrives."""
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """So much arrived. After the end, which either side may have said, nobody is going to read it."""
        if not (self._ended or (self._closing and self._stands)):
            self._incoming.write(self._scratch[:nbytes])
            self._pump()

    def eof_received(self) -> bool:
        """The client sends no more, with or without having said so in TLS."""
        self._incoming.write_eof()
        if self._closing and self._stands:
            self._end()
        else:
            self._pump()
        return not self._raw.is_closing()

    def pause_writing(self) -> None:
        """The client does not read as fast as we write: what it sends may only make us write more."""
        self._stalled = True
        self._raw.pause_reading()
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """The client has read all that was written."""
        self._stalled = False
        if self._wants:
            self._raw.resume_reading()
        self._protocol.resume_writing()

    # What the connection calls.

    def set_write_buffer_limits(self, high: int) -> None:
        """As of the socket's transport."""
        self._raw.set_write_buffer_limits(high=high)

    def pause_reading(self) -> None:
        """Decrypt nothing, and let nothing arrive."""
        self._wants = False
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Go on with what has arrived, and with what will."""
        if not self._wants:
            self._wants = True
            if not self._stalled:
                self._raw.resume_reading()
            self._loop.call_soon(self._pump)

    def write(self, data: bytes | memoryview) -> None:
        """Send."""
        if not self._stands:
            self._early += data
            return
        rest = memoryview(data)
        while rest and not self._raw.is_closing():
            try:
                written = self._tls.write(rest[:_RECORD])
            except ssl.SSLError as error:
                self._fail(error)
                return
            rest = rest[written:]
            self._flush()

    def write_eof(self) -> None:
        """Say that this is the end, and throw away what comes."""
        self._closing = True
        if self._stands:
            self._say_end()
            self._raw.write_eof()

    def close(self) -> None:
        """Close, once all is sent."""
        self._closing = True
        if self._stands:
            self._say_end()
        self._raw.close()

    def abort(self) -> None:
        """Close at once."""
        self._raw.abort()

    # Between the two

    def _pump(self) -> None:
        """Shake hands as far as that goes, and then hand over what can be decrypted."""
        if self._raw.is_closing():
            return
        try:
            if not self._stands:
                self._shake()
            while self._wants and not (self._ended or self._closing or self._raw.is_closing()):
                buffer = cast("memoryview", self._protocol.get_buffer(-1))
                count = cast("int", self._tls.read(len(buffer), buffer))  # the bytes are in the buffer
                if not count:
                    self._end()
                    break
                self._protocol.buffer_updated(count)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError) as error:
            if self._stands:
                self._end()
            else:
                self._fail(error)
        except ssl.SSLError as error:
            self._fail(error)
        self._flush()

    def _shake(self) -> None:
        self._tls.do_handshake()
        self._stands = True
        early, self._early = self._early, b""
        self.write(early)
        if self._closing:
            self.write_eof()

    def _end(self) -> None:
        """The protocol is to know that no more comes; it says whether it has more to send."""
        if not self._ended:
            self._ended = True
            if not self._protocol.eof_received():
                self.close()

    def _fail(self, error: ssl.SSLError) -> None:
        """Close, after telling the client why."""
        logger.debug("a client's TLS failed: %s", error)
        self._flush()
        self._raw.close()

    def _say_end(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # the client's own end has not come yet
            self._tls.unwrap()
        self._flush()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and not self._raw.is_closing():
            self._raw.write(data)
