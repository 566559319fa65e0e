"""Declarations of one metric that differ between processes: which one is shown, and what is logged."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics import Collector, Counter, Enum, Gauge, Histogram, Info, Provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpmetrics.collector.reading import Sample

    Start = Callable[[Callable[[], object]], Any]

HIDDEN = "mpmetrics_hidden_shapes"


@pytest.fixture
def later(store_directory: str, shared: Provider) -> Iterator[Provider]:
    """A second provider on the same store: a process with newer code."""
    made = Provider(shared.directory or store_directory)
    yield made
    made.shutdown()


def test_other_labels_are_shown_side_by_side(shared: Provider, later: Provider) -> None:
    """Declarations that differ in labels have one shape: the series of both are shown."""
    Counter("hits", "", ["path"], provider=shared).labels("/").inc(2)
    Counter("hits", "", ["method", "path"], provider=later).labels("GET", "/").inc(3)
    collector = Collector(shared)

    assert 2.0 == collector.value("hits_total", {"path": "/"})
    assert 3.0 == collector.value("hits_total", {"path": "/", "method": "GET"})
    assert 0.0 == collector.value(HIDDEN)


def test_series_with_equal_labels_add_up(shared: Provider, later: Provider) -> None:
    """Labels in another order, and labels with empty values, make no other series."""
    Counter("hits", "", ["path", "method"], provider=shared).labels("/", "GET").inc(2)
    Counter("hits", "", ["method", "path", "host"], provider=later).labels("GET", "/", "").inc(3)

    assert 5.0 == Collector(shared).value("hits_total", {"path": "/", "method": "GET"})


OTHERS: dict[str, tuple[Callable[[Provider], Any], Callable[[Provider], Any], str]] = {
    "buckets": (
        lambda provider: Histogram("m", "", buckets=[1], provider=provider).observe(0.5),
        lambda provider: Histogram("m", "", buckets=[1, 2], provider=provider).observe(1.5),
        "buckets",
    ),
    "mode": (
        lambda provider: Gauge("m", "", multiprocess_mode="max", provider=provider).set(1),
        lambda provider: Gauge("m", "", multiprocess_mode="min", provider=provider).set(2),
        "mode",
    ),
    "states": (
        lambda provider: Enum("m", "", states=["a", "b"], provider=provider).state("a"),
        lambda provider: Enum("m", "", states=["a", "c"], provider=provider).state("c"),
        "states",
    ),
    "type": (
        lambda provider: Counter("m", "", provider=provider).inc(1),
        lambda provider: Gauge("m", "", multiprocess_mode="sum", provider=provider).set(2),
        "kind",
    ),
}


def shown(collector: Collector) -> list[list[Sample]]:
    """Return the samples of the metric, without creation times."""
    readings = [reading for reading in collector.readings() if reading.name == "m"]
    return [[sample for sample in reading.samples if sample.suffix != "_created"] for reading in readings]


@pytest.mark.parametrize("what", OTHERS)
def test_the_later_shape_is_shown(
    shared: Provider, later: Provider, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """The earlier shape is counted and logged once with both places; it is shown again when the later processes end."""
    first, second, particular = OTHERS[what]
    first(shared)
    collector = Collector(shared)
    before = shown(collector)
    second(later)
    with caplog.at_level(logging.WARNING, "mpmetrics"):
        after = [shown(collector) for _ in range(3)]

    assert after == [after[0]] * 3
    assert before != after[0]
    assert 1 == len(after[0])
    assert 1.0 == collector.value(HIDDEN)
    (said,) = [record.getMessage() for record in caplog.records if "is not shown" in record.getMessage()]
    assert 2 == said.count(f"{__file__}:")
    assert particular in said

    later.shutdown()
    assert before == shown(collector)
    assert 1.0 == collector.value(HIDDEN), "what the dead counted is kept, and still hidden"


def test_names_that_two_metrics_expose(shared: Provider, later: Provider, caplog: pytest.LogCaptureFixture) -> None:
    """If a counter and a gauge would expose one name, the one that was declared later is shown."""
    Counter("jobs", "", provider=shared).inc()
    Gauge("jobs_total", "", multiprocess_mode="sum", provider=later).set(7)
    collector = Collector(shared)

    assert 7.0 == collector.value("jobs_total")
    assert 1.0 == collector.value(HIDDEN)
    assert ["metric 'jobs'"] == [record.getMessage()[:13] for record in caplog.records]


def test_infos_of_other_labels(shared: Provider, later: Provider) -> None:
    """The latest pairs of each set of label values are shown, whichever declaration they belong to."""
    old = Info("build", "", ["app"], provider=shared)
    old.labels("shop").info({"version": "1"})
    new = Info("build", "", ["app", "site"], provider=later)
    new.labels("shop", "").info({"version": "2"})
    new.labels("shop", "eu").info({"version": "3"})
    collector = Collector(shared)

    assert collector.value("build_info", {"app": "shop", "version": "1"}) is None
    assert 1.0 == collector.value("build_info", {"app": "shop", "version": "2"})
    assert 1.0 == collector.value("build_info", {"app": "shop", "site": "eu", "version": "3"})
