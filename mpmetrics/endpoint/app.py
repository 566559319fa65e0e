"""The metrics as a web application: for our own server, for WSGI and for ASGI."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from mpmetrics.endpoint.collector import Collector
from mpmetrics.errors import ShutdownError
from mpmetrics.http.messages import HEALTHY, Request, Response, plain

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Iterable

    from mpmetrics.provider import Provider

    Source = Collector | Provider | str | os.PathLike[str] | None

__all__ = ["MetricsApp", "as_collector", "make_asgi_app", "make_wsgi_app"]

_MOST_NAMES = 1000
_MOST_PICKS = 8
"""Scrapes of picked names (``name[]``) that are under way or wait for their turn; more are refused with 503."""

_TIMEOUT = "x-prometheus-scrape-timeout-seconds"


class MetricsApp:
    """Answers ``path`` with the metrics of ``collector``, and ``/-/healthy``; a handler for ``HttpServer``.

    Any thread may call it.
    """

    def __init__(self, collector: Collector, path: str = "/metrics") -> None:
        if not path.startswith("/"):
            msg = f"the path of the metrics starts with '/', not {path!r}"
            raise ValueError(msg)
        self._collector = collector
        self._path = path
        self._picks = threading.BoundedSemaphore(_MOST_PICKS)

    def immediate(self, request: Request) -> Response | None:
        """Answer requests that need no collection."""
        if request.path == HEALTHY:
            return _text(200, "OK")
        if request.path != self._path:
            return _text(404, f"not found; the metrics are at {self._path}")
        return None

    def __call__(self, request: Request) -> Response:
        """Answer with the metrics: headers choose format and coding, the query may pick names."""
        if not ("name[]" in request.query or "%" in request.query):
            return scrape(self._collector, request)
        # Bodies of picked names are made one at a time, and waiting for that must not occupy every thread.
        if not self._picks.acquire(blocking=False):
            return plain(503, ("Retry-After", "1"))
        try:
            return scrape(self._collector, request)
        finally:
            self._picks.release()


def scrape(collector: Collector, request: Request) -> Response:
    """Answer a scrape of any server."""
    try:
        names = parse_qs(request.query, max_num_fields=_MOST_NAMES).get("name[]", [])
    except ValueError:
        return _text(400, f"more than {_MOST_NAMES} fields in the query")
    accept, coding = request.headers.get("accept"), request.headers.get("accept-encoding")
    try:
        headers, body = collector.scrape(accept, coding, names, _timeout(request))
    except ShutdownError as error:
        return _text(503, str(error))
    return Response(200, tuple(headers.items()), body)


def _timeout(request: Request) -> float | None:
    """Seconds that the scraper will wait, from the header that Prometheus sends; None without a valid one."""
    try:
        seconds = float(request.headers.get(_TIMEOUT, ""))
    except ValueError:
        return None
    return seconds if 0 < seconds < math.inf else None


def _text(status: int, text: str) -> Response:
    return Response(status, (("Content-Type", "text/plain; charset=utf-8"),), f"{text}\n".encode())


def as_collector(source: Source) -> Collector:
    """Return ``source`` itself, or a collector of it."""
    return source if isinstance(source, Collector) else Collector(source)


def _answer(collector: Collector, request: Request) -> Response:
    """Answer any path: the mounting application chooses it."""
    if request.method not in ("GET", "HEAD"):
        return plain(405, ("Allow", "GET, HEAD"))
    return _text(200, "OK") if request.path.endswith(HEALTHY) else scrape(collector, request)


def make_wsgi_app(source: Source = None) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """Make a WSGI application that answers any path with the metrics, and ``/-/healthy``.

    ``source`` is a :class:`Collector`, or an argument for one. Errors as in :class:`Collector`.
    """
    collector = as_collector(source)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        headers = {name: environ[key] for name, key in _WSGI_HEADERS if key in environ}
        path, query = environ.get("PATH_INFO", "/"), environ.get("QUERY_STRING", "")
        response = _answer(collector, Request(environ.get("REQUEST_METHOD", "GET"), path, query, headers))
        length = ("Content-Length", str(len(response.body)))
        start_response(f"{response.status} {_REASONS[response.status]}", [*response.headers, length])
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [response.body]

    return app


_WSGI_HEADERS = tuple(
    (name, f"HTTP_{name.upper().replace('-', '_')}") for name in ("accept", "accept-encoding", _TIMEOUT)
)
_REASONS = {200: "OK", 400: "Bad Request", 405: "Method Not Allowed", 503: "Service Unavailable"}


def make_asgi_app(
    source: Source = None,
) -> Callable[[dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]:
    """Make an ASGI application (HTTP and lifespan) that answers any path with the metrics, and ``/-/healthy``.

    It collects on a thread, so that the event loop is not blocked. ``source`` and errors as in :func:`make_wsgi_app`.
    """
    collector = as_collector(source)

    async def app(
        scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            msg = f"the metrics are served over http, not {scope['type']!r}"
            raise ValueError(msg)
        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        query = scope.get("query_string", b"").decode("latin-1")
        request = Request(scope["method"], scope["path"], query, headers)
        response = await asyncio.to_thread(_answer, collector, request)
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
        raw.append((b"content-length", str(len(response.body)).encode()))
        await send({"type": "http.response.start", "status": response.status, "headers": raw})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})

    return app


async def _lifespan(receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """Confirm; the application has nothing to start or stop."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
