"""Metrics of an ASGI application. Source: https://asgi.readthedocs.io/en/latest/specs/www.html."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmetrics.instrumentation.http_server import HTTPServerMetrics, declared_size

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from mpmetrics.provider import Provider

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]
    Route = Callable[[Scope], str | None]

__all__ = ["ASGIMiddleware"]

ROUTE = "mpmetrics.route"
"""Key of the scope at which an application may store the template of its route."""


def _found_route(scope: Scope) -> str | None:
    """Return the route that the application stored, or that Starlette or FastAPI matched."""
    route = scope.get(ROUTE) or getattr(scope.get("route"), "path", None)
    return route if isinstance(route, str) else None


class ASGIMiddleware:
    """Wraps ``app`` and measures its HTTP requests: durations, body sizes, and how many are in progress.

    ``route(scope)`` as in :class:`~mpmetrics.instrumentation.wsgi.WSGIMiddleware`; by default it is
    ``scope["mpmetrics.route"]`` if the application has set that, or the path of the route that Starlette or FastAPI
    matched. A request is counted before the last part of its answer is sent. ``provider``: by default the default one.
    """

    def __init__(self, app: App, *, route: Route = _found_route, provider: Provider | None = None) -> None:
        self._app = app
        self._route = route
        self._metrics = HTTPServerMetrics(provider)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Anything but an HTTP request passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = self._metrics.begin(scope["method"], scope.get("scheme", "http"))
        lengths = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"content-length"]
        declared = declared_size(lengths[0] if lengths else None)
        exchange.received = declared or 0

        async def counting_receive() -> Message:
            message = await receive()
            if declared is None and message["type"] == "http.request":
                exchange.received += len(message.get("body", b""))
            return message

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
            elif message["type"] == "http.response.body":
                exchange.sent += len(message.get("body", b""))
                if not message.get("more_body", False):
                    exchange.end(self._name(scope))
            await send(message)

        try:
            await self._app(scope, counting_receive, counting_send)
        except BaseException as error:
            exchange.error = type(error).__qualname__
            exchange.status = 500
            raise
        finally:
            exchange.end(self._name(scope))  # if the answer was never completed

    def _name(self, scope: Scope) -> str | None:
        try:
            return self._route(scope)
        except Exception:  # noqa: BLE001 (a request must not fail because its route is unknown)
            return None
