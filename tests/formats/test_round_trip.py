"""prometheus_client's parsers read a rendered scrape back as it was collected, for any labels and values."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mpmetrics.endpoint.collector import Collector
from mpmetrics.formats.text import number
from mpmetrics.instruments import Counter, Enum, Gauge, Histogram, Info, Summary
from mpmetrics.provider import Provider

if TYPE_CHECKING:
    from collections.abc import Callable

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
EXTREMES = [0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, sys.float_info.max, 1e16, 1e15, 0.1, 1 / 3, 2**53 + 2.0]


def _collected(collector: Collector) -> dict[str, Any]:
    """Families by name: type, help, unit, samples."""
    return {
        family.name: (family.type, family.documentation, family.unit, _samples(family, created=True))
        for family in collector.collect()
        if _stays_the_same(family.name)
    }


def _samples(family: Any, *, created: bool) -> list[Any]:
    return [
        (sample.name, tuple(sorted(sample.labels.items())), repr(float(sample.value)))
        for sample in family.samples
        if created or not sample.name.endswith("_created")
    ]


def _stays_the_same(name: str) -> bool:
    return not name.startswith("mpmetrics_")


def _read_openmetrics(body: bytes) -> dict[str, Any]:
    return {
        family.name: (family.type, family.documentation, family.unit, _samples(family, created=True))
        for family in parse_openmetrics(body.decode())
        if _stays_the_same(family.name)
    }


def _read_text(body: bytes) -> dict[str, Any]:
    return {
        family.name: (family.type, family.documentation, _samples(family, created=True))
        for family in parse_text(body.decode())
        if _stays_the_same(family.name)
    }


def _as_text(collector: Collector) -> dict[str, Any]:
    """The collected families in terms of text: no units or creation times; infos and states are gauges."""
    return {
        family.name + ("_info" if family.type == "info" else ""): (
            "gauge" if family.type in ("info", "stateset") else family.type,
            family.documentation,
            _samples(family, created=False),
        )
        for family in collector.collect()
        if _stays_the_same(family.name)
    }


def _agree(provider: Provider) -> None:
    collector = Collector(provider)
    assert _collected(collector) == _read_openmetrics(collector.render(OPENMETRICS)[1])
    assert _as_text(collector) == _read_text(collector.render()[1])


def test_every_kind_reads_back(provider: Provider, shop: Callable[[Provider], None]) -> None:
    """Both formats read back as collected, for every kind of instrument."""
    shop(provider)

    _agree(provider)


@pytest.mark.parametrize(
    "value", [chr(code) for code in [*range(32), 127, 0x85, 0xA0, 0x2028, 0xFEFF]] + ['"', "\\", "😀"]
)
def test_odd_characters_read_back(provider: Provider, value: str) -> None:
    """Control characters, quotes and backslashes read back unchanged, in labels, pairs and states."""
    counter = Counter("a", "", ["x", "y"], provider=provider)
    counter.labels(value, f"a{value}{value}b{value}").inc()
    Info("b", "", provider=provider).info({"v": value})
    Enum("c", "", states=[value, "other"], provider=provider).state(value)

    _agree(provider)


@pytest.mark.parametrize("value", ["\ud800", "a\udfffb", "\udc80\udc81"])
def test_surrogates_are_replaced(provider: Provider, value: str) -> None:
    """A surrogate in a help text, a label or a pair is replaced; the scrape stays valid."""
    Counter("a", f"help {value}", ["x"], provider=provider).labels(value).inc()
    Info("b", "", provider=provider).info({"v": value})

    _agree(provider)
    assert "\N{REPLACEMENT CHARACTER}" in Collector(provider).render()[1].decode()


def test_surrogates_in_states_are_replaced(provider: Provider) -> None:
    """A surrogate in the name of a state is replaced too."""
    Enum("c", "", states=["\ud800", "other"], provider=provider)

    _agree(provider)


@pytest.mark.parametrize("buckets", [(-1, 0), (-1.5, 2)])
def test_negative_buckets_have_no_sum(provider: Provider, buckets: tuple[float, ...]) -> None:
    """A histogram with buckets below zero has no sum, as the OpenMetrics specification demands."""
    Histogram("a", "A.", buckets=buckets, provider=provider).observe(-0.5)
    body = Collector(provider).render(OPENMETRICS)[1]

    (family,) = [family for family in parse_openmetrics(body.decode()) if family.name == "a"]
    assert [0.0, 1.0, 1.0] == [sample.value for sample in family.samples if sample.name == "a_bucket"]
    assert not any(sample.name == "a_sum" for sample in family.samples)


def test_surrogate_pair_is_one_character(provider: Provider) -> None:
    """Two surrogates that form a character are exported as that character."""
    Counter("a", "", ["x"], provider=provider).labels("\ud83d\ude00").inc()

    assert 'a_total{x="😀"} 1.0' in Collector(provider).render()[1].decode()


@pytest.mark.parametrize("value", EXTREMES, ids=repr)
def test_extreme_values_read_back(provider: Provider, value: float, lint: Callable[[bytes], str]) -> None:
    """Values at the edges of a double read back to the bit, and promtool accepts them."""
    Gauge("a", "A.", multiprocess_mode="mostrecent", provider=provider).set(value)
    Gauge("b", "B.", multiprocess_mode="sum", provider=provider).set(value)
    if value >= 0:
        Counter("c", "C.", provider=provider).inc(value)
    if value >= 0:  # OpenMetrics has no place for a sum of negative observations
        Summary("s", "S.", provider=provider).observe(value)
        Histogram("h", "H.", buckets=[1e-300, 1, 1e300], provider=provider).observe(value)

    _agree(provider)
    assert "" == lint(Collector(provider).render()[1])


def test_promtool_accepts_odd_labels(provider: Provider, lint: Callable[[bytes], str]) -> None:
    """Promtool accepts every control character, quote, backslash and replaced surrogate in labels."""
    counter = Counter("a", 'Every "\\\n character.', ["x"], provider=provider)
    for code in [*range(160), 0x2028, 0xD800, 0xFFFF, 0x1F600]:
        counter.labels(f"{code} {chr(code)}").inc()

    assert "" == lint(Collector(provider).render()[1])


@given(value=st.floats())
@example(value=1e22)
def test_numbers_read_back(value: float) -> None:
    """A written number reads back as the same double; infinities and NaN have the spelling of the formats."""
    written = number(value)
    assert repr(value) == repr(float(written))
    if not math.isfinite(value):
        assert written in {"NaN", "+Inf", "-Inf"}


help_text = st.text(st.characters(exclude_categories=["Cs"])).map(lambda text: f"x{text}x")
any_text = st.text(st.characters())


@given(
    labels=st.lists(st.tuples(any_text, any_text), unique_by=repr),
    values=st.lists(st.floats(allow_nan=False, min_value=0), min_size=1),
    pairs=st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), any_text),
    help=help_text,
)
@settings(deadline=None)
def test_any_labels_and_values_read_back(
    labels: list[tuple[str, str]], values: list[float], pairs: dict[str, str], help: str
) -> None:
    """Any label values, help texts and numbers read back as collected, and no series is lost."""
    provider = Provider()
    counter = Counter("a", help, ["x", "y"], provider=provider)
    gauge = Gauge("b", help, ["x", "y"], multiprocess_mode="sum", provider=provider)
    histogram = Histogram("c", help, ["x", "y"], buckets=[1, 1e9], provider=provider)
    for at, pair in enumerate(labels):
        value = values[at % len(values)]
        counter.labels(*pair).inc(value)
        gauge.labels(*pair).set(-value)
        histogram.labels(*pair).observe(value)
    Info("d", help, provider=provider).info(pairs)

    _agree(provider)
