"""Metrics of HTTP calls to other servers, independent of the library that makes them.

Source of names and attributes: https://opentelemetry.io/docs/specs/semconv/http/http-metrics/#http-client
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from mpmetrics.instrumentation.http_server import DURATION_BUCKETS, SCOPE, method_of
from mpmetrics.provider import get_provider

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpmetrics.provider import Provider

__all__ = ["Call", "HTTPClientMetrics"]


class Call:
    """A call in progress. Set ``status`` once it is known."""

    def __init__(self) -> None:
        self.status: int | None = None


class HTTPClientMetrics:
    """Measures durations of calls, by method, server and status. Any thread may use it.

    Example::

        CALLS = HTTPClientMetrics()

        with CALLS.request("GET", "api.example.org") as call:
            response = httpx.get("https://api.example.org/items")
            call.status = response.status_code

    ``provider`` is by default the default one.
    """

    def __init__(self, provider: Provider | None = None) -> None:
        meter = (provider or get_provider()).meter(SCOPE)
        self._duration = meter.histogram(
            "http.client.request.duration", "Time that calls to other servers took.", "s", buckets=DURATION_BUCKETS
        )

    @contextlib.contextmanager
    def request(self, method: str, server: str, port: int | None = None) -> Iterator[Call]:
        """Measure the code within, which calls ``server``. An exception is counted by its type and raised again."""
        call = Call()
        attributes: dict[str, object] = {"http.request.method": method_of(method), "server.address": server}
        if port is not None:
            attributes["server.port"] = port
        start = time.perf_counter()
        try:
            yield call
        except BaseException as error:
            attributes["error.type"] = type(error).__qualname__
            raise
        finally:
            if call.status is not None:
                attributes["http.response.status_code"] = call.status
            self._duration.record(time.perf_counter() - start, attributes)
