"""Two different metrics of one name: an error with both places within a process; between processes, both count.

Of the metrics of two processes, the one that was declared later is shown; the other is kept and logged.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpmetrics.endpoint.collector import Collector
from mpmetrics.errors import ConflictError, MpmetricsError
from mpmetrics.instruments import Counter, Enum, Gauge, Histogram, Info, Summary, UpDownCounter
from mpmetrics.provider import Provider

HERE = Path(__file__).name

Make = Callable[[Provider], Any]

# The first metric, the second one, and words of the message for the difference.
DIFFERENT: dict[str, tuple[Make, Make, list[str]]] = {
    "kind": (
        lambda p: Gauge("a", "", multiprocess_mode="sum", provider=p),
        lambda p: UpDownCounter("a", "", provider=p),
        ["kind", "gauge", "updowncounter"],
    ),
    "counter and gauge": (
        lambda p: Counter("a", "", provider=p),
        lambda p: Gauge("a", "", provider=p),
        ["kind", "counter", "gauge"],
    ),
    "labels": (
        lambda p: Counter("a", "", ["x"], provider=p),
        lambda p: Counter("a", "", ["x", "y"], provider=p),
        ["labels", "x", "y"],
    ),
    "order of labels": (
        lambda p: Counter("a", "", ["x", "y"], provider=p),
        lambda p: Counter("a", "", ["y", "x"], provider=p),
        ["labels", "(x, y)", "(y, x)"],
    ),
    "unit": (
        lambda p: Gauge("a_bytes", "", provider=p),
        lambda p: Gauge("a", "", unit="bytes", provider=p),
        ["unit", "bytes", "a_bytes"],
    ),
    "buckets": (
        lambda p: Histogram("a", "", buckets=(1, 2), provider=p),
        lambda p: Histogram("a", "", buckets=(1, 3), provider=p),
        ["buckets", "1.0, 2.0", "1.0, 3.0"],
    ),
    "states": (
        lambda p: Enum("a", "", states=["x", "y"], provider=p),
        lambda p: Enum("a", "", states=["y", "x"], provider=p),
        ["states", "(x, y)", "(y, x)"],
    ),
    "mode": (
        lambda p: Gauge("a", "", multiprocess_mode="max", provider=p),
        lambda p: Gauge("a", "", multiprocess_mode="livemax", provider=p),
        ["mode", "'max'", "'livemax'"],
    ),
    "mode of an up-down counter": (
        lambda p: UpDownCounter("a", "", provider=p),
        lambda p: UpDownCounter("a", "", multiprocess_mode="livesum", provider=p),
        ["mode", "'sum'", "'livesum'"],
    ),
    "counter and gauge of its sample name": (
        lambda p: Counter("a", "", provider=p),
        lambda p: Gauge("a_total", "", provider=p),
        ["'a'", "'a_total'"],
    ),
    "gauge and counter of its name": (
        lambda p: Gauge("a_total", "", provider=p),
        lambda p: Counter("a", "", provider=p),
        ["'a'", "'a_total'"],
    ),
    "histogram and counter of its buckets": (
        lambda p: Histogram("a", "", provider=p),
        lambda p: Counter("a_bucket", "", provider=p),
        ["'a'", "'a_bucket'"],
    ),
    "summary and gauge of its sum": (
        lambda p: Summary("a", "", provider=p),
        lambda p: Gauge("a_sum", "", provider=p),
        ["'a'", "'a_sum'"],
    ),
    "gauge and info": (
        lambda p: Gauge("a_info", "", provider=p),
        lambda p: Info("a", "", provider=p),
        ["'a'", "'a_info'"],
    ),
    "creation time": (
        lambda p: Counter("a", "", provider=p),
        lambda p: Gauge("a_created", "", provider=p),
        ["'a'", "'a_created'"],
    ),
}


def _line(make: Make) -> str:
    """The line of this file on which the declaration stands."""
    return f"{HERE}:{make.__code__.co_firstlineno}"


def _check(error: ConflictError, first: Make, second: Make, words: list[str]) -> None:
    message = str(error)
    assert isinstance(error, ValueError)
    assert isinstance(error, MpmetricsError)
    assert [] == [word for word in words if word not in message], message
    assert _line(first) in message
    assert _line(second) in message


@pytest.mark.parametrize("what", list(DIFFERENT))
def test_in_one_process(provider: Provider, what: str) -> None:
    """The second declaration raises ConflictError with the difference and both places; the first metric stays."""
    first, second, words = DIFFERENT[what]
    metric = first(provider)
    if metric._family.labels:
        metric.labels(*metric._family.labels)
    before = _figures(provider)
    with pytest.raises(ConflictError) as raised:
        second(provider)

    _check(raised.value, first, second, words)
    assert before == _figures(provider)
    first(provider)


TOGETHER = ("labels", "order of labels", "unit")
"""Differences with which the series of two processes are still shown side by side."""

Log = pytest.LogCaptureFixture


@pytest.fixture(params=["provider", "living", "killed", "folded"])
def elsewhere(
    request: pytest.FixtureRequest, store_directory: str, child: Any
) -> Iterator[Callable[[Callable[[Provider], None]], None]]:
    """Runs a function with another provider of the store: of this process, a living one, or one that has ended."""
    own = Provider(store_directory)

    def act(work: Callable[[Provider], None]) -> None:
        if request.param == "provider":
            work(own)
            return
        one = child(lambda: work(Provider(store_directory)))
        if request.param != "living":
            one.kill()
        if request.param == "folded":
            Collector(store_directory).fold()
            assert not [name for name in os.listdir(own.epoch.path) if name.startswith(("slab", "dead"))]

    yield act
    own.shutdown()


def _count(make: Make) -> Callable[[Provider], None]:
    """Make a metric and count once in it."""

    def work(provider: Provider) -> None:
        metric = make(provider)
        names = metric._family.labels
        cell = metric.labels(*names) if names else metric
        for method, arguments in {"inc": (), "observe": (1,), "state": ("x",), "info": ({"v": "1"},)}.items():
            if hasattr(cell, method):
                getattr(cell, method)(*arguments)
                return
        cell.set(1)

    return work


def _merged(shown: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> collections.Counter[Any]:
    """Add up what is shown, over the ``worker`` label."""
    merged: collections.Counter[Any] = collections.Counter()
    for (name, labels), value in shown.items():
        merged[name, tuple(pair for pair in labels if pair[0] != "worker")] += value  # type: ignore[assignment]
    return merged


@pytest.mark.parametrize("what", list(DIFFERENT))
def test_in_another_process(
    store_directory: str, what: str, elsewhere: Callable[..., None], caplog: Log, shown: Callable[[Any], Any]
) -> None:
    """Both declarations count. With other labels both are shown, else the later one; the log has both places."""
    first, second, words = DIFFERENT[what]
    elsewhere(_count(first))
    alone = _merged(shown(store_directory))
    here = Provider(store_directory)
    _count(second)(here)
    fresh = Provider()
    _count(second)(fresh)
    later, both = _merged(shown(fresh)), _merged(shown(store_directory))
    collector = Collector(store_directory)
    for _ in range(2):
        text = collector.render()[1].decode()
    lines = [record.getMessage() for record in caplog.records if "is not shown" in record.getMessage()]
    here.shutdown()

    if what in TOGETHER:
        assert alone + later == both
        assert [] == lines
        return
    assert later == both
    assert "mpmetrics_hidden_shapes 1.0" in text
    assert 1 == len(set(lines))
    for word in (*words, _line(first), _line(second)):
        assert word in lines[0]


def test_the_values_of_a_hidden_metric_are_kept(store_directory: str, child: Any, shown: Callable[[Any], Any]) -> None:
    """When the process of the shown metric has ended, the other metric is shown with everything it has counted."""
    mine = Provider(store_directory)
    hits = Counter("a", "", provider=mine)
    hits.inc()
    other = child(lambda: Gauge("a", "", multiprocess_mode="max", provider=Provider(store_directory)).set(7))
    hits.inc()
    assert {("a", ()): 7.0} == shown(store_directory)
    other.kill()
    hits.inc()

    assert {("a_total", ()): 3.0} == shown(store_directory)
    mine.shutdown()


def test_declared_by_a_spawned_process(
    store_directory: str, spawned: Callable[..., str], shown: Callable[[Any], Any]
) -> None:
    """Spawned processes with old and new code both count."""
    code = """
import sys
from mpmetrics.instruments import Counter
from mpmetrics.provider import Provider
Counter("a", "", ["x"], provider=Provider(sys.argv[1])).labels("1").inc()
"""
    provider = Provider(store_directory)
    Counter("a", "", provider=provider).inc()
    spawned(code, store_directory)

    assert {("a_total", ()): 1.0, ("a_total", (("x", "1"),)): 1.0} == shown(store_directory)
    provider.shutdown()


def test_a_refused_metric_counts_nowhere(provider: Provider, shown: Callable[[Any], Any]) -> None:
    """A refused declaration leaves no family and no name behind, so another metric can have its sample names."""
    Counter("a", "", provider=provider).inc()
    with pytest.raises(ConflictError):
        Histogram("a", "", provider=provider)
    Gauge("a_bucket", "", multiprocess_mode="sum", provider=provider).set(1)

    assert {("a_total", ()): 1.0, ("a_bucket", ()): 1.0} == shown(provider)


SAME: list[tuple[Make, Make]] = [
    (lambda p: Counter("a_total", "one", provider=p), lambda p: Counter("a", "two", provider=p)),
    (
        lambda p: Histogram("a", "", buckets=(1, 2), provider=p),
        lambda p: Histogram("a", "", buckets=["1", 2.0, float("inf")], provider=p),
    ),
    (
        lambda p: Gauge("a", "", ["x"], provider=p),
        lambda p: Gauge("a", "", ("x",), multiprocess_mode="liveall", provider=p),
    ),
    (lambda p: Gauge("a_b", "", provider=p), lambda p: Gauge("b", "", namespace="a", provider=p)),
    (lambda p: Counter("a", "", provider=p), lambda p: Counter("a", "", max_series=5, provider=p)),
]


@pytest.mark.parametrize("at", range(len(SAME)))
def test_no_conflict(provider: Provider, at: int) -> None:
    """Other help texts, other caps, and other ways to write the same labels or buckets are no conflict."""
    first, second = SAME[at]
    first(provider)
    second(provider)

    names = [family.name for family in Collector(provider).collect() if not family.name.startswith("mpmetrics_")]
    assert 1 == len(names)


def _figures(source: Any) -> Any:
    """Families and samples, and the number of damaged records and drops; without figures that move by themselves."""
    moving = {"mpmetrics_scrape_duration_seconds", "mpmetrics_store_bytes", "mpmetrics_store_files"}
    return [family for family in Collector(source).collect() if family.name not in moving]
