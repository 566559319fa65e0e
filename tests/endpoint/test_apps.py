"""The metrics mounted in WSGI and ASGI applications, and in a registry of prometheus_client."""

from __future__ import annotations

import asyncio
import gzip
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mpmetrics.endpoint.app import make_asgi_app, make_wsgi_app
from mpmetrics.endpoint.collector import Collector
from mpmetrics.errors import StoreUnavailableError
from mpmetrics.instruments import Counter

if TYPE_CHECKING:
    from mpmetrics.provider import Provider

OPENMETRICS = "application/openmetrics-text; version=1.0.0"

Answer = tuple[int, dict[str, str], bytes]
Ask = Callable[..., Answer]


def _wsgi(source: Any) -> Ask:
    app = validator(make_wsgi_app(source))

    def ask(method: str = "GET", path: str = "/metrics", query: str = "", **headers: str) -> Answer:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "/m",
            "PATH_INFO": path,
            "QUERY_STRING": query,
        }
        environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
        setup_testing_defaults(environ)
        environ["wsgi.input"] = io.BytesIO(b"ignored")
        started: list[Any] = []

        def start_response(status: str, fields: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], None]:
            started.append((int(status[:3]), {name.lower(): value for name, value in fields}))
            return lambda _: None

        chunks = app(environ, start_response)
        try:
            body = b"".join(chunks)
        finally:
            chunks.close()  # type: ignore[attr-defined]
        ((status, fields),) = started
        return status, fields, body

    return ask


def _asgi(source: Any) -> Ask:
    app = make_asgi_app(source)

    def ask(method: str = "GET", path: str = "/metrics", query: str = "", **headers: str) -> Answer:
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode("latin-1"),
            "headers": [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()],
        }
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"ignored", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        asyncio.run(app(scope, receive, send))
        start, *bodies = sent
        assert "http.response.start" == start["type"]
        assert all(name == name.lower() for name, _ in start["headers"])
        fields = {name.decode(): value.decode() for name, value in start["headers"]}
        assert all("http.response.body" == message["type"] for message in bodies)
        return start["status"], fields, b"".join(message.get("body", b"") for message in bodies)

    return ask


@pytest.fixture(params=["wsgi", "asgi"])
def ask(request: pytest.FixtureRequest, provider: Provider, shop: Callable[[Provider], None]) -> Ask:
    """Send a request to the application."""
    shop(provider)
    return (_wsgi if request.param == "wsgi" else _asgi)(provider)


@pytest.mark.parametrize("path", ["/metrics", "/", "", "/any/thing"])
def test_any_path_returns_the_metrics(ask: Ask, path: str) -> None:
    """Any path returns the metrics as text, with their length."""
    status, headers, body = ask(path=path)

    assert 200 == status
    assert "text/plain; version=0.0.4; charset=utf-8" == headers["content-type"]
    assert str(len(body)) == headers["content-length"]
    assert b'shop_requests_total{method="GET",code="200"} 3.0\n' in body


def test_accept_chooses_the_format(ask: Ask) -> None:
    """The Accept header chooses the format."""
    _, headers, body = ask(accept=OPENMETRICS)

    assert headers["content-type"].startswith(OPENMETRICS)
    assert body.endswith(b"# EOF\n")


def test_accept_encoding_allows_gzip(ask: Ask) -> None:
    """The Accept-Encoding header allows gzip; the Vary header tells caches that it matters."""
    _, headers, body = ask(accept_encoding="gzip")

    assert "gzip" == headers["content-encoding"]
    assert str(len(body)) == headers["content-length"]
    assert b"shop_requests_total" in gzip.decompress(body)
    assert "accept-encoding" in headers["vary"].lower()


def test_query_chooses_names(ask: Ask) -> None:
    """`name[]` in the query chooses families and samples, percent-encoded or not; other fields are ignored."""
    _, _, body = ask(query="name[]=shop_carts&name%5B%5D=shop_requests_total&x=1")
    lines = [line for line in body.decode().splitlines() if not line.startswith("#")]

    assert ["shop_carts", "shop_requests_total", "shop_requests_total"] == [re.split("[ {]", line)[0] for line in lines]
    assert b"" == ask(query="name[]=nothing")[2]


@pytest.mark.parametrize("query", ["&".join(["name[]=a"] * 1001), "&" * 5000, "name[]=" * 5000])
def test_huge_queries_are_no_server_error(ask: Ask, query: str) -> None:
    """A query of thousands of fields is refused or ignored; it causes no server error."""
    assert ask(query=query)[0] in {200, 400}


def test_meaningless_queries_are_ignored(ask: Ask) -> None:
    """A query without meaning is ignored."""
    for query in ("=", "%", "name[]", "name[]=%ff", "\xff=\xfe", "name[]=", "a=b=c;d"):
        assert 200 == ask(query=query)[0]


def test_head_has_headers_and_no_body(ask: Ask) -> None:
    """HEAD returns the headers of GET and no body."""
    status, headers, body = ask("HEAD")
    assert 200 == status
    assert b"" == body
    assert int(headers["content-length"]) > 1000
    assert headers["content-type"] == ask()[1]["content-type"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_not_allowed(ask: Ask, method: str) -> None:
    """Other methods get 405 with the allowed methods, and no metrics."""
    status, headers, body = ask(method)

    assert 405 == status
    assert {"GET", "HEAD"} == {name.strip() for name in headers["allow"].split(",")}
    assert b"shop_" not in body


def test_health_path_has_no_metrics(ask: Ask) -> None:
    """`/-/healthy` gets 200 without metrics."""
    status, _, body = ask(path="/-/healthy")

    assert 200 == status
    assert b"shop_" not in body


def test_each_request_is_fresh(provider: Provider) -> None:
    """An answer contains all that was counted before its request."""
    counter, total = Counter("a", "", provider=provider), 0.0
    for make in (_wsgi, _asgi):
        ask = make(Collector(provider))
        for _ in range(3):
            counter.inc()
            total += 1.0
            assert f"\na_total {total}\n" in ask()[2].decode()


def test_repeated_asgi_headers_are_one_list(provider: Provider) -> None:
    """The values of a repeated ASGI header count together, not the last one alone."""
    app = make_asgi_app(provider)
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"accept", OPENMETRICS.encode()), (b"accept", b"text/html;q=0.1")]
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}
    asyncio.run(app(scope, None, send))  # type: ignore[arg-type]

    assert dict(sent[0]["headers"])[b"content-type"].startswith(OPENMETRICS.encode())


def test_asgi_lifespan_is_answered(provider: Provider) -> None:
    """The application answers startup and shutdown events, so that servers do not complain."""
    messages = iter(["lifespan.startup", "lifespan.shutdown"])
    sent = []

    async def receive() -> dict[str, str]:
        return {"type": next(messages)}

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])

    asyncio.run(make_asgi_app(provider)({"type": "lifespan"}, receive, send))

    assert ["lifespan.startup.complete", "lifespan.shutdown.complete"] == sent


def test_asgi_websocket_is_refused(provider: Provider) -> None:
    """A websocket raises; the application serves HTTP only."""
    with pytest.raises(ValueError, match="websocket"):
        asyncio.run(make_asgi_app(provider)({"type": "websocket"}, None, None))  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [make_wsgi_app, make_asgi_app, Collector])
def test_missing_store_raises(make: Callable[[str], object], store_directory: str) -> None:
    """A missing store directory raises at once, with its path and the variable to check."""
    with pytest.raises(StoreUnavailableError, match=r"nowhere.*MPMETRICS_DIR"):
        make(f"{store_directory}/nowhere")


def test_app_of_a_directory_serves_its_store(shared: Provider, shop: Callable[[Provider], None]) -> None:
    """An application made of a directory serves the metrics of its store."""
    shop(shared)
    assert shared.directory is not None

    assert b"shop_carts -2.0\n" in _wsgi(shared.directory)()[2]
    assert b"shop_carts -2.0\n" in _asgi(shared.directory)()[2]


def test_registry_returns_the_same_families(provider: Provider, shop: Callable[[Provider], None]) -> None:
    """Through a registry, `generate_latest()` returns the families that the collector renders itself."""
    shop(provider)
    collector = Collector(provider)
    registry = prometheus_client.CollectorRegistry()
    registry.register(collector)

    def families(body: str) -> dict[str, Any]:
        return {
            family.name: (
                family.type,
                family.documentation,
                sorted((sample.name, sorted(sample.labels.items()), repr(sample.value)) for sample in family.samples),
            )
            for family in parse_text(body)
            if not family.name.startswith("mpmetrics_") and not family.name.endswith("_created")
        }

    ours = families(collector.render()[1].decode())
    assert 14 == len(ours)
    assert ours == families(prometheus_client.generate_latest(registry).decode())
    registry.unregister(collector)


def test_beside_other_metrics_in_a_registry(provider: Provider) -> None:
    """A registry may hold other metrics too, and our metrics may be declared after the registration."""
    registry = prometheus_client.CollectorRegistry(auto_describe=True)
    registry.register(Collector(provider))
    prometheus_client.Counter("theirs", "", registry=registry).inc()
    Counter("ours", "", provider=provider).inc()
    body = prometheus_client.generate_latest(registry)

    assert b"\ntheirs_total 1.0\n" in body
    assert b"\nours_total 1.0\n" in body
