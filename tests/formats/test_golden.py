"""The bytes of each text format, compared with files in `golden/`, which Prometheus' own readers accept.

To write the files again after an intended change: ``GOLDEN=write python -m pytest tests/formats/test_golden.py``.
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
    """The text with creation times as zeros and without self-metrics."""
    return _OWN.sub("", _CREATED.sub(r"\1 0.0", body.decode()))


@pytest.mark.parametrize("name", list(FORMATS))
def test_formats_match_the_golden_files(provider: Provider, shop: Callable[[Provider], None], name: str) -> None:
    """Each format renders all kinds of instruments to the bytes of its file, from private memory and from a store."""
    shop(provider)
    content_type, body = Collector(provider).render(FORMATS[name][0])
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(masked(body), encoding="utf-8", newline="\n")

    assert FORMATS[name][1] == content_type
    assert path.read_bytes().decode() == masked(body)


def test_default_format_is_text_0_0_4(provider: Provider, shop: Callable[[Provider], None]) -> None:
    """A scrape without an Accept header gets text 0.0.4."""
    shop(provider)
    content_type, body = Collector(provider).render()

    assert FORMATS["text-0.0.4"][1] == content_type
    assert (GOLDEN / "text-0.0.4.txt").read_bytes().decode() == masked(body)


def test_only_openmetrics_has_creation_times(provider: Provider, shop: Callable[[Provider], None]) -> None:
    """OpenMetrics has the creation times; plain text has no place for them."""
    shop(provider)
    collector = Collector(provider)

    assert b"shop_requests_created{" in collector.render("application/openmetrics-text")[1]
    assert b"_created" not in collector.render("text/plain")[1]


def test_golden_files_parse() -> None:
    """prometheus_client's parsers, also the strict one of OpenMetrics, find every family in the golden files."""
    text = {family.name: family.type for family in parse_text((GOLDEN / "text-0.0.4.txt").read_text())}
    strict = {family.name: family.type for family in parse_openmetrics((GOLDEN / "openmetrics-1.0.0.txt").read_text())}

    assert 14 == len(text) == len(strict)
    assert {"counter", "gauge", "histogram", "summary"} == set(text.values())
    assert {"counter", "gauge", "histogram", "summary", "info", "stateset"} == set(strict.values())


def test_the_strict_parser_is_strict() -> None:
    """Control: the OpenMetrics parser refuses a file without its end or a bucket, or with text after the end."""
    golden = (GOLDEN / "openmetrics-1.0.0.txt").read_text()
    for broken in (golden.removesuffix("# EOF\n"), re.sub(r'.*le="\+Inf".*\n', "", golden), golden + "a 1\n"):
        with pytest.raises(ValueError):  # noqa: PT011 (the library may change its message)
            list(parse_openmetrics(broken))


def test_promtool_accepts_a_scrape(
    provider: Provider, shop: Callable[[Provider], None], lint: Callable[[bytes], str]
) -> None:
    """Promtool finds no fault in a scrape of all kinds of instruments and the self-metrics."""
    shop(provider)

    assert "" == lint(Collector(provider).render("text/plain;version=0.0.4")[1])
    assert "" == lint(Collector(provider).render("text/plain;version=1.0.0")[1])


def test_promtool_finds_faults(lint: Callable[[bytes], str]) -> None:
    """Control: promtool reports a counter without `_total`, and text that is no metric."""
    assert "_total" in lint(b"# HELP a A.\n# TYPE a counter\na 1\n")
    assert lint(b"{ 1\n")
