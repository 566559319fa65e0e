"""Metrics of a WSGI application (PEP 3333)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmetrics.instrumentation.http_server import HTTPServerMetrics, declared_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from mpmetrics.instrumentation.http_server import Exchange
    from mpmetrics.provider import Provider

    Route = Callable[[WSGIEnvironment], str | None]

__all__ = ["WSGIMiddleware"]

ROUTE = "mpmetrics.route"
"""Key of the environment at which an application may store the template of its route."""


def _stored_route(environ: WSGIEnvironment) -> str | None:
    route = environ.get(ROUTE)
    return route if isinstance(route, str) else None


class WSGIMiddleware:
    """Wraps ``app`` and measures its requests: durations, body sizes, and how many are in progress.

    ``route(environ)`` is called after the application, and returns the template of the route, such as
    ``/orders/{id}``. It must not return the path, since each path that a client invents would be a series. By default
    it is ``environ["mpmetrics.route"]``, if the application has set that. With Flask::

        WSGIMiddleware(app.wsgi_app, route=lambda environ: str(environ["werkzeug.request"].url_rule or ""))

    A request whose body is a list or a file is counted before the body is sent, any other when its body ends.
    ``provider`` is by default the default one.
    """

    def __init__(self, app: WSGIApplication, *, route: Route = _stored_route, provider: Provider | None = None) -> None:
        self._app = app
        self._route = route
        self._metrics = HTTPServerMetrics(provider)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        exchange = self._metrics.begin(environ.get("REQUEST_METHOD", ""), environ.get("wsgi.url_scheme", ""))
        size = declared_size(environ.get("CONTENT_LENGTH") or None)
        if size is None:
            environ["wsgi.input"] = _Counted(environ["wsgi.input"], exchange)
        else:
            exchange.received = size

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
            exchange.status = int(status[:3])
            write = start_response(status, headers, *exc_info)

            def counted(data: bytes) -> object:
                exchange.sent += len(data)
                return write(data)

            return counted

        try:
            body = self._app(environ, start)
        except BaseException as error:
            self._fail(exchange, environ, error)
            raise
        wrapper = environ.get("wsgi.file_wrapper")
        if isinstance(wrapper, type) and isinstance(body, wrapper):
            # The server sends a file itself, but only if it gets the wrapper unchanged.
            self._end(exchange, environ)
            return body
        if isinstance(body, (list, tuple)):
            exchange.sent += sum(map(len, body))
            self._end(exchange, environ)
            return body
        return _Body(self, exchange, environ, body)

    def _end(self, exchange: Exchange, environ: WSGIEnvironment) -> None:
        try:
            route = self._route(environ)
        except Exception:  # noqa: BLE001 (a request must not fail because its route is unknown)
            route = None
        exchange.end(route)

    def _fail(self, exchange: Exchange, environ: WSGIEnvironment, error: BaseException) -> None:
        exchange.error = type(error).__qualname__
        exchange.status = 500
        self._end(exchange, environ)


class _Body:
    """A body that is produced while it is sent: counts its bytes, and the request when the body ends."""

    def __init__(
        self, middleware: WSGIMiddleware, exchange: Exchange, environ: WSGIEnvironment, body: Iterable[bytes]
    ) -> None:
        self._middleware = middleware
        self._exchange = exchange
        self._environ = environ
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        try:
            for data in self._body:
                self._exchange.sent += len(data)
                yield data
        except GeneratorExit:
            raise
        except BaseException as error:
            self._middleware._fail(self._exchange, self._environ, error)  # noqa: SLF001 (two halves of one thing)
            raise
        self._middleware._end(self._exchange, self._environ)  # noqa: SLF001

    def close(self) -> None:
        """Close the body. The server calls this in any case, also if the client has gone."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._middleware._end(self._exchange, self._environ)  # noqa: SLF001


class _Counted:
    """The body of a request without Content-Length, such as a chunked one: counts the bytes that are read."""

    def __init__(self, stream: Any, exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange

    def _count(self, data: bytes) -> bytes:
        self._exchange.received += len(data)
        return data

    def read(self, *size: Any) -> bytes:
        """As the method of the stream."""
        return self._count(self._stream.read(*size))

    def readline(self, *size: Any) -> bytes:
        """As the method of the stream."""
        return self._count(self._stream.readline(*size))

    def readlines(self, *hint: Any) -> list[bytes]:
        """As the method of the stream."""
        return [self._count(line) for line in self._stream.readlines(*hint)]

    def __iter__(self) -> Iterator[bytes]:
        return map(self._count, self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
