"""Requests of WSGI and ASGI applications, and calls to other servers, are counted exactly, with bounded attributes."""

from __future__ import annotations

import asyncio
import io
import wsgiref.util
import wsgiref.validate
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics.instrumentation import ASGIMiddleware, HTTPClientMetrics, WSGIMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpmetrics import Provider

    Shown = Callable[[Any], dict[tuple[str, tuple[tuple[str, str], ...]], float]]

GET = {"http_request_method": "GET", "url_scheme": "http", "otel_scope_name": "mpmetrics.instrumentation.http"}


class Counted:
    """The HTTP metrics of a provider, by name and by the labels that differ from those of a GET."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown

    def __call__(self, provider: Provider, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Return the series of a metric."""
        return {
            tuple(pair for pair in labels if GET.get(pair[0]) != pair[1]): value
            for (shown, labels), value in self._shown(provider).items()
            if shown == f"http_{name}"
        }


@pytest.fixture
def counted(shown: Shown) -> Counted:
    """Read what was counted."""
    return Counted(shown)


def call(app: Any, *, close: bool = True, **environ: Any) -> bytes:
    """Send a request to a WSGI application; return its answer. Read an iterator to its end, unless close is False."""
    wsgiref.util.setup_testing_defaults(environ)
    answer = app(environ, lambda _status, _headers, _exc_info=None: lambda _data: None)
    if not close:
        return next(iter(answer))
    try:
        return b"".join(answer)
    finally:
        if hasattr(answer, "close"):
            answer.close()


def hello(environ: Any, start_response: Any) -> list[bytes]:
    """Answer at once, and store the route."""
    environ["mpmetrics.route"] = "/hello/{name}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello", b"!"]


OK = (("http_response_status_code", "200"), ("http_route", "/hello/{name}"))


def test_wsgi(provider: Provider, counted: Counted) -> None:
    """Durations and sizes are counted by route, method and status; no request is active at the end."""
    app = wsgiref.validate.validator(WSGIMiddleware(hello, provider=provider))
    for _ in range(3):
        environ: dict[str, Any] = {"SCRIPT_NAME": "", "PATH_INFO": "/hello/anna", "QUERY_STRING": ""}
        call(app, **environ)

    assert {OK: 3.0} == counted(provider, "server_request_duration_seconds_count")
    assert {OK: 18.0} == counted(provider, "server_response_body_size_bytes_sum")
    assert {OK: 3.0} == counted(provider, "server_request_body_size_bytes_count")
    assert {(): 0.0} == counted(provider, "server_active_requests")


def test_methods_schemes_and_paths_that_clients_invent(provider: Provider, counted: Counted) -> None:
    """All unknown methods, all unknown schemes, and all paths without a route make one series each."""
    app = WSGIMiddleware(lambda _environ, start: start("404 Not Found", []) and [], provider=provider)
    for number in range(20):
        call(app, PATH_INFO=f"/made/up/{number}", REQUEST_METHOD=f"X{number}", **{"wsgi.url_scheme": f"s{number}"})

    assert {
        (("http_request_method", "_OTHER"), ("http_response_status_code", "404"), ("url_scheme", "other")): 20.0
    } == counted(provider, "server_request_duration_seconds_count")


@pytest.mark.parametrize(
    ("length", "sent", "size"),
    [("5", b"hello", 5.0), (None, b"hello", 5.0), ("", b"hello", 5.0), ("-1", b"hello", 5.0)],
)
def test_size_of_requests(provider: Provider, counted: Counted, length: str | None, sent: bytes, size: float) -> None:
    """The size is the Content-Length; without a valid one, as for a chunked body, the bytes that were read."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        stream = environ["wsgi.input"]
        stream.read(1)
        stream.readline(1)
        list(stream)
        start_response("200 OK", [])
        return []

    environ: dict[str, Any] = {"wsgi.input": io.BytesIO(sent)}
    if length is not None:
        environ["CONTENT_LENGTH"] = length
    call(WSGIMiddleware(app, provider=provider), **environ)

    assert [size] == list(counted(provider, "server_request_body_size_bytes_sum").values())


def test_a_body_that_is_produced_while_it_is_sent(provider: Provider, counted: Counted) -> None:
    """The request is active until the end of its body, and counted then, however the body ends."""
    closed = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            assert {(): 1.0} == counted(provider, "server_active_requests")
            yield b"abc"
            yield b"de"

        def close(self) -> None:
            closed.append(1)

    def app(_environ: Any, start_response: Any) -> Body:
        start_response("200 OK", [])
        return Body()

    wrapped = WSGIMiddleware(app, provider=provider)
    assert b"abcde" == call(wrapped)
    gone = wrapped(_environ(), lambda *_: lambda _: None)
    next(iter(gone))
    gone.close()  # type: ignore[attr-defined]

    assert {(("http_response_status_code", "200"),): 8.0} == counted(provider, "server_response_body_size_bytes_sum")
    assert {(("http_response_status_code", "200"),): 2.0} == counted(provider, "server_request_duration_seconds_count")
    assert {(): 0.0} == counted(provider, "server_active_requests")
    assert [1, 1] == closed


def _environ() -> dict[str, Any]:
    environ: dict[str, Any] = {}
    wsgiref.util.setup_testing_defaults(environ)
    return environ


@pytest.mark.parametrize("late", [False, True])
def test_an_application_that_raises(provider: Provider, counted: Counted, *, late: bool) -> None:
    """An exception, before or within the body, counts as a 500 with its type, and is raised again."""

    def body() -> Iterator[bytes]:
        yield b"a"
        raise OSError

    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        if late:
            return body()
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011 (it has no message)
        call(WSGIMiddleware(app, provider=provider))

    assert {(("error_type", "OSError"), ("http_response_status_code", "500")): 1.0} == counted(
        provider, "server_request_duration_seconds_count"
    )
    assert {(): 0.0} == counted(provider, "server_active_requests")


def test_a_route_function_that_raises(provider: Provider, counted: Counted) -> None:
    """The request is answered, and counted without a route."""
    app = WSGIMiddleware(hello, route=lambda environ: environ["nothing"], provider=provider)

    assert b"hello!" == call(app)
    assert {OK[:1]: 1.0} == counted(provider, "server_request_duration_seconds_count")


def test_a_file_that_the_server_sends(provider: Provider, counted: Counted) -> None:
    """The server gets the file wrapper unchanged, so it can send the file itself."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"file"))

    environ = _environ() | {"wsgi.file_wrapper": wsgiref.util.FileWrapper}
    answer = WSGIMiddleware(app, provider=provider)(environ, lambda *_: lambda _: None)

    assert isinstance(answer, wsgiref.util.FileWrapper)
    answer.close()
    assert [1.0] == list(counted(provider, "server_request_duration_seconds_count").values())


def ask(app: Any, messages: list[dict[str, Any]], **scope: Any) -> list[dict[str, Any]]:
    """Send a request to an ASGI application; return the messages of its answer."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http", "method": "GET", "scheme": "http", "headers": [], **scope}, receive, send))
    return sent


class Found:
    """A route as Starlette stores it in the scope."""

    path = "/hello/{name}"


async def asgi_hello(scope: Any, receive: Any, send: Any) -> None:
    """Read the request, store its route and answer in two parts."""
    while (await receive()).get("more_body"):
        pass
    scope["route"] = Found()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello", "more_body": True})
    await send({"type": "http.response.body", "body": b"!"})


def test_asgi(provider: Provider, counted: Counted) -> None:
    """An ASGI request is counted with route, status and sizes, with a Content-Length and without."""
    app = ASGIMiddleware(asgi_hello, provider=provider)
    parts = [{"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.request", "body": b"c"}]
    assert 3 == len(ask(app, parts))
    ask(app, [{"type": "http.request", "body": b"ignored"}], headers=[(b"Content-Length", b"7")])

    assert {OK: 2.0} == counted(provider, "server_request_duration_seconds_count")
    assert {OK: 12.0} == counted(provider, "server_response_body_size_bytes_sum")
    assert {OK: 10.0} == counted(provider, "server_request_body_size_bytes_sum")
    assert {(): 0.0} == counted(provider, "server_active_requests")


def test_asgi_that_raises_and_a_lifespan(provider: Provider, counted: Counted) -> None:
    """An exception counts as a 500 and is raised again; a lifespan passes through."""

    async def bad(_scope: Any, _receive: Any, _send: Any) -> None:
        raise OSError

    seen = []

    async def lifespan(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["type"])

    with pytest.raises(OSError):  # noqa: PT011 (it has no message)
        ask(ASGIMiddleware(bad, provider=provider), [])
    ask(ASGIMiddleware(lifespan, provider=provider), [], type="lifespan")

    assert ["lifespan"] == seen
    assert {(("error_type", "OSError"), ("http_response_status_code", "500")): 1.0} == counted(
        provider, "server_request_duration_seconds_count"
    )
    assert {(): 0.0} == counted(provider, "server_active_requests")


def test_calls_to_others(provider: Provider, counted: Counted) -> None:
    """Calls count by method, server and status, or by the type of the exception, which is raised again."""
    calls = HTTPClientMetrics(provider)
    with calls.request("GET", "api.example.org", 443) as one:
        one.status = 204
    with pytest.raises(TimeoutError), calls.request("made up", "api.example.org"):
        raise TimeoutError

    server = ("server_address", "api.example.org")
    assert {
        (("http_response_status_code", "204"), server, ("server_port", "443")): 1.0,
        (("error_type", "TimeoutError"), ("http_request_method", "_OTHER"), server): 1.0,
    } == counted(provider, "client_request_duration_seconds_count")
