"""The HTTP server over real sockets: its answers, the connections it closes, and the cost of one client."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpmetrics.endpoint.thread import ServerThread
from mpmetrics.http import server as server_module
from mpmetrics.http.limits import Limits
from mpmetrics.http.messages import Conversation, Request, Response
from mpmetrics.http.server import HttpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
MIB = 1024 * 1024
LARGE = bytes(8 * MIB)
PATIENCE = 10.0  # timeout of the clients in these tests, in seconds


class Answers:
    """A handler: `/now` is answered at once, `/large` with 8 MiB, `/hold` after `go`, others with their path."""

    def __init__(self) -> None:
        self.seen: list[Request] = []
        self.go = threading.Event()
        self.held = threading.Semaphore(0)
        self.running = self.most = 0
        self.lock = threading.Lock()
        self.error: BaseException | None = None
        self.response: Any = None

    def immediate(self, request: Request) -> Response | None:
        """Answer `/now`; fail at `/fail-now`."""
        if request.path == "/fail-now":
            raise ValueError("a secret")
        return Response(200, (), b"now") if request.path == "/now" else None

    def __call__(self, request: Request) -> Response:
        """Answer all other paths."""
        with self.lock:
            self.seen.append(request)
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            if request.path == "/hold":
                self.held.release()
                self.go.wait(PATIENCE)
            if request.path == "/fail" and self.error is not None:
                raise self.error
            if request.path == "/odd":
                return self.response  # type: ignore[no-any-return]
            return Response(200, (), LARGE if request.path == "/large" else request.path.encode())
        finally:
            with self.lock:
                self.running -= 1


class Client(socket.socket):
    """The client's end of a connection; it reads answers one by one."""

    def __init__(self, address: Any, *, receive: int | None = None) -> None:
        family = (
            socket.AF_UNIX if isinstance(address, str) else (socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        )
        super().__init__(family)
        self.settimeout(PATIENCE)
        if receive is not None:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self.left = b""
        try:
            self.connect(address)
        except BaseException:
            self.close()
            raise

    def drain(self) -> None:
        """Read to the end."""
        while self.recv(1 << 16):
            pass

    def ask(self, request: bytes = GET, *, body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """Send a request and read its answer: status, headers and body."""
        self.sendall(request)
        return self.answer(body=body)

    def answer(self, *, body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """Read one answer; raise ConnectionError if the server sends none."""
        while b"\r\n\r\n" not in self.left:
            self.more()
        head, self.left = self.left.split(b"\r\n\r\n", 1)
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers["content-length"]) if body else 0
        while len(self.left) < length:
            self.more()
        content, self.left = self.left[:length], self.left[length:]
        return int(first.split()[1]), headers, content

    def more(self) -> None:
        """Receive more bytes."""
        data = self.recv(MIB)
        if not data:
            raise ConnectionError(f"the server closed after {self.left[:100]!r}")
        self.left += data

    def gone(self) -> bool:
        """True if the server closes the connection and sends nothing more."""
        try:
            return self.left == b"" and self.recv(1) == b""
        except ConnectionError:
            return True

    def reset(self) -> None:
        """Close with a reset, like a client that crashes."""
        self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


def until(true: Callable[[], bool]) -> None:
    """Wait until the condition is true."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def request(path: str, *headers: str, method: str = "GET") -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: h", *headers, "", ""]).encode()


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """Closes what a test opened."""
    with contextlib.ExitStack() as held:
        yield held


@pytest.fixture
def handler() -> Iterator[Answers]:
    """The handler of the servers in this file."""
    answers = Answers()
    yield answers
    answers.go.set()


@pytest.fixture
def serve(
    handler: Answers, stack: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[..., Callable[..., Client]]]:
    """Start a server; the result connects clients to it. A test must not leave an error in the loop's log."""

    def start(*, listener: socket.socket | None = None, **limits: Any) -> Callable[..., Client]:
        listener = listener or socket.create_server(("127.0.0.1", 0), backlog=1024)
        server = ServerThread(handler, [listener], Limits(**limits))
        address = listener.getsockname()
        stack.callback(server.close, 0.0)
        stack.callback(handler.go.set)

        def connect(**options: Any) -> Client:
            return stack.enter_context(Client(address, **options))

        return connect

    yield start
    stack.close()
    # caplog.records alone holds the records of the teardown only.
    records = [*caplog.get_records("call"), *caplog.records]
    assert [] == [record.getMessage() for record in records if record.name == "asyncio"]


# Answers.


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "unix"])
def test_serves_each_kind_of_socket(
    serve: Callable[..., Any], stack: contextlib.ExitStack, tmp_path: Path, family: str
) -> None:
    """The server serves IPv4, IPv6 and Unix sockets. Answers have a date and a length, and name no software."""
    if family == "unix":
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(tmp_path / "s"))
        listener.listen()
    else:
        v6 = family == "ipv6"
        listener = socket.create_server(
            ("::1" if v6 else "127.0.0.1", 0), family=socket.AF_INET6 if v6 else socket.AF_INET
        )
    status, headers, body = serve(listener=listener)().ask()
    assert (200, b"/") == (status, body)
    assert {"date", "content-length"} == set(headers)


def test_head_is_a_get_without_the_body(serve: Callable[..., Any]) -> None:
    """HEAD returns the length of GET's body and no body; the connection stays usable."""
    client = serve()()
    status, headers, _ = client.ask(request("/some", method="HEAD"), body=False)
    assert (200, "5") == (status, headers["content-length"])
    assert b"/next" == client.ask(request("/next"))[2]


@pytest.mark.parametrize("method", ["POST", "OPTIONS", "PUT", "DELETE", "TRACE", "BREW"])
def test_other_methods_are_refused(serve: Callable[..., Any], handler: Answers, method: str) -> None:
    """Other methods get 405 with the allowed methods. The server skips a short body and keeps the connection."""
    client = serve()()
    status, headers, _ = client.ask(request("/", "Content-Length: 4", method=method) + b"body")
    assert (405, "GET, HEAD") == (status, headers["allow"])
    assert [] == handler.seen
    assert 200 == client.ask()[0]


def test_connect_and_upgrade_keep_http_1_1(serve: Callable[..., Any]) -> None:
    """The server refuses CONNECT and ignores Upgrade; the connection stays HTTP/1.1 after both."""
    client = serve()()
    assert 405 == client.ask(b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n")[0]
    assert 200 == client.ask(request("/", "Connection: Upgrade", "Upgrade: h2c"))[0]
    assert 200 == client.ask()[0]


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/a%20b?x=%20&y", "/a b", "x=%20&y"),
        ("//a/b?", "//a/b", ""),
        ("http://h:1/c?q=1", "/c", "q=1"),
        ("http://h", "/", ""),
        ("/%ff", "/\N{REPLACEMENT CHARACTER}", ""),
        ("/?a?b", "/", "a?b"),
    ],
)
def test_request_is_parsed_into_its_fields(
    serve: Callable[..., Any], handler: Answers, target: str, path: str, query: str
) -> None:
    """A handler gets the decoded path, the raw query, lower-case header names, and repeated headers joined."""
    serve()().ask(request(target, "Accept: a", "ACCEPT: b;q=0.5"))
    (seen,) = handler.seen
    assert Request("GET", path, query, {"host": "h", "accept": "a, b;q=0.5"}) == seen


def test_keep_alive_and_close(serve: Callable[..., Any]) -> None:
    """A connection serves many requests; `Connection: close` and HTTP/1.0 close it after the answer."""
    connect = serve()
    client = connect()
    assert [b"/1", b"/2"] == [client.ask(request(path))[2] for path in ("/1", "/2")]
    status, headers, _ = client.ask(request("/", "Connection: close"))
    assert (200, "close") == (status, headers["connection"])
    assert client.gone()
    old = connect()
    assert b"/old" == old.ask(b"GET /old HTTP/1.0\r\n\r\n")[2]
    assert old.gone()


def test_pipelined_requests_are_answered_in_order(serve: Callable[..., Any], handler: Answers) -> None:
    """The server handles pipelined requests of one connection in order, one at a time."""
    client = serve()()
    client.sendall(request("/1") + request("/now") + request("/hold") + request("/4") + request("/5", method="HEAD"))
    assert [b"/1", b"now"] == [client.answer()[2] for _ in range(2)]
    assert handler.held.acquire(timeout=PATIENCE)
    assert ["/1", "/hold"] == [seen.path for seen in handler.seen]
    handler.go.set()
    assert [b"/hold", b"/4"] == [client.answer()[2] for _ in range(2)]
    assert "2" == client.answer(body=False)[1]["content-length"]
    assert 1 == handler.most


def test_request_may_arrive_byte_by_byte(serve: Callable[..., Any]) -> None:
    """The server answers a request that arrives one byte per packet."""
    client = serve()()
    for byte in request("/slow", "Content-Length: 2") + b"xy":
        client.sendall(bytes([byte]))
    assert b"/slow" == client.answer()[2]


@pytest.mark.parametrize("path", ["/now", "/hold", "/large"])
def test_half_closed_client_gets_its_answer(serve: Callable[..., Any], handler: Answers, path: str) -> None:
    """A client that shuts down its sending side after the requests (`printf | nc`) gets all answers, then the end."""
    handler.go.set()
    client = serve()()
    client.sendall(request("/1") + request(path))
    client.shutdown(socket.SHUT_WR)
    assert [200, 200] == [client.answer()[0] for _ in range(2)]
    assert client.gone()


# Refused requests.


def test_head_may_have_max_head_bytes(serve: Callable[..., Any]) -> None:
    """A head of max_head bytes passes. A longer one gets 431, also if it is incomplete or arrives in parts."""
    connect = serve(max_head=1000)
    filler = "X: " + "y" * (1000 - len(request("/", "X: ")))
    assert 1000 == len(request("/", filler))
    assert 200 == connect().ask(request("/", filler))[0]
    assert 431 == connect().ask(request("/", filler + "y"))[0]
    assert 431 == connect().ask(b"GET /" + b"x" * 500_000)[0]
    parts = connect()
    parts.sendall(request("/", filler + "y")[:600])
    time.sleep(0.1)  # the head arrives in two parts
    assert 431 == parts.ask(request("/", filler + "y")[600:])[0]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nBad header\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: odd\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nnone\r\n", 400),
        (b"GET http://[/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)
def test_malformed_requests_are_refused(serve: Callable[..., Any], handler: Answers, data: bytes, status: int) -> None:
    """A malformed request gets an error status and does not reach the handler; the next client is served."""
    connect = serve()
    assert status == connect().ask(data)[0]
    assert [] == handler.seen
    assert 200 == connect().ask()[0]


def test_client_that_sends_a_long_body_gets_its_answer(serve: Callable[..., Any]) -> None:
    """A client that continues to send a long body can still read its answer, and then the end."""
    client = serve()()
    client.sendall(request("/", f"Content-Length: {len(LARGE)}") + LARGE[:20_000])
    time.sleep(0.2)  # the server has answered; if it had also closed, the next send would cause a reset
    for _ in range(2):
        client.sendall(LARGE[:1000])
        time.sleep(0.1)
    status, headers, _ = client.answer()
    assert (200, "close") == (status, headers["connection"])
    assert client.gone()


def test_half_a_request_is_malformed(serve: Callable[..., Any]) -> None:
    """A client that ends its sending side within a request gets 400."""
    client = serve()()
    client.sendall(GET[:10])
    client.shutdown(socket.SHUT_WR)
    assert 400 == client.answer()[0]
    assert client.gone()


def test_expect_100_continue_gets_the_final_answer(serve: Callable[..., Any]) -> None:
    """The server answers a request with `Expect: 100-continue` before the body, and closes."""
    client = serve()()
    status, headers, _ = client.ask(request("/", "Content-Length: 10", "Expect: 100-continue"))
    assert (200, "close") == (status, headers["connection"])


@pytest.mark.parametrize("error", [ValueError("a secret"), StopIteration(), SystemExit(3), asyncio.CancelledError()])
def test_handler_that_raises_gives_500(
    serve: Callable[..., Any], handler: Answers, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """An exception of the handler gives a 500 without details and is logged; thread and connection stay usable."""
    client = serve()()
    handler.error = error
    status, _, body = client.ask(request("/fail"))
    assert (500, b"500 Internal Server Error\n") == (status, body)
    assert [error] == [
        record.exc_info[1] for record in caplog.records if record.name == "mpmetrics" and record.exc_info
    ]
    assert 200 == client.ask()[0]


def test_immediate_that_raises_gives_500(serve: Callable[..., Any]) -> None:
    """An exception in `immediate()`, on the event loop, gives a 500 without details too."""
    client = serve()()
    assert (500, b"500 Internal Server Error\n") == client.ask(request("/fail-now"))[::2]
    assert 200 == client.ask()[0]


@pytest.mark.parametrize(
    "response",
    [
        None,
        Response(200, (("X-Bad", "a\r\nInjected: 1"),), b""),
        Response(200, (("X-Bad", "\N{SNOWMAN}"),), b""),
        Response(99, (), b""),
        Response(200, (), "text"),  # type: ignore[arg-type]
    ],
)
def test_invalid_response_gives_500(serve: Callable[..., Any], handler: Answers, response: Any) -> None:
    """An invalid response becomes a 500. No part of it reaches the client; the connection stays usable."""
    handler.response = response
    client = serve()()
    status, headers, body = client.ask(request("/odd"))
    assert (500, b"500 Internal Server Error\n") == (status, body)
    assert {"x-bad", "injected"}.isdisjoint(headers)
    assert 200 == client.ask()[0]


def test_server_sets_the_framing(serve: Callable[..., Any], handler: Answers) -> None:
    """The server replaces the handler's length, date and transfer encoding, and passes other headers on."""
    handler.response = Response(
        299, (("Content-Length", "9"), ("Date", "x"), ("Transfer-Encoding", "chunked"), ("X-A", "b")), b"abc"
    )
    status, headers, body = serve()().ask(request("/odd"))
    assert (299, "b", b"abc") == (status, headers["x-a"], body)
    assert "x" != headers["date"]
    assert "transfer-encoding" not in headers


@given(pieces=st.lists(st.binary(max_size=60) | st.sampled_from([GET, GET[:9], b"\r\n", b"HEAD / HTTP/1.0\r\n\r\n"])))
def test_conversation_accepts_any_bytes(pieces: list[bytes]) -> None:
    """No input, however it is cut, makes the parser raise, hold more than its limit, or ask for zero bytes."""
    talk = Conversation(50)
    for piece in pieces:
        rest = piece
        while rest:
            assert talk.room > 0
            now, rest = rest[: talk.room], rest[talk.room :]
            talk.feed(now)
            while (found := talk.take()) is not None:
                assert talk.held <= 50
                talk.answer(found if isinstance(found, Response) else Response(200, (), b""), last=False)
                if not talk.renew():
                    return


# Connections that the server closes.


def test_slow_request_gets_408(serve: Callable[..., Any]) -> None:
    """A head or body that is incomplete after header_timeout gets 408, on new and on kept connections."""
    connect = serve(header_timeout=0.2)
    assert 408 == connect().ask(GET[:10])[0]
    assert 408 == connect().ask(request("/", "Content-Length: 5") + b"x")[0]
    kept = connect()
    assert 200 == kept.ask()[0]
    assert 408 == kept.ask(GET[:10])[0]
    assert kept.gone()


def test_silent_clients_are_closed(serve: Callable[..., Any]) -> None:
    """The server closes a silent connection after header_timeout, or after idle_timeout if it had an answer."""
    connect = serve(header_timeout=0.2, idle_timeout=0.6)
    silent, kept = connect(), connect()
    assert 200 == kept.ask()[0]
    assert silent.gone()
    assert 200 == kept.ask()[0]
    assert kept.gone()


def test_longest_waiting_connection_makes_room(serve: Callable[..., Any], handler: Answers) -> None:
    """Past max_connections, the server closes only the connection that has waited longest for a complete request."""
    connect = serve(max_connections=3)
    busy = connect()
    busy.sendall(request("/hold"))
    assert handler.held.acquire(timeout=PATIENCE)
    first, second = connect(), connect()
    assert [200, 200] == [client.ask()[0] for client in (first, second)]
    first.sendall(GET[:10])  # an incomplete request does not change its place in the order
    assert 200 == connect().ask()[0]
    assert first.gone()
    assert 200 == second.ask()[0]
    handler.go.set()
    assert 200 == busy.answer()[0]


def test_new_connection_gets_503_if_all_are_busy(serve: Callable[..., Any], handler: Answers) -> None:
    """If the server is answering on all connections, a new one gets 503; the others get their answers."""
    connect = serve(max_connections=2)
    busy = [connect(), connect()]
    for client in busy:
        client.sendall(request("/hold"))
        assert handler.held.acquire(timeout=PATIENCE)
    for _ in range(3):
        status, headers, _ = connect().ask()
        assert (503, "close") == (status, headers["connection"])
    handler.go.set()
    assert [200, 200] == [client.answer()[0] for client in busy]
    assert 200 == connect().ask()[0]


def test_clients_that_do_not_read_make_room(serve: Callable[..., Any], handler: Answers) -> None:
    """A client that does not read its answer loses its place to a new client; the longest stalled goes first."""
    connect = serve(max_connections=2)
    first, second = connect(receive=4096), connect(receive=4096)
    for number, client in enumerate((first, second), 1):
        client.sendall(request("/large"))
        until(lambda number=number: len(handler.seen) == number)
        time.sleep(0.2)  # the connection is stalled now
    assert 200 == connect().ask()[0]
    with pytest.raises(ConnectionError):
        first.answer()
    assert LARGE == second.answer()[2]


def test_scrape_beside_slow_clients(serve: Callable[..., Any], stack: contextlib.ExitStack) -> None:
    """Beside 500 silent clients and 200 that send a byte at a time, a scrape takes less than a second."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("needs 2,000 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
    connect = serve()
    for _ in range(500):
        connect()
    dripping = [connect() for _ in range(200)]
    assert 200 == connect().ask()[0]  # the server has accepted the burst
    slowest = 0.0
    for byte in GET[:12]:
        for client in dripping:
            with contextlib.suppress(ConnectionError):
                client.send(bytes([byte]))
        start = time.monotonic()
        assert 200 == connect().ask()[0]
        slowest = max(slowest, time.monotonic() - start)
        time.sleep(0.1)
    assert slowest < 1.0


def test_client_that_does_not_read_is_aborted(serve: Callable[..., Any]) -> None:
    """The server resets a client that does not read for write_timeout; a client that reads gets the whole answer."""
    connect = serve(write_timeout=1.5)
    idle, reading = connect(receive=4096), connect()
    idle.sendall(request("/large"))
    assert LARGE == reading.ask(request("/large"))[2]
    time.sleep(2.0)
    with pytest.raises(ConnectionResetError):  # frees the kernel's part of the answer at once
        idle.drain()


# The cost of a client.


def resident() -> int:
    """Resident memory of this process, in bytes."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")  # noqa: PTH110
@pytest.mark.parametrize(("clients", "chunk", "bounded"), [(50, 64 * 1024, True), (20, 16 * MIB, False)])
def test_clients_that_do_not_read_cost_little_memory(
    serve: Callable[..., Any], handler: Answers, clients: int, chunk: int, *, bounded: bool
) -> None:
    """50 clients that do not read their 8 MiB cost under 40 MiB. In one chunk, 20 such clients cost more (control)."""
    connect = serve(chunk=chunk)
    assert 200 == connect().ask()[0]
    before = resident()
    for _ in range(clients):
        connect(receive=4096).sendall(request("/large"))
    deadline = time.monotonic() + PATIENCE
    while len(handler.seen) < clients + 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 200 == connect().ask()[0]
    assert bounded == (resident() - before < 40 * MIB)


@pytest.mark.parametrize("ending", ["read", "aborted", "head", "short"])
def test_server_releases_the_body_of_an_answer(serve: Callable[..., Any], handler: Answers, ending: str) -> None:
    """The server drops the body once it is sent or the client is gone, also if the connection stays open."""
    handler.response = Response(200, (), body := bytes(bytearray(1000 if ending == "short" else 8 * MIB)))
    before = sys.getrefcount(body)
    aborted = ending == "aborted"
    client = serve(write_timeout=0.5 if aborted else PATIENCE)(receive=4096 if aborted else None)
    if aborted:
        client.sendall(request("/odd"))
        until(lambda: sys.getrefcount(body) > before)
    else:
        client.ask(request("/odd", method="HEAD" if ending == "head" else "GET"), body=ending != "head")
    until(lambda: sys.getrefcount(body) == before)


def test_clients_that_do_not_read_are_dropped_for_memory(serve: Callable[..., Any], handler: Answers) -> None:
    """Past max_unsent, the server drops the client that has not read for longest; the others get whole answers."""
    connect = serve(max_unsent=40 * MIB, write_timeout=10 * PATIENCE)  # must not end a client on a slow machine
    clients = []
    for number in range(1, 8):
        handler.response = Response(200, (), bytes(bytearray(8 * MIB)))
        clients.append(client := connect(receive=4096))
        client.sendall(request("/odd"))
        until(lambda number=number: len(handler.seen) == number)
        time.sleep(0.15)  # the connection is stalled now
        assert LARGE == connect().ask(request("/large"))[2]
        handler.seen.remove(handler.seen[-1])
    for client in clients[:3]:
        with pytest.raises(ConnectionError):
            client.answer()
    # Five answers fit; one of them belonged to a client that reads.
    assert [LARGE] * 4 == [client.answer()[2] for client in clients[3:]]


def test_threads_are_bounded(serve: Callable[..., Any], handler: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """If all `threads` are busy, requests that need a thread get 503; requests that need none are answered."""
    monkeypatch.setattr(server_module, "_FULL", 0.1)
    connect = serve(threads=2)
    kept, *clients = [connect() for _ in range(3)]
    for client in clients:
        client.sendall(request("/hold"))
        assert handler.held.acquire(timeout=PATIENCE)
    status, headers, _ = kept.ask()
    assert (503, "1") == (status, headers["retry-after"])
    assert 503 == connect().ask()[0]
    assert [b"now", b"now"] == [client.ask(request("/now"))[2] for client in (kept, connect())]
    handler.go.set()
    assert [200, 200] == [client.answer()[0] for client in clients]
    assert 200 == kept.ask()[0]
    assert 2 == handler.most


def test_new_connections_wait_for_a_thread(serve: Callable[..., Any], handler: Answers) -> None:
    """A new connection waits a second in the listen queue before it gets 503, so a short burst is answered in full."""
    connect = serve(threads=1)
    busy, late = connect(), None
    busy.sendall(request("/hold"))
    assert handler.held.acquire(timeout=PATIENCE)
    late = connect()
    late.sendall(GET)
    time.sleep(0.2)
    handler.go.set()
    assert [200, 200] == [client.answer()[0] for client in (busy, late)]


def test_failure_to_start_a_thread_gives_503(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system cannot start a thread, each request gets 503; once it can, requests are answered."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    connect = serve()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert [503] * 3 == [connect().ask()[0] for _ in range(3)]
    assert [200] * 2 == [connect().ask()[0] for _ in range(2)]


def test_busy_for_is_the_age_of_the_oldest_request(handler: Answers) -> None:
    """`busy_for()` is the age of the oldest running request; a supervisor detects a stuck handler by it."""
    server = ServerThread(handler, [socket.create_server(("127.0.0.1", 0))])
    with contextlib.closing(server), Client(("127.0.0.1", server.port)) as client:
        assert 0.0 == server._server.busy_for()
        client.sendall(request("/hold"))
        assert handler.held.acquire(timeout=PATIENCE)
        time.sleep(0.1)
        assert 0.1 <= server._server.busy_for() < PATIENCE
        handler.go.set()
        client.answer()
        assert 0.0 == server._server.busy_for()


def test_reset_of_a_client_frees_its_place_at_once(serve: Callable[..., Any], handler: Answers) -> None:
    """A reset frees the client's place while the handler still makes its answer."""
    connect = serve(max_connections=1)
    client = connect()
    client.sendall(request("/hold"))
    assert handler.held.acquire(timeout=PATIENCE)
    client.reset()
    assert 200 == connect().ask()[0]


def test_too_many_pipelined_bytes_end_the_connection(serve: Callable[..., Any], handler: Answers) -> None:
    """A client may pipeline up to max_head bytes before its answer; the server drops a client that sends more."""
    connect = serve(max_head=1000)
    client = connect()
    client.sendall(request("/hold"))
    assert handler.held.acquire(timeout=PATIENCE)
    client.sendall(GET * (999 // len(GET)))
    time.sleep(0.1)
    other = connect()
    other.sendall(request("/hold"))
    assert handler.held.acquire(timeout=PATIENCE)
    with contextlib.suppress(ConnectionError):
        other.sendall(GET * 100)
    assert other.gone()
    handler.go.set()
    assert [200] * (1 + 999 // len(GET)) == [client.answer()[0] for _ in range(1 + 999 // len(GET))]


@pytest.mark.parametrize("path", ["/", "/hold", "/large", "/fail-now", "bad"])
def test_reset_at_any_point_leaves_no_error(serve: Callable[..., Any], handler: Answers, path: str) -> None:
    """A client that resets, at any point, leaves no error in the log; the server serves the next client."""
    connect = serve()
    clients = [connect(receive=4096) for _ in range(20)]
    for number, client in enumerate(clients):
        client.sendall(request(path))
        time.sleep(0.001 * number)
        client.reset()
    handler.go.set()
    assert 200 == connect().ask()[0]


def test_reset_while_the_server_discards_a_body(serve: Callable[..., Any]) -> None:
    """A reset while the server discards the rest of a body leaves no error in the log either."""
    connect = serve()
    for number in range(300):
        client = connect()
        client.sendall(request("/now", "Content-Length: 100000") + LARGE[:20_000])
        until = time.perf_counter() + number * 1e-6
        while time.perf_counter() < until:  # time.sleep() takes longer
            pass
        client.reset()
    assert 200 == connect().ask()[0]


class Starved(socket.socket):
    """A listening socket that fails for lack of descriptors while `starved` is true."""

    starved = False
    calls = 0

    def accept(self) -> tuple[socket.socket, Any]:
        """Fail like the system."""
        self.calls += 1
        if self.starved:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


@pytest.mark.parametrize("waiting", [0, 1])
def test_accept_without_descriptors_is_retried(
    serve: Callable[..., Any], caplog: pytest.LogCaptureFixture, stack: contextlib.ExitStack, waiting: int
) -> None:
    """If accept() gets EMFILE, the server drops a waiting connection, retries without spinning, and logs it once."""
    listener = stack.enter_context(Starved())
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    connect = serve(listener=listener)
    idle = [connect() for _ in range(waiting)]
    assert [200] * waiting == [client.ask()[0] for client in idle]
    listener.calls, listener.starved = 0, True
    late = connect()
    assert all(client.gone() for client in idle)
    time.sleep(0.4)
    assert 0 < listener.calls < 10
    listener.starved = False
    assert 200 == late.ask()[0]
    said = [record.getMessage() for record in caplog.records if record.name == "mpmetrics"]
    assert 1 == len(said)
    assert "Too many open files" in said[0]


# Starting and stopping.


def test_socket_added_while_running_is_served(handler: Answers, stack: contextlib.ExitStack) -> None:
    """The server serves a socket as soon as it is added, for example a port that was busy at the start."""

    def ask(listener: socket.socket) -> int:
        return stack.enter_context(Client(listener.getsockname())).ask()[0]

    async def main() -> list[int]:
        server = HttpServer(handler)
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        await server.start()
        answered = []
        for listener in listeners:
            await server.add(listener)
            answered.append(await asyncio.to_thread(ask, listener))
        await server.close(0.0)
        assert [-1, -1] == [listener.fileno() for listener in listeners]
        return answered

    assert [200, 200] == asyncio.run(main())


def test_wrong_use_raises(handler: Answers) -> None:
    """`start()` raises on a second call; `add()` raises before the start, after the end, and for a deaf socket."""

    async def main() -> None:
        server = HttpServer(handler)
        with socket.socket() as deaf, socket.create_server(("127.0.0.1", 0)) as listener:
            with pytest.raises(RuntimeError, match="start"):
                await server.add(listener)
            await server.start()
            with pytest.raises(RuntimeError, match="once"):
                await server.start()
            with pytest.raises(ValueError, match="does not listen"):
                await server.add(deaf)
            await server.close(0.0)
            with pytest.raises(RuntimeError, match="close"):
                await server.add(listener)

    asyncio.run(main())


@pytest.mark.parametrize(
    "limits", [{"threads": 0}, {"chunk": -1}, {"idle_timeout": 0.0}, {"write_timeout": float("nan")}]
)
def test_limits_are_above_zero(limits: dict[str, Any]) -> None:
    """A limit that is not above 0 raises a ValueError with its name."""
    with pytest.raises(ValueError, match=f"Limits.{next(iter(limits))} must be above 0"):
        Limits(**limits)


@pytest.mark.parametrize("finishes", [True, False])
def test_close_waits_for_running_requests(handler: Answers, *, finishes: bool) -> None:
    """close() drops idle clients and waits for running requests; it drops them when the grace is over."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = ServerThread(handler, [listener])
    with Client(("127.0.0.1", server.port)) as idle, Client(("127.0.0.1", server.port)) as busy:
        assert 200 == idle.ask()[0]
        busy.sendall(request("/hold"))
        assert handler.held.acquire(timeout=PATIENCE)
        closing = threading.Thread(target=server.close, args=(2 * PATIENCE if finishes else 0.2,))
        closing.start()
        assert idle.gone()
        if finishes:
            handler.go.set()
            status, headers, _ = busy.answer()
            assert (200, "close") == (status, headers["connection"])
        assert busy.gone()
        closing.join(PATIENCE)
        assert not closing.is_alive()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        Client(("127.0.0.1", server.port))


def test_close_answers_clients_that_have_just_connected(handler: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that connected before close() and sends its request right after it gets its answer, then the end."""
    monkeypatch.setattr(server_module, "_LATE", PATIENCE)
    server = ServerThread(handler, [socket.create_server(("127.0.0.1", 0))])
    with Client(("127.0.0.1", server.port)) as other, Client(("127.0.0.1", server.port)) as late:
        assert 200 == other.ask()[0]
        while len(server._server._eviction) < 2:
            time.sleep(0.001)
        closing = threading.Thread(target=server.close, args=(PATIENCE,))
        closing.start()
        while not server._server._closing:
            time.sleep(0.001)
        status, headers, _ = late.ask()
        assert (200, "close") == (status, headers["connection"])
        other.close()
        closing.join(PATIENCE)
        assert not closing.is_alive()
