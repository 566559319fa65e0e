"""HTTP messages, the contract of a handler, and one connection's conversation. No input or output happens here.

Role: `Request`, `Response` and `Handler`, which the server and the handlers share, and `Conversation`, which turns
received bytes into requests and responses into bytes. h11 does parsing and framing; this module adds the limits on
sizes, the allowed methods and the headers of each response.

Ownership: the messages are immutable and may cross threads. A `Conversation` belongs to one connection of one event
loop.

Guarantees: no bytes from a client make it raise; at most `max_head` bytes are held.
Limits: GET and HEAD; bodies of requests are thrown away; a response's body is one bytes object, framed by its length.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import unquote, urlsplit

import h11

if TYPE_CHECKING:
    from collections.abc import Mapping

HEALTHY = "/-/healthy"
"""The path that tells every client that the endpoint is there."""

_PHRASES = {int(status): status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request, without its body.

    `path` is percent-decoded (UTF-8, undecodable bytes replaced) and has no query; `query` is as sent, without the
    question mark. Names in `headers` are lower-case; a header sent repeatedly is one value, joined by ", ".
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: the status (200 to 599), its headers, its whole body.

    The body is sent as it is, never copied whole, so many responses may share one. Answer HEAD as if it were GET: the
    server keeps the length and leaves the body out. Content-Length, Transfer-Encoding and Date are the server's to set.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Handler(Protocol):
    """Answers GET and HEAD requests, on several threads at once; what it raises becomes a 500."""

    def immediate(self, request: Request) -> Response | None:
        """Answer at once, on the event loop; None means: ask `__call__`. Must neither block nor compute for long."""

    def __call__(self, request: Request) -> Response:
        """Answer on a thread of the request's own; may block."""


def plain(status: int, *headers: tuple[str, str]) -> Response:
    """A response whose body is the status in words, as plain text, and nothing else."""
    body = f"{status} {_PHRASES.get(status, '')}\n".encode("ascii")
    return Response(status, (("Content-Type", "text/plain; charset=utf-8"), *headers), body)


class Conversation:
    """One connection's requests and responses in turn: feed, take, answer, renew, and again.

    `max_head` is the most bytes that a request head may have, and the most bytes of a body that are read and thrown
    away before the answer; behind a longer body the conversation ends with the answer.
    """

    def __init__(self, max_head: int) -> None:
        self._max = max_head
        # h11 complains about an incomplete event that is longer than this: one less, for with `room` no more than
        # max_head bytes are ever held, and a head that is not complete by then is too long.
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=max_head - 1)
        self._head: h11.Request | None = None
        self._body = 0
        self._answering = False

    @property
    def held(self) -> int:
        """Bytes received and not parsed yet."""
        return len(self._h11.trailing_data[0])

    @property
    def room(self) -> int:
        """How many bytes may be fed next; 0 when requests that wait for their turn fill a whole head."""
        return self._max if self._is_over else self._max - self.held

    @property
    def begun(self) -> bool:
        """Whether any byte of an unfinished request has arrived."""
        return self._head is not None or self.held > 0

    @property
    def heard_out(self) -> bool:
        """Whether the client's last request has been read to its end, with nothing after it."""
        return self._h11.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED) and not self.held

    @property
    def _is_over(self) -> bool:
        """Whether the conversation ends with the answer under way, so that nothing more will be parsed."""
        return self._answering and self._h11.their_state is not h11.DONE

    def feed(self, data: bytes) -> None:
        """Add what was received, also while a request is answered; b"" is the end of the stream."""
        if not self._is_over:
            self._h11.receive_data(data)

    def take(self) -> Request | Response | None:
        """Return the next complete request, or a refusal by the protocol, or None if more bytes are needed."""
        try:
            if not self._read():
                return None
            self._answering = True
        except h11.RemoteProtocolError as error:
            # h11 raises it from a frame that holds it. With its traceback, it would keep the whole connection in memory
            # until the garbage collector runs.
            error.with_traceback(None)
            self._answering = True
            return plain(error.error_status_hint)
        head = self._head
        if head is None:  # pragma: no cover (a request that is read has a head)
            return None
        if head.method not in (b"GET", b"HEAD"):
            return plain(405, ("Allow", "GET, HEAD"))
        if not head.http_version.startswith(b"1."):
            return plain(505)
        return _request(head)

    def _read(self) -> bool:
        """Return whether a request is complete, or as complete as it will get."""
        while True:
            event = self._h11.next_event()
            if isinstance(event, h11.Request):
                self._head = event
            elif isinstance(event, h11.Data):
                self._body += len(event.data)
                if self._body > self._max:
                    return True
            elif event is h11.NEED_DATA:
                # A client that asks before it sends its body is answered without it.
                return self._h11.they_are_waiting_for_100_continue
            else:
                return isinstance(event, h11.EndOfMessage)

    def answer(self, response: Response, *, last: bool) -> tuple[bytes, memoryview]:
        """The head and the body to send; `last` tells the client that the connection closes behind it.

        Raises h11.LocalProtocolError or ValueError for a response that cannot be sent, with nothing changed: another
        may be tried.
        """
        ours = ("content-length", "transfer-encoding", "date")
        headers = [(name, value) for name, value in response.headers if name.lower() not in ours]
        headers.append(("Date", formatdate(usegmt=True)))
        if response.status not in (204, 304):
            headers.append(("Content-Length", str(len(response.body))))
        if last or self._h11.their_state not in (h11.DONE, h11.MUST_CLOSE, h11.MIGHT_SWITCH_PROTOCOL):  # type: ignore[attr-defined]  # in h11, not in its __all__
            headers.append(("Connection", "close"))
        # All errors of a response are raised here, before the state of h11 changes.
        reason = _PHRASES.get(response.status, "").encode("ascii")
        event = h11.Response(status_code=response.status, headers=headers, reason=reason)
        self._answering = True  # also where no request was taken: one too late, or one connection too many
        body = memoryview(response.body)
        if response.status in (204, 304) or (self._head is not None and self._head.method == b"HEAD"):
            body = body[:0]
        head = self._h11.send(event)
        if body:
            # h11 only counts the bytes.
            self._h11.send_with_data_passthrough(h11.Data(data=cast("bytes", body)))
        self._h11.send(h11.EndOfMessage())
        return head, body

    def renew(self) -> bool:
        """Begin the next request on this connection; False if the last answer has ended the conversation."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        self._head = None
        self._body = 0
        self._answering = False
        return True


def _request(head: h11.Request) -> Request | Response:
    target = head.target.decode("latin-1")
    if target.startswith("/"):
        # Not urlsplit, which would parse the first part of "//a/b" as a host.
        path, _, query = target.partition("?")
    else:
        try:
            absolute = urlsplit(target)
        except ValueError:
            return plain(400)
        path, query = absolute.path or "/", absolute.query
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Request(head.method.decode("latin-1"), unquote(path), query, headers)
