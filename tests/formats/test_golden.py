"""The bytes of each text format, held against files in `golden/`; and Prometheus' own readers take them.

To write the files anew after a change that is meant: ``GOLDEN=write python -m pytest tests/formats/test_golden.py``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mpmetrics.endpoint.collector import Collector

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics.provider import Provider

GOLDEN = Path(__file__).parent / "golden"

FORMATS = {
    "text-0.0.4": ("text/plain;version=0.0.4", "text/plain; version=0.0.4; charset=utf-8"),
    "text-1.0.0": ("text/plain;version=1.0.0", "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"),
    "openmetrics-1.0.0": (
        "application/openmetrics-text;version=1.0.0",
        "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
    ),
}
_CREATED = re.compile(r"^(\w+_created(?:\{.*\})?) \d+\.\d+(?:e\+09)?$", re.MULTILINE)
_OWN = re.compile(r"^(# [A-Z]+ )?mpmetrics_.*\n", re.MULTILINE)


def masked(body: bytes) -> str:
    """Creation times as zeros, and without the collector's figures about itself."""
    return _OWN.sub("", _CREATED.sub(r"\1 0.0", body.decode()))


@pytest.mark.parametrize("name", list(FORMATS))
def test_golden(provider: Provider, shop: Callable[[Provider], None], name: str) -> None:
    """Every kind of instrument is rendered to these very bytes, from private memory and from a store."""
    shop(provider)
    content_type, body = Collector(provider).render(FORMATS[name][0])
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(masked(body), encoding="utf-8", newline="\n")

    assert FORMATS[name][1] == content_type
    assert path.read_bytes().decode() == masked(body)


def test_default_is_text(provider: Provider, shop: Callable[[Provider], None]) -> None:
    """Who asks for nothing gets text 0.0.4."""
    shop(provider)
    content_type, body = Collector(provider).render()

    assert FORMATS["text-0.0.4"][1] == content_type
    assert (GOLDEN / "text-0.0.4.txt").read_bytes().decode() == masked(body)


def test_openmetrics_shows_creation_times(provider: Provider, shop: Callable[[Provider], None]) -> None:
    """OpenMetrics has the creation time of counters, histograms and summaries; plain text has no place for it."""
    shop(provider)
    collector = Collector(provider)

    assert b"shop_requests_created{" in collector.render("application/openmetrics-text")[1]
    assert b"_created" not in collector.render("text/plain")[1]


def test_golden_files_parse() -> None:
    """prometheus_client's parsers, the strict OpenMetrics one included, take the golden files and find every family."""
    text = {family.name: family.type for family in parse_text((GOLDEN / "text-0.0.4.txt").read_text())}
    strict = {family.name: family.type for family in parse_openmetrics((GOLDEN / "openmetrics-1.0.0.txt").read_text())}

    assert 14 == len(text) == len(strict)
    assert {"counter", "gauge", "histogram", "summary"} == set(text.values())
    assert {"counter", "gauge", "histogram", "summary", "info", "stateset"} == set(strict.values())


def test_the_strict_parser_is_strict() -> None:
    """The OpenMetrics parser complains about a file of which the end or a bucket is missing."""
    golden = (GOLDEN / "openmetrics-1.0.0.txt").read_text()
    for broken in (golden.removesuffix("# EOF\n"), re.sub(r'.*le="\+Inf".*\n', "", golden), golden + "a 1\n"):
        with pytest.raises(ValueError):  # noqa: PT011 (which words, is the library's affair)
            list(parse_openmetrics(broken))


def test_promtool(provider: Provider, shop: Callable[[Provider], None], lint: Callable[[bytes], str]) -> None:
    """Promtool has nothing to say about a scrape of everything, the collector's own figures included."""
    shop(provider)

    assert "" == lint(Collector(provider).render("text/plain;version=0.0.4")[1])
    assert "" == lint(Collector(provider).render("text/plain;version=1.0.0")[1])


def test_promtool_can_complain(lint: Callable[[bytes], str]) -> None:
    """Promtool complains about a counter that is not called a total, and about what is no metric."""
    assert "_total" in lint(b"# HELP a A.\n# TYPE a counter\na 1\n")
    assert lint(b"{ 1\n")
