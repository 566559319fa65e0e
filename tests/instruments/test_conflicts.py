"""Two different metrics of one name: refused wherever the first one was declared, with both places in the message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpmetrics.errors import ConflictError, MpmetricsError
from mpmetrics.exposition.collector import Collector
from mpmetrics.instruments import Counter, Enum, Gauge, Histogram, Info, Summary, UpDownCounter
from mpmetrics.provider import Provider

HERE = Path(__file__).name

Make = Callable[[Provider], Any]

# The first metric, the second one, and words for what differs.
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
    """The second declaration raises ConflictError, says what differs and both places; the first metric stays."""
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


@pytest.mark.parametrize("what", list(DIFFERENT))
def test_two_providers_of_one_store(store_directory: str, what: str) -> None:
    """A metric that another provider declared in the store is refused just like one of this provider."""
    first, second, words = DIFFERENT[what]
    one, other = Provider(store_directory), Provider(store_directory)
    first(one)
    before = _figures(store_directory)
    with pytest.raises(ConflictError) as raised:
        second(other)

    _check(raised.value, first, second, words)
    assert before == _figures(store_directory)
    first(other)
    one.shutdown()
    other.shutdown()


@pytest.mark.parametrize("what", ["kind", "buckets", "mode", "counter and gauge of its sample name"])
@pytest.mark.parametrize("ended", [False, True])
def test_declared_first_by_a_forked_process(shared: Provider, child: Any, what: str, *, ended: bool) -> None:
    """What a forked process declared first is known here, while it lives and after its end."""
    first, second, words = DIFFERENT[what]
    other = child(lambda: first(shared))
    if ended:
        other.kill()
    before = _figures(shared)
    with pytest.raises(ConflictError) as raised:
        second(shared)

    _check(raised.value, first, second, words)
    assert before == _figures(shared)


def test_declared_first_by_a_spawned_process(store_directory: str, spawned: Callable[..., str]) -> None:
    """A process that was started by itself is told where the metric was declared here, and the other way round."""
    code = """
import sys
from mpmetrics.errors import ConflictError
from mpmetrics.instruments import Counter
from mpmetrics.provider import Provider
provider = Provider(sys.argv[1])
Counter("theirs", "", ["x"], provider=provider)
try:
    Counter("ours", "", ["x"], provider=provider)
except ConflictError as error:
    print(error)
"""
    provider = Provider(store_directory)

    def make(given: Provider) -> Counter:
        return Counter("ours", "", provider=given)

    make(provider)
    message = spawned(code, store_directory)
    for word in ("ours", "labels", f"{HERE}:{make.__code__.co_firstlineno + 1}", "<string>:9"):
        assert word in message

    with pytest.raises(ConflictError, match=r"theirs.*labels.*<string>:7"):
        Counter("theirs", "", provider=provider)
    provider.shutdown()


def test_a_refused_metric_counts_nowhere(provider: Provider, shown: Callable[[Any], Any]) -> None:
    """A conflict leaves neither a family nor a name behind: what it would have been can be declared elsewhere."""
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
    """Help texts, caps and ways of writing the same thing do not make two metrics."""
    first, second = SAME[at]
    first(provider)
    second(provider)

    names = [family.name for family in Collector(provider).collect() if not family.name.startswith("mpmetrics_")]
    assert 1 == len(names)


def _figures(source: Any) -> Any:
    """Families and samples, and the number of damaged records and drops; without figures that move by themselves."""
    moving = {"mpmetrics_scrape_duration_seconds", "mpmetrics_store_bytes", "mpmetrics_store_files"}
    return [family for family in Collector(source).collect() if family.name not in moving]
