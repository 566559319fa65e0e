"""A protected endpoint over real sockets: which clients it answers, with and without TLS, and what others can do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import http.client
import os
import socket
import ssl
import struct
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bcrypt
import pytest

from mpmetrics import Collector, Counter, Provider, Security, SecurityError, start_http_server
from mpmetrics.endpoint.app import MetricsApp
from mpmetrics.endpoint.thread import ServerThread
from mpmetrics.http.connection import Connection
from mpmetrics.http.limits import Limits
from mpmetrics.http.messages import Conversation, Request, Response
from mpmetrics.http.security import reloaded
from mpmetrics.http.security.authorization import Authorization
from mpmetrics.http.security.credentials import Credentials
from mpmetrics.http.security.protection import Protection
from mpmetrics.http.server import HttpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOKEN = "0123456789abcdef"
PATIENCE = 15.0  # timeout of the clients in these tests, in seconds
MIB = 1024 * 1024
LARGE = bytes(8 * MIB)


def basic(name: str, password: str) -> str:
    """The Authorization header of a name and a password."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


class Answers:
    """A handler: `/-/healthy` is answered at once, `/large` with 8 MiB, `/hold` after `go`, others with their path."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.go = threading.Event()
        self.held = threading.Semaphore(0)

    def immediate(self, request: Request) -> Response | None:
        """Answer the health path."""
        return Response(200, (), b"OK\n") if request.path == "/-/healthy" else None

    def __call__(self, request: Request) -> Response:
        """Answer all other paths."""
        self.seen.append(request.path)
        if request.path == "/hold":
            self.held.release()
            self.go.wait(PATIENCE)
        return Response(200, (), LARGE if request.path == "/large" else request.path.encode())


class Site:
    """A server with its protection, and requests to it."""

    def __init__(self, server: ServerThread, context: ssl.SSLContext | None) -> None:
        self.server = server
        self.address = ("127.0.0.1", server.port)
        self.context = context

    def ask(
        self,
        path: str = "/metrics",
        shown: str | None = None,
        method: str = "GET",
        context: ssl.SSLContext | None = None,
    ) -> http.client.HTTPResponse:
        """Send one request on a new connection and read the whole answer."""
        context = context or self.context
        made: http.client.HTTPConnection = http.client.HTTPConnection(*self.address, timeout=PATIENCE)
        if context is not None:
            made = http.client.HTTPSConnection(*self.address, timeout=PATIENCE, context=context)
        with contextlib.closing(made) as client:
            client.request(method, path, headers={} if shown is None else {"Authorization": shown})
            response = client.getresponse()
            response.body = response.read()  # type: ignore[attr-defined]
            return response

    def status(self, path: str = "/metrics", shown: str | None = None, **options: Any) -> int:
        """The status of the answer."""
        return self.ask(path, shown, **options).status

    def raw(self) -> socket.socket:
        """Connect without TLS."""
        return socket.create_connection(self.address, PATIENCE)

    def connect(self, **options: Any) -> ssl.SSLSocket:
        """Connect with TLS."""
        assert self.context is not None
        sock = socket.socket()
        sock.settimeout(PATIENCE)
        for option, value in options.items():
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)
        sock.connect(self.address)
        try:
            return self.context.wrap_socket(sock, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
        except BaseException:
            sock.close()
            raise


@pytest.fixture
def handler() -> Iterator[Answers]:
    """The handler of the servers in this file."""
    answers = Answers()
    yield answers
    answers.go.set()


@pytest.fixture
def serve(handler: Answers, certificates: Any) -> Iterator[Callable[..., Site]]:
    """Start a server with a protection."""
    servers: list[ServerThread] = []

    def start(security: Security, *, client: Any = None, **limits: Any) -> Site:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        protection = Protection(security)
        servers.append(ServerThread(handler, [listener], Limits(**limits), protection))
        return Site(servers[-1], certificates.context(client) if protection.is_tls else None)

    yield start
    handler.go.set()
    for server in servers:
        server.close(0.0)


@pytest.fixture
def tls(certificates: Any) -> Security:
    """A protection with TLS only."""
    cert, key = certificates.server()
    return Security(tls_cert=cert, tls_key=key)


@pytest.fixture
def secret(tmp_path: Path) -> Callable[..., str]:
    """Write a file of users or tokens."""

    def write(name: str, content: str) -> str:
        path = tmp_path / name
        path.touch(0o600)
        path.write_text(content, encoding="utf-8")
        return str(path)

    return write


def users(secret: Callable[..., str], **passwords: str) -> str:
    """Write a users file."""
    lines = [f"{name}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}\n" for name, word in passwords.items()]
    return secret("users", "".join(lines))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed files are noticed with the next request, not within a second."""
    monkeypatch.setattr(reloaded, "LOOK_EVERY", 0.0)


# Credentials.

PATHS = ["/metrics", "/", "/favicon.ico", "/-/healthy/", "/-/healthy/../metrics", "//-/healthy", "/-/healthy;x", "/%00"]
PATHS += [
    "/metrics/../-/healthy",
    "/-/healthy%2f..%2fmetrics",
    "/-/HEALTHY",
    "/-/healthy%00",
    "/metrics?/-/healthy",
    "*",
]
PATHS += [
    "/..%2f..%2fetc%2fpasswd",
    "http://h/metrics",
    "http://-/healthy",
    "/?x=/-/healthy",
    "/%ff",
    "/" + "../" * 100,
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", PATHS)
def test_only_the_health_path_needs_no_credentials(
    serve: Callable[..., Site], secret: Callable[..., str], handler: Answers, path: str, method: str
) -> None:
    """Without good credentials, every path except `/-/healthy` gets 401, and the handler does not see the request."""
    site = serve(Security(token_file=secret("token", TOKEN)))
    for shown in (None, "Bearer " + TOKEN[:-1], basic("ann", "x")):
        response = site.ask(path, shown, method)
        assert (401, 'Bearer realm="metrics"') == (response.status, response.headers["www-authenticate"])
        assert response.body == (b"401 Unauthorized\n" if method == "GET" else b"")  # type: ignore[attr-defined]
    assert [] == handler.seen
    assert 200 == site.status("/-/healthy", method=method)
    assert 200 == site.status("/%2D/healthy?x")
    assert [] == handler.seen
    assert 200 == site.status("/metrics", f"Bearer {TOKEN}", method=method)
    assert ["/metrics"] == handler.seen


@pytest.mark.parametrize("path", PATHS)
def test_without_protection_the_paths_are_answered(serve: Callable[..., Site], handler: Answers, path: str) -> None:
    """Control: without credentials configured, each of these paths reaches the handler."""
    assert 200 == serve(Security()).status(path)
    assert 1 == len(handler.seen)


def test_protocol_errors_need_no_credentials(serve: Callable[..., Site], secret: Callable[..., str]) -> None:
    """Protocol errors (405, 400) are answered without credentials and contain only the status."""
    site = serve(Security(token_file=secret("token", TOKEN)))
    response = site.ask("/metrics", method="POST")
    assert (405, b"405 Method Not Allowed\n") == (response.status, response.body)  # type: ignore[attr-defined]
    with site.raw() as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def test_each_pipelined_request_needs_credentials(serve: Callable[..., Site], secret: Callable[..., str]) -> None:
    """The server checks the credentials of each request, not of the connection."""
    site = serve(Security(token_file=secret("token", TOKEN)))
    head = "GET /metrics HTTP/1.1\r\nHost: h\r\n"
    shown = f"Authorization: Bearer {TOKEN}\r\n"
    with site.raw() as client:
        client.sendall(f"{head}{shown}\r\n{head}\r\n{head}{shown}{shown}\r\n{head}{shown}\r\n".encode())
        client.shutdown(socket.SHUT_WR)
        got = b""
        while data := client.recv(MIB):
            got += data
    assert [b"200", b"401", b"401", b"200"] == [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]]


def test_users_over_http(serve: Callable[..., Site], secret: Callable[..., str]) -> None:
    """The names and passwords of the file pass, also from the cache of verified passwords; other pairs get 401."""
    site = serve(Security(users_file=users(secret, ann="sesame", bob="pässword")))
    for _ in range(2):
        assert [200, 200] == [site.status(shown=basic(*pair)) for pair in (("ann", "sesame"), ("bob", "pässword"))]
    assert [401] * 4 == [
        site.status(shown=basic(*pair)) for pair in (("ann", "x"), ("bob", "sesame"), ("eve", "sesame"), ("", ""))
    ]
    assert 'Basic realm="metrics", charset="UTF-8"' == site.ask().headers["www-authenticate"]
    assert 200 == site.status("/-/healthy")


class Slow:
    """A password check that blocks until `go` is set; the password is "right"."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.go = threading.Event()
        self.threads: set[str] = set()
        self.running = self.most = 0

    def __call__(self, password: bytes, _held: bytes) -> bool:
        """Check."""
        self.threads.add(threading.current_thread().name)
        self.running += 1
        self.most = max(self.most, self.running)
        self.asked.release()
        self.go.wait(PATIENCE)
        self.running -= 1
        return password == b"right"


@pytest.fixture
def slow(handler: Answers, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Site, Slow]]:
    """A server with a slow password check, and one password that is verified already."""
    check = Slow()
    credentials = Credentials({"ann": b"hash"}, [], check)
    monkeypatch.setattr(Protection, "guard", lambda _, inner: Authorization(inner, lambda: credentials))
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = ServerThread(handler, [listener], Limits(threads=8), Protection(Security()))
    site = Site(server, None)
    check.go.set()
    assert 200 == site.status(shown=basic("ann", "right"))
    assert check.asked.acquire(timeout=PATIENCE)
    check.go.clear()
    yield site, check
    check.go.set()
    server.close(0.0)


def test_password_checks_do_not_delay_verified_clients(slow: tuple[Site, Slow]) -> None:
    """One password check runs at a time, and verified clients are answered meanwhile; too many checks give a 503."""
    site, check = slow
    with contextlib.ExitStack() as stack:
        for number in range(60):
            client = stack.enter_context(site.raw())
            client.sendall(f"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: {basic('ann', str(number))}\r\n\r\n".encode())
        assert check.asked.acquire(timeout=PATIENCE)
        for _ in range(5):
            assert 200 == site.status("/-/healthy")
            assert 200 == site.status("/metrics", basic("ann", "right"))
        deadline = time.monotonic() + 2 * PATIENCE
        while (status := site.ask(shown=basic("ann", "x"))).status != 503:
            assert time.monotonic() < deadline
        assert "1" == status.headers["retry-after"]
        assert 1 == check.most
        check.go.set()
    assert {"mpmetrics-http-request"} == check.threads
    while (status := site.ask(shown=basic("ann", "y"))).status != 401:  # until the queued passwords are checked
        assert time.monotonic() < deadline
    assert 1 == check.most


def test_checks_on_the_event_loop_would_delay_all(slow: tuple[Site, Slow], monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: a password check on the event loop delays even the health path."""
    site, check = slow
    monkeypatch.setattr(Authorization, "immediate", lambda guard, request: guard(request))
    with site.raw() as client, site.raw() as other:
        client.sendall(f"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: {basic('ann', 'x')}\r\n\r\n".encode())
        assert check.asked.acquire(timeout=PATIENCE)
        other.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: h\r\n\r\n")
        other.settimeout(0.3)
        with pytest.raises(TimeoutError):
            other.recv(1)
        check.go.set()


@pytest.mark.usefixtures("at_once")
def test_changed_credentials_apply_at_once(serve: Callable[..., Site], secret: Callable[..., str]) -> None:
    """A changed password or token stops working at once, also if it was cached and on an open connection."""
    site = serve(Security(users_file=users(secret, ann="old"), token_file=secret("token", TOKEN)))
    kept = http.client.HTTPConnection(*site.address, timeout=PATIENCE)
    with contextlib.closing(kept):

        def ask(shown: str) -> int:
            kept.request("GET", "/", headers={"Authorization": shown})
            response = kept.getresponse()
            response.read()
            return response.status

        assert [200, 200, 401] == [
            ask(shown) for shown in (basic("ann", "old"), f"Bearer {TOKEN}", basic("ann", "new"))
        ]
        users(secret, ann="new")
        assert [401, 200, 200] == [
            ask(shown) for shown in (basic("ann", "old"), f"Bearer {TOKEN}", basic("ann", "new"))
        ]
        secret("token", f"{TOKEN}x\n")
        assert [401, 200] == [ask(f"Bearer {shown}") for shown in (TOKEN, f"{TOKEN}x")]


@pytest.mark.usefixtures("at_once")
def test_without_file_checks_the_old_token_would_stay(
    serve: Callable[..., Site], secret: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: if the server does not detect changed files, the old token stays valid and the new one is refused."""
    monkeypatch.setattr(reloaded, "signature", lambda _: None)
    site = serve(Security(token_file=secret("token", TOKEN)))
    secret("token", "another-good-token")
    assert [200, 401] == [site.status(shown=f"Bearer {shown}") for shown in (TOKEN, "another-good-token")]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("damage", ["", "nonsense", None])
def test_broken_files_never_open_the_endpoint(
    serve: Callable[..., Site], secret: Callable[..., str], caplog: pytest.LogCaptureFixture, damage: str | None
) -> None:
    """If a token file is empty, damaged or missing, the old token stays in force; the log says so once."""
    path = secret("token", TOKEN)
    site = serve(Security(token_file=path))
    if damage is None:
        Path(path).unlink()
    else:
        secret("token", damage)
    for _ in range(3):
        assert [401, 401, 200] == [site.status(shown=shown) for shown in (None, "Bearer ", f"Bearer {TOKEN}")]
    assert 1 == sum("stays protected" in record.getMessage() for record in caplog.records)
    secret("token", "another-good-token")
    assert [401, 200] == [site.status(shown=f"Bearer {shown}") for shown in (TOKEN, "another-good-token")]


# TLS.


def test_tls_1_2_and_1_3_are_served(serve: Callable[..., Site], tls: Security, certificates: Any) -> None:
    """The server speaks TLS 1.2 and 1.3; a client that does not trust the authority rejects the certificate."""
    site = serve(tls)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = certificates.context()
        context.minimum_version = context.maximum_version = version
        assert 200 == site.status(context=context)
    with pytest.raises(ssl.SSLCertVerificationError):
        site.status(context=ssl.create_default_context())
    with site.connect() as client:
        assert client.version() == "TLSv1.3"


def test_old_tls_is_refused(serve: Callable[..., Site], tls: Security, certificates: Any) -> None:
    """The server refuses TLS 1.1 and older."""
    site = serve(tls)
    context = certificates.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        site.status(context=context)
    assert 200 == site.status()


def test_client_without_a_certificate_gets_no_answer(
    serve: Callable[..., Site], tls: Security, certificates: Any
) -> None:
    """With tls_client_ca, a client without a certificate of that authority gets no answer, not even `/-/healthy`."""
    site = serve(
        Security(tls_cert=tls.tls_cert, tls_key=tls.tls_key, tls_client_ca=certificates.ca),
        client=certificates.authority,
    )
    assert [200, 200] == [site.status(path) for path in ("/metrics", "/-/healthy")]
    for client in (None, certificates.stranger):
        for path in ("/metrics", "/-/healthy"):
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
                site.status(path, context=certificates.context(client))
    assert 200 == site.status()


def test_tls_and_credentials(serve: Callable[..., Site], tls: Security, secret: Callable[..., str]) -> None:
    """TLS and credentials work together."""
    site = serve(Security(tls_cert=tls.tls_cert, tls_key=tls.tls_key, token_file=secret("token", TOKEN)))
    assert [401, 200] == [site.status(shown=shown) for shown in (None, f"Bearer {TOKEN}")]


def test_keep_alive_head_and_large_answers_over_tls(serve: Callable[..., Site], tls: Security) -> None:
    """Over TLS too, the server keeps connections and sends answers of any size."""
    site = serve(tls)
    client = http.client.HTTPSConnection(*site.address, timeout=PATIENCE, context=site.context)
    with contextlib.closing(client):
        for method, path, size in (
            ("GET", "/large", 8 * MIB),
            ("HEAD", "/large", 0),
            ("GET", "/a", 2),
            ("POST", "/", 23),
        ):
            client.request(method, path)
            response = client.getresponse()
            assert size == len(response.read())
            assert not response.will_close


def pipelined(count: int) -> bytes:
    """The bytes of `count` requests."""
    return b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(count))


def everything(client: socket.socket) -> bytes:
    """Read until the server closes."""
    got = b""
    with contextlib.suppress(ssl.SSLEOFError):
        while data := client.recv(MIB):
            got += data
    return got


@pytest.mark.parametrize("cut", [1, 7, 100_000])
def test_pipelining_over_tls(serve: Callable[..., Site], tls: Security, cut: int) -> None:
    """The server answers pipelined requests in order, in one TLS record or many, and ends with close_notify."""
    site = serve(tls)
    data = pipelined(5) + b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    with site.connect() as client:
        for start in range(0, len(data), cut):
            client.sendall(data[start : start + cut])
        got = b""
        while more := client.recv(MIB):  # b"" is close_notify; any other end raises
            got += more
    assert [b"/0", b"/1", b"/2", b"/3", b"/4", b"/last"] == [
        part.split(b"\r\n\r\n")[1] for part in got.split(b"HTTP/1.1 ")[1:]
    ]


def test_client_that_sends_close_notify_frees_its_place(
    serve: Callable[..., Site], tls: Security, handler: Answers, certificates: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that sends close_notify before its answer gets no answer and frees its place; nothing is logged."""
    site = serve(tls, max_connections=1)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificates.context().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with site.raw() as sock:
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(MIB))
        client.write(b"GET /hold HTTP/1.1\r\nHost: h\r\n\r\n")
        sock.sendall(outgoing.read())
        assert handler.held.acquire(timeout=PATIENCE)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.unwrap()  # close_notify
        sock.sendall(outgoing.read())
        assert 200 == site.status("/-/healthy")
        handler.go.set()
        with contextlib.suppress(OSError):
            while sock.recv(MIB):
                pass
    assert [] == [record for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")]


@pytest.mark.parametrize("after", [0, 100])
def test_client_that_closes_without_close_notify(
    serve: Callable[..., Site], tls: Security, handler: Answers, caplog: pytest.LogCaptureFixture, after: int
) -> None:
    """A client that closes without close_notify while the server answers causes no line in the log."""
    site = serve(tls)
    for path in ("/hold", "/large"):
        with site.connect() as client:
            client.sendall(b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % path.encode() + pipelined(after))
            if path == "/hold":
                assert handler.held.acquire(timeout=PATIENCE)
            socket.socket.shutdown(client, socket.SHUT_WR)
            handler.go.set()
            with contextlib.suppress(OSError):
                while client.recv(MIB):
                    pass
    assert 200 == site.status()
    assert [] == [record for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")]


def test_plain_http_on_a_tls_port_is_closed(
    serve: Callable[..., Site], tls: Security, caplog: pytest.LogCaptureFixture
) -> None:
    """A TLS port closes connections that send plain HTTP or nonsense, logs nothing, and serves other clients."""
    site = serve(tls)
    for data in (b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 1000):
        for _ in range(20):
            with site.raw() as client, contextlib.suppress(ConnectionError):
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                assert b"HTTP" not in everything(client)
    assert 200 == site.status()
    assert [] == [record for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")]


def test_undecryptable_bytes_end_only_their_connection(
    serve: Callable[..., Site], tls: Security, caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes that TLS cannot decrypt end their connection; nothing is logged, and other clients are served."""
    site = serve(tls)
    for sent in (b"", b"GET /met"):
        for damage in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x17\x03\x03\x00\x20" + b"x" * 32,
            b"\x14\x03\x03\x00\x01\x01" * 50,
        ):
            with site.connect() as client:
                client.send(sent)
                os.write(client.fileno(), damage)
                with contextlib.suppress(OSError):
                    assert b"" == client.recv(MIB)
    assert 200 == site.status()
    assert [] == [record for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")]


def test_slow_handshakes_are_dropped(serve: Callable[..., Site], tls: Security) -> None:
    """The server closes a client without a request after header_timeout: silent, slow, or after its handshake."""
    site = serve(tls, header_timeout=0.5)
    with site.raw() as silent, site.raw() as dripping:
        start = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in b"\x16\x03\x01\x02\x00" * 200:
                dripping.send(bytes([byte]))
                time.sleep(0.02)
        assert time.monotonic() - start < 3
        assert b"" == silent.recv(1)
    with site.connect() as client:  # a client that is silent after its handshake
        assert b"" == everything(client)


def test_a_long_header_timeout_would_keep_them(serve: Callable[..., Site], tls: Security) -> None:
    """Control: with a longer header_timeout, the silent client stays connected."""
    site = serve(tls, header_timeout=60.0)
    with site.raw() as silent:
        silent.settimeout(1.5)
        with pytest.raises(TimeoutError):
            silent.recv(1)


def test_connections_in_their_handshake_make_room(serve: Callable[..., Site], tls: Security, handler: Answers) -> None:
    """A connection in its handshake counts as waiting. If all connections are busy, a new one gets 503 over TLS."""
    site = serve(tls, max_connections=4, header_timeout=60.0)
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(site.raw()) for _ in range(4)]
        waiting[1].sendall(b"\x16\x03\x01")
        assert 200 == site.status()
        assert b"" == waiting[0].recv(1)
        for _ in range(4):
            client = stack.enter_context(site.connect())
            client.sendall(b"GET /hold HTTP/1.1\r\nHost: h\r\n\r\n")
            assert handler.held.acquire(timeout=PATIENCE)
        assert [503, 503] == [site.status() for _ in range(2)]
        handler.go.set()
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def resident() -> int:
    """Resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("chunk", "bounded"), [(64 * 1024, True), (16 * MIB, False)])
def test_clients_that_do_not_read_cost_little_over_tls(
    serve: Callable[..., Site], tls: Security, handler: Answers, chunk: int, *, bounded: bool
) -> None:
    """20 TLS clients that do not read their 8 MiB cost under 20 MiB. In one chunk, they cost more (control)."""
    site = serve(tls, chunk=chunk)
    assert 200 == site.status("/large")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(site.connect(SO_RCVBUF=4096)) for _ in range(20)]
        before = resident()
        for client in clients:
            client.sendall(pipelined(1).replace(b"/0", b"/large"))
        deadline = time.monotonic() + PATIENCE
        while len(handler.seen) < 21 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert 21 == len(handler.seen)
        assert 200 == site.status()
        assert bounded == (resident() - before < 20 * MIB)


@pytest.mark.parametrize("encrypted", [False, True])
def test_closed_connections_free_their_objects(serve: Callable[..., Site], tls: Security, *, encrypted: bool) -> None:
    """A closed connection leaves no object for the garbage collector, which may be off and ignores OpenSSL's memory."""
    site = serve(tls if encrypted else Security(), header_timeout=0.5)
    gc.collect()

    def there() -> list[Any]:
        kinds = (Connection, Conversation, ssl.SSLObject, asyncio.sslproto.SSLProtocol)
        return [one for one in gc.get_objects() if isinstance(one, kinds)]

    others = there()  # objects of other tests

    def held() -> list[Any]:
        return [one for one in there() if not any(one is other for other in others)]

    gc.disable()
    try:
        for data in (b"", b"nonsense\r\n\r\n", b"\x16\x03\x01\x02\x00"):
            with site.raw() as client, contextlib.suppress(OSError):
                client.sendall(data)
                if data:
                    client.shutdown(socket.SHUT_WR)
                everything(client)
        if encrypted:
            with site.connect() as client:
                client.sendall(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert 200 == site.status()

        deadline = time.monotonic() + PATIENCE
        while held() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [] == held()
    finally:
        gc.enable()


@pytest.mark.usefixtures("at_once")
def test_changed_certificates_apply_to_new_connections(
    serve: Callable[..., Site], tls: Security, certificates: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """New connections get the new certificate; open ones continue. Until cert and key match, the old pair is used."""
    site = serve(tls)

    def shown() -> bytes:
        with site.connect() as client:
            return client.getpeercert(binary_form=True) or b""

    first = shown()
    kept = http.client.HTTPSConnection(*site.address, timeout=PATIENCE, context=site.context)
    with contextlib.closing(kept):
        kept.request("GET", "/")
        kept.getresponse().read()
        cert, key = certificates.server("next")
        Path(cert).replace(str(tls.tls_cert))
        assert [first, first] == [shown(), shown()]
        assert 1 == sum("stays protected" in record.getMessage() for record in caplog.records)
        Path(key).replace(str(tls.tls_key))
        second = shown()
        assert first != second
        Path(str(tls.tls_key)).write_text("nonsense", encoding="utf-8")
        Path(str(tls.tls_cert)).unlink()
        assert [second, second] == [shown(), shown()]
        kept.request("GET", "/")
        assert 200 == kept.getresponse().status


@pytest.mark.usefixtures("at_once")
def test_changed_client_authority_applies(serve: Callable[..., Site], tls: Security, certificates: Any) -> None:
    """After tls_client_ca changes, clients of the old authority are refused and clients of the new one served."""
    ca = certificates._write("clients.pem", certificates.authority.cert_pem.bytes())
    site = serve(Security(tls_cert=tls.tls_cert, tls_key=tls.tls_key, tls_client_ca=ca))
    ours, theirs = (certificates.context(client) for client in (certificates.authority, certificates.stranger))
    assert 200 == site.status(context=ours)
    certificates._write("clients.pem", certificates.stranger.cert_pem.bytes())
    with pytest.raises((ssl.SSLError, ConnectionError)):
        site.status(context=ours)
    assert 200 == site.status(context=theirs)


# Where the protection is configured.


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_start_http_server_takes_security(
    tmp_path: Path, certificates: Any, secret: Callable[..., str], monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """`start_http_server()` uses its `security` argument, or else the environment at the time of the call."""
    cert, key = certificates.server()
    names = {"tls_cert": cert, "tls_key": key, "token_file": secret("token", TOKEN)}
    if by == "environment":
        for name, path in names.items():
            monkeypatch.setenv(f"MPMETRICS_{name.upper()}", path)
    provider = Provider()
    Counter("orders", "Orders.", provider=provider).inc(3)
    security = Security(**names) if by == "argument" else None
    server = start_http_server(0, path="/m", source=provider, security=security)
    try:
        site = Site(server, certificates.context())
        assert [401, 401, 404, 200] == [
            site.status(path, shown)
            for path, shown in (("/m", None), ("/", None), ("/", f"Bearer {TOKEN}"), ("/-/healthy", None))
        ]
        assert b"orders_total 3.0\n" in site.ask("/m", f"Bearer {TOKEN}").body  # type: ignore[attr-defined]
    finally:
        server.close(0.0)
    if by == "environment":
        server = start_http_server(0, source=provider, security=Security())
        try:
            assert 200 == Site(server, None).status()
        finally:
            server.close(0.0)
        with pytest.raises(SecurityError, match=f"token file {str(tmp_path)!r}"):
            start_http_server(0, source=provider, environ={"MPMETRICS_TOKEN_FILE": str(tmp_path)})


def test_sockets_of_one_server_may_differ(secret: Callable[..., str]) -> None:
    """One socket of a server may need credentials while another needs none, like the store's own socket."""
    app = MetricsApp(Collector(Provider()))

    def ask(listener: socket.socket) -> int:
        connection = http.client.HTTPConnection(*listener.getsockname(), timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            return connection.getresponse().status

    async def main() -> list[int]:
        server = HttpServer(app)
        await server.start()
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        await server.add(listeners[0], Protection(Security(token_file=secret("token", TOKEN))))
        await server.add(listeners[1])
        answers = [await asyncio.to_thread(ask, listener) for listener in listeners]
        await server.close(0.0)
        return answers

    assert [401, 200] == asyncio.run(main())
