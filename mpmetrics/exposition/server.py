"""The HTTP/1.1 server of the scrape endpoint: sockets, connections, time limits. What the bytes mean is `http`'s.

Role: `HttpServer` serves a `Handler` on listening sockets within an event loop; `ServerThread` brings the loop along.

Ownership: everything here belongs to the event loop's thread, except `Handler.__call__`, which runs on at most
`Limits.threads` daemon threads, and `ServerThread`, whose methods any one thread may call. A socket that was added belongs
to the server, which closes it; the file of a Unix socket stays the caller's.

Guarantees: a client that is slow, idle or silent costs a place, and loses it to the next client once places run out; so a
scrape is answered whatever the others do, as long as the handler answers. Memory is bounded: a connection holds at most
one request head, and one chunk of the response besides the body that all share.

Limits: no handler is ever interrupted; one that hangs keeps its thread, and its connection, until it returns. A client that
hangs up while its answer is computed is noticed only afterwards. Threads do not survive a fork, the sockets do: start
the server in the process that is to answer, after forking.

asyncio's own server is not used: it counts no connection before its TLS handshake is over, and when descriptors run out
it waits for others to go, although it could drop those that only wait.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import queue
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from ssl import SSLContext, SSLError

from mpmetrics.exposition.http import Conversation, Handler, Request, Response, plain

logger = logging.getLogger("mpmetrics")

_ACCEPTS = 64  # connections taken from a socket in one turn of the loop, before others have theirs
_LINGER = 1.0  # seconds in which a client that is still sending may fetch its refusal
_RETRY = 1.0  # seconds until the next accept, when descriptors have run out and nobody can be dropped
_COMPLAINTS = 60.0  # seconds between two log lines about failing accepts


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may cost. Raises ValueError unless every number is above 0.

    max_connections: connections at a time, over all sockets; see `HttpServer` for what happens beyond.
    header_timeout: seconds for a whole request (head, and the short body that is thrown away), from accept or, on a
        kept connection, from its first byte. Also how long a client may read nothing before its place can be taken.
    idle_timeout: seconds that a kept connection may wait for its next request.
    write_timeout: seconds that a client has to read one whole response.
    max_head: bytes of a request head.
    threads: threads that run the handler.
    chunk: bytes handed to a connection's transport at a time.
    """

    max_connections: int = 512
    header_timeout: float = 5.0
    idle_timeout: float = 30.0
    write_timeout: float = 30.0
    max_head: int = 16 * 1024
    threads: int = 8
    chunk: int = 64 * 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"Limits.{field.name} must be above 0, not {value!r}")


class _Threads:
    """The handler's threads, started one by one as they are needed.

    Not a ThreadPoolExecutor: the interpreter waits for its threads at exit, so a hanging handler would hang that too.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._started = 0
        self._open = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job`, which must not raise. Raises RuntimeError if the system does not give us even one thread.

        Like `finished`, which is to be called once a job has ended, this belongs to the loop's thread.
        """
        if self._open >= self._started and self._started < self._most:
            try:
                threading.Thread(target=self._work, name=f"mpmetrics-http-{self._started}", daemon=True).start()
                self._started += 1
            except RuntimeError:
                if not self._started:
                    raise
        self._open += 1
        self._jobs.put(job)

    def finished(self) -> None:
        """One job has ended."""
        self._open -= 1

    def close(self) -> None:
        """Forget the jobs not begun; let each thread end after its present one. Does not wait."""
        with suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
        for _ in range(self._started):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # or it would keep its request and connection until the next one


class _Roster:
    """Who is connected, and who of them can be dropped first."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._open: set[_Connection] = set()
        # Both in order of time, as dicts are: the first has waited longest.
        self._waiting: dict[_Connection, None] = {}
        self._stalled: dict[_Connection, float] = {}
        self.closing = False
        self.empty = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    def wait(self, connection: _Connection) -> None:
        """The connection owes us a request (or is new, or is only being heard out): it can be dropped."""
        self._open.add(connection)
        self._waiting[connection] = None

    def serve(self, connection: _Connection) -> None:
        """The connection has sent its request: it stays."""
        self._waiting.pop(connection, None)

    def stall(self, connection: _Connection, since: float | None) -> None:
        """The client reads no further since then; None: it does again."""
        self._stalled.pop(connection, None)
        if since is not None and connection in self._open:
            self._stalled[connection] = since

    def leave(self, connection: _Connection) -> None:
        self._open.discard(connection)
        self._waiting.pop(connection, None)
        self._stalled.pop(connection, None)
        if not self._open:
            self.empty.set()

    def evict(self, now: float) -> bool:
        """Drop the connection that has waited longest without a complete request, else one that does not read its
        answer, and has not for long; False when everyone deserves the place.
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


class _Connection(asyncio.BufferedProtocol):
    """One client: reading a request, or having it answered, or writing the answer, and again.

    All of it happens in callbacks of the loop; while an answer is made or written, nothing is read. `ask` gets the
    request and what is to be called with its response.
    """

    _transport: asyncio.Transport

    def __init__(
        self,
        limits: Limits,
        roster: _Roster,
        ask: Callable[[Request, Callable[[Response], None]], None],
        scratch: memoryview,
        *,
        refuse: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._roster = roster
        self._ask = ask
        # All connections read into the same memory: what arrived is copied out before the loop goes on.
        self._scratch = scratch
        self._refuse = refuse
        self._talk = Conversation(limits.max_head)
        self._unsent = memoryview(b"")
        self._paused = self._lingering = self._gone = self._idle = self._ended = self._tls = False
        self._opening: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(limits.header_timeout, self._tardy)
        roster.wait(self)

    def open(self, client: socket.socket, tls: SSLContext | None) -> None:
        """Take over an accepted socket."""
        self._opening = self._loop.create_task(self._open(client, tls))
        # The task may be cancelled before it has begun, and then closes nothing itself.
        self._opening.add_done_callback(lambda task: client.close() if task.cancelled() else None)

    async def _open(self, client: socket.socket, tls: SSLContext | None) -> None:
        patience = self._limits.header_timeout if tls else None
        try:
            await self._loop.connect_accepted_socket(
                lambda: self, client, ssl=tls, ssl_handshake_timeout=patience, ssl_shutdown_timeout=patience
            )
        except (OSError, SSLError) as error:
            logger.debug("a client's connection failed before its first request: %s", error)
            client.close()
            self.drop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._opening = None
        if self._gone:
            transport.abort()
            return
        self._tls = transport.get_extra_info("sslcontext") is not None
        # The transport asks for a pause as soon as it has to keep anything: so it never keeps more than one chunk.
        transport.set_write_buffer_limits(high=0)
        if self._refuse:
            self._reply(plain(503, ("Retry-After", "1")))

    def drop(self) -> None:
        """Close at once, whatever is under way; the place is free when this returns."""
        if self._gone:
            return
        self._gone = True
        self._timer.cancel()
        self._roster.leave(self)
        self._unsent = memoryview(b"")
        if self._opening is not None:
            self._opening.cancel()
        else:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop()

    # Reading

    def get_buffer(self, sizehint: int) -> memoryview:
        # No more than the conversation has room for: so a head is refused at its limit, not somewhere beyond.
        return self._scratch if self._lingering else self._scratch[: self._talk.room]

    def buffer_updated(self, nbytes: int) -> None:
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
        if self._lingering or self._tls:
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
        except Exception:
            # Not the response itself, whose body may be large.
            logger.exception("a response cannot be sent: status %r", getattr(response, "status", type(response)))
            head, body = self._talk.answer(plain(500), last=last)
        self._limit(self._limits.write_timeout, self.drop)
        first = max(0, self._limits.chunk - len(head))
        self._unsent = body[first:]
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
            self._sent()
            return
        chunk, self._unsent = self._unsent[: self._limits.chunk], self._unsent[self._limits.chunk :]
        self._transport.write(chunk)
        self._go_on()

    def pause_writing(self) -> None:
        self._paused = True
        self._roster.stall(self, self._loop.time())

    def resume_writing(self) -> None:
        self._paused = False
        self._roster.stall(self, None)
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
        if self._talk.heard_out or self._ended or self._tls:
            self._transport.close()
        else:
            # To close before the client has stopped sending would reset the connection, and the reset may overtake
            # the answer. So say that this is the end, and throw away what comes.
            self._transport.write_eof()
            self._transport.resume_reading()

    def _limit(self, seconds: float, then: Callable[[], None]) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(seconds, then)


class HttpServer:
    """Serves a handler on any number of listening sockets, within the running event loop.

    A new connection beyond `limits.max_connections` takes the place of the one that has waited longest without a complete
    request, or else of one whose client has read nothing for `limits.header_timeout`. When there is neither, all are
    being answered, and the new one is refused with 503. With `ssl`, all sockets speak TLS.

    All methods belong to the loop's thread. A server is started once and closed once.
    """

    def __init__(self, handler: Handler, limits: Limits | None = None, ssl: SSLContext | None = None) -> None:
        self._handler = handler
        self._limits = limits or Limits()
        self._tls = ssl
        self._roster = _Roster(self._limits.header_timeout)
        self._threads = _Threads(self._limits.threads)
        self._scratch = memoryview(bytearray(self._limits.max_head))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sockets: dict[socket.socket, asyncio.TimerHandle | None] = {}
        self._complained = -_COMPLAINTS

    async def start(self) -> None:
        """Begin. Raises RuntimeError if this server was started before."""
        if self._loop is not None:
            raise RuntimeError("an HttpServer starts once; make another one")
        self._loop = asyncio.get_running_loop()

    async def add(self, sock: socket.socket) -> None:
        """Serve on `sock` too, which is bound and listens, and belongs to the server from now on.

        Raises RuntimeError unless the server runs, ValueError if the socket does not listen.
        """
        if self._loop is None or self._roster.closing:
            raise RuntimeError("the HttpServer does not run: await start() first, and add nothing after close()")
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError(f"{sock!r} does not listen: call bind() and listen() first")
        sock.setblocking(False)
        self._listen(self._loop, sock)

    async def close(self, grace: float) -> None:
        """Stop: accept nothing, drop who waits, give answers under way `grace` seconds, then drop these too.

        A handler that still runs is left to itself; its thread ends when it returns.
        """
        self._roster.closing = True
        for sock, retry in self._sockets.items():
            if retry is not None:
                retry.cancel()
            elif self._loop is not None:
                self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()
        self._roster.dismiss(everyone=False)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._roster.wait_empty()
        self._roster.dismiss(everyone=True)
        self._threads.close()
        # The transports close their sockets in the loop's next turn.
        await asyncio.sleep(0)

    # Accepting

    def _listen(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._sockets[sock] = None
        loop.add_reader(sock, self._accept, loop, sock)

    def _accept(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            try:
                client, _address = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._back_off(loop, sock, error)
                return
            client.setblocking(False)
            self._admit(loop, client)

    def _back_off(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, error: OSError) -> None:
        """Accept again later: the socket stays readable, and the loop would spin."""
        now = loop.time()
        if now - self._complained >= _COMPLAINTS:
            self._complained = now
            logger.error("cannot accept connections on %s: %s; trying again", sock.getsockname(), error)
        short = error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
        # With a descriptor set free, the next accept can succeed in the loop's next turn but one.
        delay = 0.01 if short and self._roster.evict(now) else _RETRY
        loop.remove_reader(sock)
        self._sockets[sock] = loop.call_later(delay, self._listen, loop, sock)

    def _admit(self, loop: asyncio.AbstractEventLoop, client: socket.socket) -> None:
        refuse = False
        while len(self._roster) >= self._limits.max_connections and not refuse:
            refuse = not self._roster.evict(loop.time())
        # One that is refused is a connection like any other, until it has read why. It waits, as the roster sees it, so
        # the next one takes its place, and there is never more than one too many.
        connection = _Connection(self._limits, self._roster, self._ask, self._scratch, refuse=refuse)
        connection.open(client, self._tls)

    # Answering

    def _ask(self, request: Request, reply: Callable[[Response], None]) -> None:
        loop = asyncio.get_running_loop()
        response = self._guard(self._handler.immediate, request)
        if response is not None:
            reply(response)
            return

        def finish(response: Response) -> None:
            self._threads.finished()
            reply(response)

        def job() -> None:
            response = self._guard(self._handler, request)
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(finish, response)

        try:
            self._threads.submit(job)
        except RuntimeError as error:
            logger.error("cannot answer %s: %s", request.path, error)
            reply(plain(503))

    def _guard[T](self, answer):
        pass


class ServerThread:
    """An `HttpServer` in a daemon thread with an event loop of its own, for processes that have none.

    `sockets` are bound and listen; they belong to the server from now on. The thread runs when the constructor returns,
    which raises what `HttpServer.add` raises, and then leaves the sockets open. The methods belong to one thread, any.
    """
