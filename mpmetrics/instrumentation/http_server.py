"""The metrics of an HTTP server that WSGI and ASGI middleware share.

Names, units, buckets and attributes are those of the OpenTelemetry semantic conventions for HTTP servers:
https://opentelemetry.io/docs/specs/semconv/http/http-metrics/. The counts and sums of the histograms are the numbers of
requests and bytes.

No attribute has many values, whatever clients send: an unknown method counts as ``_OTHER``, and the route is a template
or absent.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpmetrics.provider import get_provider

if TYPE_CHECKING:
    from mpmetrics.instruments.meter_instruments import MeterHistogram
    from mpmetrics.provider import Provider

__all__ = ["DURATION_BUCKETS", "Exchange", "HTTPServerMetrics", "method_of"]

SCOPE = "mpmetrics.instrumentation.http"

DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
SIZE_BUCKETS = (0, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)

_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_SCHEMES = frozenset({"http", "https"})


def method_of(method: str) -> str:
    """Return a method as an attribute: a known one, or ``_OTHER``."""
    return method if method in _METHODS else "_OTHER"


class HTTPServerMetrics:
    """The instruments of one provider, by default the default one. Any thread may use them."""

    def __init__(self, provider: Provider | None = None) -> None:
        meter = (provider or get_provider()).meter(SCOPE)
        self._duration = meter.histogram(
            "http.server.request.duration", "Time from a request to its answer.", "s", buckets=DURATION_BUCKETS
        )
        # livesum: requests of a killed worker are not in progress any more.
        self._active = meter.up_down_counter(
            "http.server.active_requests", "Requests being answered.", "{request}", multiprocess_mode="livesum"
        )
        self._sizes: dict[str, MeterHistogram] = {
            which: meter.histogram(
                f"http.server.{which}.body.size", f"Size of {which} bodies.", "By", buckets=SIZE_BUCKETS
            )
            for which in ("request", "response")
        }

    def begin(self, method: str, scheme: str) -> Exchange:
        """Count a request that begins."""
        attributes = {
            "http.request.method": method_of(method),
            "url.scheme": scheme if scheme in _SCHEMES else "other",
        }
        self._active.inc(attributes)
        return Exchange(self, attributes)

    def end(self, exchange: Exchange, route: str | None) -> None:
        """Count a request that was answered; :meth:`Exchange.end` calls this once."""
        self._active.dec(exchange.attributes)
        attributes: dict[str, object] = {**exchange.attributes, "http.response.status_code": exchange.status}
        if route:
            attributes["http.route"] = route
        if exchange.error:
            attributes["error.type"] = exchange.error
        self._duration.record(time.perf_counter() - exchange.start, attributes)
        self._sizes["request"].record(exchange.received, attributes)
        self._sizes["response"].record(exchange.sent, attributes)


class Exchange:
    """One request and its answer: status, bytes received and sent, and the type of the exception, if any."""

    __slots__ = ("_is_over", "_metrics", "attributes", "error", "received", "sent", "start", "status")

    def __init__(self, metrics: HTTPServerMetrics, attributes: dict[str, str]) -> None:
        self._metrics = metrics
        self._is_over = False
        self.attributes = attributes
        self.start = time.perf_counter()
        self.status = 500
        self.received = 0
        self.sent = 0
        self.error = ""

    def end(self, route: str | None) -> None:
        """Count it, with the template of its route if that is known. Calling it again does nothing."""
        if not self._is_over:
            self._is_over = True
            self._metrics.end(self, route)


def declared_size(value: str | None) -> int | None:
    """Return the number in a ``Content-Length``; None if the header is absent, as with a chunked body, or invalid."""
    return int(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 16 else None
