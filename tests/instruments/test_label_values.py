"""Label values that are long or many: they are cut or counted in the overflow series, and the log says so once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics.instruments import Counter, Gauge, Histogram, Info
from mpmetrics.registry import Registry

if TYPE_CHECKING:
    from mpmetrics.provider import Provider

Shown = Callable[[Any], dict[tuple[str, tuple[tuple[str, str], ...]], float]]

LONG = "x" * 5000
CUT = "x" * 1023 + "…"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[str], int]:
    """Return how many warnings contain these words."""
    caplog.set_level(logging.WARNING, "mpmetrics")
    return lambda words: sum(words in record.getMessage() for record in caplog.records)


def test_a_long_value_is_cut(provider: Provider, shown: Shown, said: Callable[[str], int]) -> None:
    """A value of more than 1,024 characters is cut and ends in an ellipsis; the log says so once for each metric."""
    counter = Counter("c", "", ["a", "b"], provider=provider)
    for _ in range(2):
        counter.labels(LONG, "y" * 1024).inc()
        counter.labels(b="y" * 1024, a=LONG + "z").inc()
    assert {("c_total", (("a", CUT), ("b", "y" * 1024))): 4.0} == shown(provider)
    assert 1 == said("metric 'c': a label value of 5000 characters is cut to 1024")

    again = Counter("c", "", ["a", "b"], provider=provider)
    again.labels(LONG, "y").inc()
    assert 1 == said("is cut to")
    again.remove(LONG, "y" * 1024)
    again.remove_by_labels({"a": LONG})
    assert {} == shown(provider)


def test_other_long_values(provider: Provider, shown: Shown, said: Callable[[str], int]) -> None:
    """Attributes, info values and the labels of registries are cut, too."""
    meter = provider.meter("m")
    orders = meter.counter("orders")
    orders.add(1, {"status": LONG})
    orders.add(1, {"status": LONG})
    Info("i", "", provider=provider).info({"version": LONG})
    metric = Registry("r", provider=provider).get_or_register_counter("n", {"k": LONG})
    metric.inc(3)

    values = shown(provider)
    assert [2.0] == [value for (name, labels), value in values.items() if ("status", CUT) in labels and name != "i"]
    assert 1.0 == values["i_info", (("version", CUT),)]
    assert ((("k", CUT),), 3) == (metric.labels, metric.count)
    assert 3 == said("is cut to 1024")


def test_many_bytes_of_values_overflow(provider: Provider, shown: Shown, said: Callable[[str], int]) -> None:
    """A metric within its cap, but with over 4 MiB of label values, uses its overflow series; other metrics do not."""
    counter = Counter("c", "", ["a"], provider=provider, max_series=20_000)
    other = Gauge("g", "", ["a"], multiprocess_mode="sum", provider=provider)
    for number in range(4500):
        counter.labels(f"{number:05}".ljust(1000, "x")).inc()
    other.labels("a").set(1)

    values = shown(provider)
    assert 4500 == sum(value for (name, _), value in values.items() if name == "c_total")
    assert 4500 - (4 << 20) // 1000 == values["c_total", (("otel_metric_overflow", "true"),)]
    assert 1.0 == values["g", (("a", "a"),)]
    assert 1 == said("metric 'c' has no room for more series")


def test_the_overflow_is_logged_once_for_each_metric(provider: Provider, said: Callable[[str], int]) -> None:
    """The log has one line for each metric, however often it overflows and is declared."""
    for _ in range(3):
        for kind, name in ((Counter, "c"), (Histogram, "h")):
            metric: Any = kind(name, "", ["a"], max_series=1, provider=provider)  # type: ignore[operator]
            for value in "abc":
                metric.labels(value)

    assert 1 == said("metric 'c' has no room")
    assert 1 == said("metric 'h' has no room")


def test_the_count_of_overflows_has_a_cap_itself(provider: Provider, shown: Shown) -> None:
    """The self-metric's own overflow is not counted, so it does not recurse without end."""
    for number in range(3):
        counter = Counter(f"c{number}", "", ["a"], max_series=1, provider=provider)
        counter.labels("a")
        if not number:
            counter.labels("b").inc()  # so that the count exists
            children = provider.memory.find("mpmetrics_series_overflows")
            assert children is not None
            for other in range(children.limit):
                children.make((f"other {other}",))
        counter.labels("b").inc()

    assert {0.0, 1.0, 2.0} == set(shown(provider).values())


def test_new_pairs_of_one_process_end_no_series_of_others(shared: Provider, child: Any, shown: Shown) -> None:
    """New pairs replace those of this process alone; the latest pairs of all processes are shown."""
    info = Info("i", "", provider=shared)
    info.info({"version": "1"})
    theirs = child(lambda: info.info({"version": "2"}))
    assert [("version", "2")] == [labels[0] for _, labels in shown(shared)]
    info.info({"version": "3"})
    assert [("version", "3")] == [labels[0] for _, labels in shown(shared)]
    children = shared.memory.find("i")
    assert children is not None
    assert [("version", "3")] == children.keys()
    theirs.kill()

    assert [("version", "3")] == [labels[0] for _, labels in shown(shared)]
