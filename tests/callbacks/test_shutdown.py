"""A provider that was shut down: a second shutdown is harmless, and a scrape is an error instead of empty."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics import Collector, Counter, Provider, ShutdownError, make_asgi_app, make_wsgi_app, start_http_server

if TYPE_CHECKING:
    from collections.abc import MutableMapping


def shut_down(provider: Provider) -> Collector:
    """Use, scrape and twice shut down a provider; return its collector."""
    Counter("a", "", provider=provider).inc()
    provider.meter("test").observable_gauge("g", callback=lambda observer: observer.observe(1))
    collector = Collector(provider)
    assert b"\na_total 1.0\n" in collector.render()[1]
    provider.shutdown()
    provider.shutdown()
    return collector


def test_collecting(provider: Provider) -> None:
    """Rendering and collecting raise; instruments count on without an error."""
    collector = shut_down(provider)

    for collect in (collector.render, lambda: list(collector.collect()), collector.readings):
        with pytest.raises(ShutdownError, match="shut down"):
            collect()
    Counter("a", "", provider=provider).inc()
    provider.force_flush()


def test_over_http(provider: Provider) -> None:
    """The endpoint answers 503 with the reason."""
    collector = shut_down(provider)
    server = start_http_server(0, source=collector)
    try:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10)
        with caught.value as error:
            assert 503 == error.code
            assert b"shut down" in error.read()
    finally:
        server.close()


def test_mounted(provider: Provider) -> None:
    """The WSGI and the ASGI application answer 503 with the reason."""
    collector = shut_down(provider)
    said: list[Any] = []
    body = make_wsgi_app(collector)({"REQUEST_METHOD": "GET"}, lambda status, _headers: said.append(status))

    assert ["503 Service Unavailable"] == said
    assert b"shut down" in b"".join(body)

    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> None: ...

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(make_asgi_app(collector)(scope, receive, send))

    assert 503 == sent[0]["status"]
    assert b"shut down" in sent[1]["body"]


def test_the_store_keeps_the_values(store_directory: str) -> None:
    """Values that were written before the shutdown stay in the store."""
    provider = Provider(store_directory)
    Counter("a", "", provider=provider).inc()
    provider.shutdown()

    assert b"\na_total 1.0\n" in Collector(store_directory).render()[1]
