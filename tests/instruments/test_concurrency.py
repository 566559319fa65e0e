"""Threads, forked and spawned processes: no increment is lost, and none is counted twice."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics.endpoint.collector import Collector
from mpmetrics.instruments import Counter, Gauge, Histogram, Summary, UpDownCounter
from mpmetrics.names.declared import Declared
from mpmetrics.provider import Provider

if TYPE_CHECKING:
    from mpmetrics.names.family import Family

Shown = Callable[[Any], dict[tuple[str, tuple[tuple[str, str], ...]], float]]
THREADS, TIMES = 4, 2000


def _in_threads(work: Callable[[], object]) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (told to the parent or the test)
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == failed


@pytest.mark.usefixtures("restless")
def test_threads(provider: Provider, shown: Shown) -> None:
    """All operations of many threads on one series count."""
    counter = Counter("c", "", ["x"], provider=provider)
    gauge = Gauge("g", "", multiprocess_mode="sum", provider=provider)
    both = UpDownCounter("u", "", provider=provider)
    histogram = Histogram("h", "", buckets=[1], provider=provider)
    summary = Summary("s", "", ["x"], provider=provider)

    def work() -> None:
        for _ in range(TIMES):
            counter.labels("1").inc()
            gauge.inc(2)
            both.dec()
            histogram.observe(0.5)
            summary.labels(x="1").observe(2)

    _in_threads(work)
    total, labels = float(THREADS * TIMES), (("x", "1"),)

    expected = {
        ("c_total", labels): total,
        ("g", ()): 2 * total,
        ("u", ()): -total,
        ("h_bucket", (("le", "1.0"),)): total,
        ("h_bucket", (("le", "+Inf"),)): total,
        ("h_count", ()): total,
        ("h_sum", ()): total / 2,
        ("s_count", labels): total,
        ("s_sum", labels): 2 * total,
    }
    assert expected == shown(provider)


@pytest.mark.usefixtures("restless")
def test_threads_make_one_series(provider: Provider, shown: Shown) -> None:
    """Threads that use the same new label values at the same time write to one series."""
    counter = Counter("c", "", ["x"], provider=provider)

    def work() -> None:
        for number in range(100):
            counter.labels(number).inc()

    _in_threads(work)

    assert {("c_total", (("x", str(number)),)): float(THREADS) for number in range(100)} == shown(provider)


@pytest.mark.usefixtures("restless")
def test_threads_declare_one_metric(provider: Provider, shown: Shown) -> None:
    """Threads that declare the same metrics at the same time share them."""

    def work() -> None:
        for number in range(200):
            Counter(f"c{number}", "", ["x"], provider=provider).labels("1").inc()

    _in_threads(work)

    assert {(f"c{number}_total", (("x", "1"),)): float(THREADS) for number in range(200)} == shown(provider)


def test_threads_declare_at_the_same_moment(provider: Provider, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that both find a metric undeclared share it: both checks end before either thread adds it."""
    check, both = Declared.check, threading.Barrier(2)

    def check_together(declared: Declared, family: Family) -> Family | None:
        found = check(declared, family)
        if found is None:
            with contextlib.suppress(threading.BrokenBarrierError):  # the threads come one at a time
                both.wait(0.5)
        return found

    monkeypatch.setattr(Declared, "check", check_together)
    seen: list[Counter] = []

    def work() -> None:
        counter = Counter("c", "", ["x"], provider=provider)
        seen.append(counter)
        for _ in range(100):
            counter.labels("1").inc()

    _in_threads(work)

    assert {("c_total", (("x", "1"),)): THREADS * 100.0} == shown(provider)
    assert 1 == len({id(counter.labels("1")) for counter in seen})


@pytest.mark.usefixtures("restless")
def test_threads_remove_and_count(provider: Provider, shown: Shown) -> None:
    """Removals in one thread while others count and scrape raise nothing, and other series are exact."""
    counter = Counter("c", "", ["x"], provider=provider)
    collector = Collector(provider)

    def work() -> None:
        for number in range(100):
            counter.labels("stays").inc()
            counter.labels(number % 3).inc()
            if number % 10 == 0:
                counter.remove(number % 3)
                list(collector.collect())

    _in_threads(work)
    counter.remove_by_labels({"x": 0})
    counter.remove(1)
    counter.remove(2)

    assert {("c_total", (("x", "stays"),)): float(THREADS * 100)} == shown(provider)


def test_forked_while_other_threads_count(shared: Provider, child: Any, shown: Shown) -> None:
    """A process that is forked at any moment counts on its own; the parent's counts are not counted twice."""
    counter = Counter("c", "", ["x"], provider=shared)
    done = threading.Event()
    counted = 0

    def count() -> None:
        nonlocal counted
        while not done.is_set():
            counter.labels("parent").inc()
            counted += 1

    thread = threading.Thread(target=count)
    thread.start()
    children = [child(lambda: counter.labels("child").inc()) for _ in range(5)]
    done.set()
    thread.join()
    for one in children[:2]:
        one.kill()

    expected = {("c_total", (("x", "parent"),)): float(counted), ("c_total", (("x", "child"),)): 5.0}
    assert expected == shown(shared)


def test_spawned_processes(store_directory: str, spawned: Callable[..., str], shown: Shown) -> None:
    """A spawned process finds the store by its environment and counts in it, and its counts stay after its end."""
    code = """
import os, sys
os.environ["MPMETRICS_DIR"] = sys.argv[1]
from mpmetrics.instruments import Counter, Histogram
Counter("c", "", ["x"]).labels("1").inc(2)
Histogram("h", "", buckets=[1]).observe(0.5)
"""
    provider = Provider(store_directory)
    Counter("c", "", ["x"], provider=provider).labels("1").inc()
    for _ in range(2):
        spawned(code, store_directory)
    actual = shown(store_directory)
    provider.shutdown()

    assert 5.0 == actual["c_total", (("x", "1"),)]
    assert 2.0 == actual["h_count", ()]
    assert 1.0 == actual["h_sum", ()]


def test_without_a_store(spawned: Callable[..., str]) -> None:
    """Without a store, the same code counts in private memory, and the default collector shows it."""
    code = """
import os
os.environ.pop("MPMETRICS_DIR", None)
from mpmetrics.endpoint.collector import Collector
from mpmetrics.instruments import Counter
Counter("c", "").inc()
print(Collector().render()[1].decode())
"""
    body = spawned(code)

    assert "\nc_total 1.0\n" in body
    assert "\nmpmetrics_store_up 0.0\n" in body


@pytest.mark.usefixtures("restless")
def test_threads_past_the_cap() -> None:
    """Threads that pass the cap at the same time raise nothing, and each use of the overflow series is counted."""
    for _ in range(100):
        provider = Provider()
        counter = Counter("c", "", ["x"], max_series=1, provider=provider)
        counter.labels("first")
        ready = threading.Barrier(THREADS)

        def work(ready: threading.Barrier = ready, counter: Counter = counter) -> None:
            ready.wait(20)
            counter.labels("another").inc()

        _in_threads(work)
        values = {sample.name: sample.value for family in Collector(provider).collect() for sample in family.samples}
        assert float(THREADS) == values["mpmetrics_series_overflows_total"]
