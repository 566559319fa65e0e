"""Names in UTF-8 for scrapers that ask for them, as prometheus_client's own parsers read them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mpmetrics import Collector, Provider

TEXT = "text/plain;version=1.0.0;escaping=allow-utf-8"
OPENMETRICS = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8"
PARSERS = {TEXT: parse_text, OPENMETRICS: parse_openmetrics}

names = st.from_regex(r"[A-Za-z][A-Za-z0-9_.\-/]{0,20}", fullmatch=True).filter(
    lambda name: not name.lower().startswith(("mpmetrics", "otel")) and not name.endswith(("_total", "_info"))
)
attribute_names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=10).filter(
    lambda name: not name.startswith(("otel", "le", "worker"))
)


def parsed(provider: Provider, accept: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples that a parser reads from a scrape, without creation times and self-metrics."""
    content_type, body = Collector(provider).render(accept)
    assert "escaping=allow-utf-8" in content_type
    found: dict[Any, float] = {}
    for family in PARSERS[accept](body.decode()):
        for sample in family.samples:
            if not sample.name.startswith("mpmetrics_") and not sample.name.endswith("_created"):
                found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


@pytest.mark.parametrize("accept", PARSERS)
def test_utf8_scrapers_get_names_unchanged(accept: str) -> None:
    """Names of metrics and attributes keep their dots, before the suffixes; only names that need quotes have them."""
    provider = Provider()
    meter = provider.meter("m")
    meter.counter("shop.orders", unit="By").add(2, {"user.id": "7", "plain": "x"})
    meter.counter("plain").add(1)
    text = Collector(provider).render(accept)[1].decode()

    assert '{"shop.orders_bytes_total",otel_scope_name="m",plain="x","user.id"="7"} 2.0\n' in text
    assert 'plain_total{otel_scope_name="m"} 1.0\n' in text
    assert {
        ("shop.orders_bytes_total", (("otel_scope_name", "m"), ("plain", "x"), ("user.id", "7"))): 2.0,
        ("plain_total", (("otel_scope_name", "m"),)): 1.0,
    } == parsed(provider, accept)


@pytest.mark.parametrize("accept", PARSERS)
@example(name="A", attribute="__", value="0")
@given(name=names, attribute=attribute_names, value=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@settings(deadline=None, max_examples=60)
def test_any_name_reads_back(accept: str, name: str, attribute: str, value: str) -> None:
    """A parser reads back any name, attribute and value."""
    provider = Provider()
    provider.meter("m").gauge(name, multiprocess_mode="sum").set(1, {attribute: value})
    shown = f"key{attribute}" if attribute.startswith("__") else attribute  # Prometheus reserves such names
    labels = {shown: value, "otel_scope_name": "m"} if value else {"otel_scope_name": "m"}

    assert {(name, tuple(sorted(labels.items()))): 1.0} == parsed(provider, accept)


@given(attribute=attribute_names, value=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@settings(deadline=None, max_examples=60)
def test_other_scrapers_get_escaped_names(attribute: str, value: str) -> None:
    """A scraper that does not ask for UTF-8 gets names in the old character set, and the value."""
    provider = Provider()
    provider.meter("m").gauge("a.b", multiprocess_mode="sum").set(1, {attribute: value})
    families = [family for family in parse_text(Collector(provider).render()[1].decode()) if family.name == "a_b"]

    assert [1.0] == [sample.value for family in families for sample in family.samples]
    assert value in (*families[0].samples[0].labels.values(), "")
