"""The cap on the series of a metric, and the overflow series for label sets past it."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics.endpoint.collector import Collector
from mpmetrics.instruments import Counter, Enum, Gauge, Histogram, Info, Summary

if TYPE_CHECKING:
    from mpmetrics.provider import Provider

OVERFLOW = (("otel_metric_overflow", "true"),)
Shown = Callable[[Any], dict[tuple[str, tuple[tuple[str, str], ...]], float]]


def _overflows(source: Any) -> dict[str, float]:
    """Return the self-metric of overflows, by metric."""
    return {
        sample.labels["metric"]: sample.value
        for family in Collector(source).collect()
        for sample in family.samples
        if sample.name == "mpmetrics_series_overflows_total"
    }


def test_past_the_cap(provider: Provider, shown: Shown) -> None:
    """Label sets past the cap share the overflow series; no amount is lost, and each use is counted."""
    counter = Counter("a", "", ["x"], max_series=2, provider=provider)
    for value in "abcd":
        counter.labels(value).inc()
    counter.labels("a").inc()
    counter.labels("c").inc()

    expected = {
        ("a_total", (("x", "a"),)): 2.0,
        ("a_total", (("x", "b"),)): 1.0,
        ("a_total", OVERFLOW): 3.0,
    }
    assert expected == shown(provider)
    assert {"a": 3.0} == _overflows(provider)


def test_below_the_cap(provider: Provider) -> None:
    """A metric at its cap does not overflow, and the self-metric does not exist."""
    counter = Counter("a", "", ["x"], max_series=2, provider=provider)
    counter.labels("a").inc()
    counter.labels("b").inc()

    assert {} == _overflows(provider)


def test_every_kind_overflows(provider: Provider, shown: Shown) -> None:
    """Each kind of metric has an overflow series with the samples of its kind."""
    common: dict[str, Any] = {"max_series": 1, "provider": provider}
    for value in "ab":
        Gauge("g", "", ["x"], multiprocess_mode="max", **common).labels(value).set(2)
        Gauge("r", "", ["x"], multiprocess_mode="mostrecent", **common).labels(value).set(2)
        Histogram("h", "", ["x"], buckets=[1], **common).labels(value).observe(2)
        Summary("s", "", ["x"], **common).labels(value).observe(2)
        Enum("e", "", ["x"], states=["on", "off"], **common).labels(value).state("off")

    expected = {
        ("g", OVERFLOW): 2.0,
        ("r", OVERFLOW): 2.0,
        ("h_bucket", (("le", "+Inf"), *OVERFLOW)): 1.0,
        ("h_bucket", (("le", "1.0"), *OVERFLOW)): 0.0,
        ("h_count", OVERFLOW): 1.0,
        ("h_sum", OVERFLOW): 2.0,
        ("s_count", OVERFLOW): 1.0,
        ("s_sum", OVERFLOW): 2.0,
        ("e", (("e", "off"), *OVERFLOW)): 1.0,
        ("e", (("e", "on"), *OVERFLOW)): 0.0,
    }
    assert expected == {key: value for key, value in shown(provider).items() if OVERFLOW[0] in key[1]}
    assert dict.fromkeys("ghrse", 1.0) == _overflows(provider)


def test_a_label_named_like_the_overflow_series(provider: Provider) -> None:
    """A label with the name of the overflow label is refused, or at least makes no second series with equal labels."""
    try:
        counter = Counter("a", "", ["otel_metric_overflow"], max_series=1, provider=provider)
    except ValueError:
        return
    counter.labels("true").inc()
    counter.labels("other").inc()
    shown = [
        (sample.name, tuple(sample.labels.items()))
        for family in Collector(provider).collect()
        for sample in family.samples
        if sample.name == "a_total"
    ]

    assert len(shown) == len(set(shown))


def test_info_past_the_cap_is_counted(provider: Provider, shown: Shown) -> None:
    """An info past its cap is counted as an overflow, not silently absent."""
    info = Info("i", "", ["x"], max_series=1, provider=provider)
    info.labels("a").info({"v": "1"})
    info.labels("b").info({"v": "1"})

    assert shown(provider)["i_info", (("v", "1"), ("x", "a"))]
    assert {"i": 1.0} == _overflows(provider)


def test_room_again_after_removal(provider: Provider, shown: Shown) -> None:
    """A removed series makes room for another label set; the overflow series keeps its value."""
    counter = Counter("a", "", ["x"], max_series=1, provider=provider)
    counter.labels("a").inc()
    counter.labels("b").inc()
    counter.remove("a")
    counter.labels("b").inc()
    counter.labels("c").inc()

    assert {("a_total", (("x", "b"),)): 1.0, ("a_total", OVERFLOW): 2.0} == shown(provider)


def test_each_process_has_its_own_cap(shared: Provider, child: Any, shown: Shown) -> None:
    """The cap counts only the series of this process; all processes share one overflow series."""
    counter = Counter("a", "", ["x"], max_series=3, provider=shared)
    counter.labels("mine").inc()

    def work() -> None:
        for value in ("mine", "theirs", "third", "fourth"):
            counter.labels(value).inc()

    child(work).kill()
    child(work)
    counter.labels("fifth").inc()

    expected = {
        ("a_total", (("x", "mine"),)): 3.0,
        ("a_total", (("x", "theirs"),)): 2.0,
        ("a_total", (("x", "third"),)): 2.0,
        ("a_total", (("x", "fifth"),)): 1.0,
        ("a_total", OVERFLOW): 2.0,
    }
    assert expected == shown(shared)
    assert {"a": 2.0} == _overflows(shared)


def test_the_overflow_is_logged_once(provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
    """The first label set past the cap logs the metric and the way out; later ones log nothing."""
    counters = [Counter(name, "", ["x"], max_series=1, provider=provider) for name in "ab"]
    for counter in counters:
        counter.labels("first").inc()
    assert [] == caplog.messages
    for counter in counters:
        for number in range(10):
            counter.labels(number).inc()

    assert ["metric 'a' has no room", "metric 'b' has no room"] == [text[:22] for text in caplog.messages]
    assert all("otel_metric_overflow; raise max_series" in text for text in caplog.messages)


def test_past_the_bytes_of_a_metrics_label_values(provider: Provider, shown: Shown) -> None:
    """A metric within its cap whose label values take too many bytes overflows; no amount is lost."""
    counter, other = (Counter(name, "", ["x"], provider=provider) for name in ("large", "other"))
    for number in range(5000):
        counter.labels(f"{number:01000}").inc()
    for number in range(100):
        other.labels(number).inc()
    values = shown(provider)
    large = [labels for name, labels in values if name == "large_total"]

    assert 5000.0 == sum(value for (name, _), value in values.items() if name == "large_total")
    assert (4 << 20) / 1000 - 1 < len(large) - 1 <= (4 << 20) / 1000
    assert 5001.0 - len(large) == values["large_total", OVERFLOW] == _overflows(provider)["large"]
    assert 100 == sum(name == "other_total" for name, _ in values)


@pytest.mark.parametrize("named", [False, True])
def test_long_label_values_are_cut(
    provider: Provider, shown: Shown, caplog: pytest.LogCaptureFixture, *, named: bool
) -> None:
    """A longer value is cut to 1,024 characters with an ellipsis, by position and by name, and logged once."""
    counter = Counter("a", "", ["x"], provider=provider)

    def labels(value: str) -> Any:
        return counter.labels(x=value) if named else counter.labels(value)

    labels("é" * 1024).inc()
    assert [] == caplog.messages
    for more in ("", "b", "b" * 8000):
        labels("é" * 1024 + "a" + more).inc()
    kept, cut = "é" * 1024, "é" * 1023 + "…"
    assert {("a_total", (("x", kept),)): 1.0, ("a_total", (("x", cut),)): 3.0} == shown(provider)
    counter.remove("é" * 5000)

    assert {("a_total", (("x", kept),)): 1.0} == shown(provider)
    (text,) = caplog.messages
    assert "metric 'a': a label value of 1025 characters is cut to 1024" in text


def test_room_made_by_another_process(shared: Provider, child: Any, shown: Shown) -> None:
    """A series that another process removes makes room in this one."""
    counter = Counter("a", "", ["x"], max_series=1, provider=shared)
    counter.labels("a").inc()
    child(lambda: counter.remove("a"))
    counter.labels("b").inc()

    assert {("a_total", (("x", "b"),)): 1.0} == shown(shared)


def test_cap_without_labels(provider: Provider, shown: Shown) -> None:
    """A metric without labels has its one series with any cap."""
    Counter("a", "", max_series=1, provider=provider).inc()

    assert {("a_total", ()): 1.0} == shown(provider)


@pytest.mark.parametrize("keep", [False, True])
def test_refused_label_sets_take_no_memory(provider: Provider, *, keep: bool) -> None:
    """Thousands of label sets past the cap do not grow memory; the control, below the cap, does."""
    counter = Counter("a", "", ["x"], max_series=10_000 if keep else 10, provider=provider)
    for number in range(20):
        counter.labels(f"warm {number}").inc()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(2000):
            counter.labels(f"value {number}").inc()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert keep == (after - before > 100_000), f"{after - before} bytes"
