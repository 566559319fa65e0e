"""Which format and coding a scraper gets, for headers that real scrapers send and for broken ones."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpmetrics.endpoint.collector import Collector
from mpmetrics.formats.negotiate import (
    OPENMETRICS,
    OPENMETRICS_UTF8,
    TEXT_0_0_4,
    TEXT_1_0_0,
    TEXT_UTF8,
    Format,
    accepts_gzip,
    choose,
)
from mpmetrics.instruments import Counter

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics.provider import Provider

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_2_PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
    "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3_PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;"
    f"escaping=allow-utf-8;q=0.7,{PROMETHEUS_3}"
)
PROMETHEUS_3_TEXT = "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.2"
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
CHROME = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,"
    "application/signed-exchange;v=b3;q=0.7"
)

HEADERS: list[tuple[str | None, Format]] = [
    (PROMETHEUS_2, OPENMETRICS),
    (PROMETHEUS_2_PROTOBUF, OPENMETRICS),
    (PROMETHEUS_3, OPENMETRICS_UTF8),
    (PROMETHEUS_3_PROTOBUF, OPENMETRICS_UTF8),
    (PROMETHEUS_3_TEXT, TEXT_UTF8),
    ("text/plain;version=1.0.0;escaping=underscores", TEXT_1_0_0),
    ("text/plain;version=1.0.0;escaping=dots", TEXT_1_0_0),
    ("text/plain;version=0.0.4;escaping=allow-utf-8", TEXT_0_0_4),
    ("application/openmetrics-text;version=0.0.1;escaping=allow-utf-8", OPENMETRICS),
    ("text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT_0_0_4),
    (FIREFOX, TEXT_0_0_4),
    (CHROME, TEXT_0_0_4),
    ("*/*", TEXT_0_0_4),  # curl
    (None, TEXT_0_0_4),
    ("", TEXT_0_0_4),
    (" , ,;,", TEXT_0_0_4),
    ("garbage", TEXT_0_0_4),
    ("\x00\xff;q=;=;;", TEXT_0_0_4),
    ("application/json", TEXT_0_0_4),
    ("application/vnd.google.protobuf", TEXT_0_0_4),
    ("application/openmetrics-text", OPENMETRICS),
    ("application/openmetrics-text;version=2.0.0", TEXT_0_0_4),
    ("application/openmetrics-text; version=0.0.1", OPENMETRICS),
    ('application/openmetrics-text; version="1.0.0"; charset=utf-8', OPENMETRICS),
    ("Application/OpenMetrics-Text;Version=1.0.0", OPENMETRICS),
    ("text/plain", TEXT_0_0_4),
    ("text/plain;version=1.0.0", TEXT_1_0_0),
    ("text/plain;version=9", TEXT_0_0_4),
    ("text/*", TEXT_0_0_4),
    ("text/plain;q=0.5,application/openmetrics-text;q=0.4", TEXT_0_0_4),
    ("text/plain;q=0.4,application/openmetrics-text;q=0.5", OPENMETRICS),
    ("text/plain , application/openmetrics-text", TEXT_0_0_4),
    ("application/openmetrics-text , text/plain", OPENMETRICS),
    ("application/openmetrics-text;q=0", TEXT_0_0_4),
    ("application/openmetrics-text;q=0.000,*/*;q=0.1", TEXT_0_0_4),
    ("application/openmetrics-text;q=x,text/plain;q=0.1", TEXT_0_0_4),
    ("application/openmetrics-text;q=nan,text/plain;q=0.1", TEXT_0_0_4),
    ("application/openmetrics-text;q=7,text/plain;q=0.1", TEXT_0_0_4),
    ("application/openmetrics-text;q=-1,text/plain;q=0.1", TEXT_0_0_4),
    ("application/openmetrics-text;Q=0.2,text/plain;Q=0.1", OPENMETRICS),
    (",".join(["a/b"] * 5000), TEXT_0_0_4),
    ("application/openmetrics-text," + ",".join(["a/b;q=1"] * 5000), OPENMETRICS),
    (";" * 50_000, TEXT_0_0_4),
]


@pytest.mark.parametrize(("header", "expected"), HEADERS, ids=range(len(HEADERS)))
def test_header_chooses_the_format(header: str | None, expected: Format) -> None:
    """Each of these Accept headers chooses the given format."""
    assert expected == choose(header)


def test_repeated_headers_are_one_list() -> None:
    """A repeated header, joined by commas, is one list."""
    assert OPENMETRICS == choose("text/plain;q=0.5, application/openmetrics-text")


@given(st.one_of(st.text(), st.lists(st.sampled_from([*",;=q*/ .0175", "text/plain", "version"])).map("".join)))
def test_any_header_gets_an_offered_format(header: str) -> None:
    """Any header gets one of the offered formats; none raises."""
    assert choose(header) in {OPENMETRICS, TEXT_0_0_4, TEXT_1_0_0}
    assert accepts_gzip(header) in {True, False}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("deflate, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0, *", False),
        ("*", True),
        ("*;q=0", False),
        ("identity", False),
        ("br, deflate, zstd", False),
        ("gzip;q=zero", False),
        ("gzipped", False),
    ],
)
def test_gzip_needs_permission(header: str | None, *, expected: bool) -> None:
    """Gzip is used only if the header allows it."""
    assert expected == accepts_gzip(header)


@pytest.mark.parametrize("accept", [PROMETHEUS_2, PROMETHEUS_3_TEXT, None])
def test_gzip_has_the_same_series(provider: Provider, shop: Callable[[Provider], None], accept: str | None) -> None:
    """A compressed scrape has the series of the plain one, and headers that name its coding."""
    shop(provider)
    collector = Collector(provider)
    plain_headers, plain = collector.scrape(accept, None)
    headers, packed = collector.scrape(accept, "gzip")

    assert "gzip" == headers["Content-Encoding"]
    assert "Content-Encoding" not in plain_headers
    assert plain_headers["Content-Type"] == headers["Content-Type"]
    assert "Accept" in headers["Vary"]
    assert "Accept-Encoding" in headers["Vary"]
    assert _names(plain) == _names(gzip.decompress(packed))
    assert len(packed) < len(plain)


def _names(body: bytes) -> list[bytes]:
    return [line.rpartition(b" ")[0] for line in body.splitlines()]


@pytest.mark.parametrize("accept", [OPENMETRICS.content_type, TEXT_0_0_4.content_type])
def test_names_choose_families_and_samples(provider: Provider, accept: str) -> None:
    """A scrape of names has only the families and samples of these names."""
    Counter("a", "A.", ["x"], provider=provider).labels("1").inc()
    Counter("ab", "AB.", provider=provider).inc()
    Counter("c", "C.", provider=provider)
    collector = Collector(provider)

    def shown(*names: str) -> set[str]:
        lines = collector.render(accept, names)[1].decode().splitlines()
        return {line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")}

    created = {"a_created"} if accept == OPENMETRICS.content_type else set()
    assert {"a_total"} | created == shown("a")
    assert {"a_total"} == shown("a_total")
    assert {"ab_total", "c_total"} == shown("ab_total", "c_total", "nothing")
    assert set() == shown("nothing")
    assert {"mpmetrics_store_up"} == shown("mpmetrics_store_up")
    assert {"a_total", "ab_total", "c_total"} <= shown()


def test_a_scrape_of_names_does_not_change_the_next(provider: Provider) -> None:
    """After a scrape of names, a whole scrape is still whole, and the next one of names is right."""
    Counter("a", "A.", provider=provider).inc()
    collector = Collector(provider)

    assert b"a_total" not in collector.render(None, ["nothing"])[1]
    assert b"a_total 1.0" in collector.render(None)[1]
    assert b"a_total" not in collector.render(None, ["nothing"])[1]


def test_empty_openmetrics_has_its_end(provider: Provider) -> None:
    """An OpenMetrics scrape without any family still ends with `# EOF`."""
    assert b"# EOF\n" == Collector(provider).render(OPENMETRICS.content_type, ["nothing"])[1]
