"""Readings and rows: a collection keeps its values while series come and go, also with many threads."""

from __future__ import annotations

import os
import re
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpmetrics.collector.exporter_options import ExporterOptions
from mpmetrics.endpoint.collector import Collector
from mpmetrics.formats.text import render_openmetrics, render_text
from mpmetrics.instruments import Counter, Gauge
from mpmetrics.provider import Provider

SERIES = 400


def grow(provider: Provider, start: int, end: int) -> None:
    """Make series of two metrics, each with the value that its label names."""
    counter = Counter("plain", "", ["n"], provider=provider)
    metered = provider.meter("m").counter("metered")
    for number in range(start, end):
        counter.labels(number).inc(number)
        metered.add(number, {"n": number})


def check(text: bytes) -> int:
    """Return how many series a scrape shows; each must be there once, with the value of its label or 0."""
    found = re.findall(rb'(plain|metered)_total{[^}]*\bn="(\d+)"[^}]*} (\S+)\n', text)
    assert [] == [line for line in found if float(line[2]) not in (0.0, float(line[1]))]
    assert len(found) == len({line[:2] for line in found})
    return len(found)


def test_an_earlier_collection_keeps_its_values(provider: Provider) -> None:
    """Readings that are used after the next collection still have their own values."""
    collector = Collector(provider)
    grow(provider, 0, 3)
    earlier = collector.readings()
    collector.exported(earlier)
    grow(provider, 3, 7)
    later = collector.readings()

    for render in (render_text, render_openmetrics):
        assert 14 == check(render(collector.exported(later)))
        assert 6 == check(render(collector.exported(earlier)))
    assert [0.0, 1.0, 2.0] == next(
        [sample.value for sample in reading.samples if sample.suffix == "_total"]
        for reading in earlier
        if reading.name == "plain"
    )


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 9)),
        st.tuples(st.just("remove"), st.integers(0, 9)),
        st.tuples(st.just("clear"), st.just(0)),
        st.tuples(st.just("die"), st.integers(0, 9)),
        st.tuples(st.just("scrape"), st.just(0)),
    ),
    max_size=25,
)


def text_of(collector: Collector) -> list[list[bytes]]:
    """Return the lines of the metrics, without self-metrics, in both formats, in no order.

    Their order in a scrape is that in which the collector has read them.
    """
    readings = [one for one in collector.readings() if not one.name.startswith("mpmetrics_")]
    shown = collector.exported(readings)
    return [sorted(text.splitlines()) for text in (render_text(shown), render_openmetrics(shown))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(STEPS)
def test_a_collector_that_follows_shows_what_a_new_one_does(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """A collector that follows a store over many changes shows the same as a new collector."""
    provider = Provider(tmp_path_factory.mktemp("store"))
    counter = Counter("plain", "", ["n"], provider=provider)
    levels = Gauge("level", "", ["n"], multiprocess_mode="all", provider=provider)
    metered = provider.meter("m").counter("metered")
    following = Collector(provider)
    total = dict.fromkeys(range(10), 0.0)
    try:
        for what, number in [*steps, ("scrape", 0)]:
            if what in ("add", "die"):
                total[number] += 1 + number
            if what == "die" and os.fork() == 0:
                counter.labels(number).inc(1 + number)
                os._exit(0)
            elif what == "die":
                os.wait()
            elif what == "add":
                counter.labels(number).inc(1 + number)
                levels.labels(number).set(number)
                metered.add(1, {"n": number})
            elif what == "remove":
                counter.remove(number)
                levels.remove(number)
                total[number] = 0.0
            elif what == "clear":
                counter.clear()
                total = dict.fromkeys(range(10), 0.0)
            else:
                new = Collector(provider)
                assert text_of(new) == text_of(following)
                shown = {
                    sample.labels[0][1]: sample.value
                    for reading in following.readings()
                    if reading.name == "plain"
                    for sample in reading.samples
                    if sample.suffix == "_total"
                }
                assert {str(n): value for n, value in total.items() if value} == shown
                new.close()
    finally:
        following.close()
        provider.shutdown()


def test_labels_that_become_equal(provider: Provider) -> None:
    """Series that an option makes equal merge from the collection on in which the second one appears."""
    collector = Collector(provider, options=ExporterOptions(without_scope_labels=True))
    for number, name in enumerate(("a", "b"), 1):
        provider.meter(name).counter("metered").add(1, {"n": 1})
        text = render_text(collector.exported(collector.readings()))
        assert f'metered_total{{n="1"}} {number}.0\n'.encode() in text


@pytest.mark.usefixtures("restless")
def test_threads_scrape_while_series_come(provider: Provider) -> None:
    """While series are added, each scrape has whole lines, with the values of their own series, in every format."""
    collector = Collector(provider)
    done = threading.Event()
    failed: list[BaseException] = []

    def scrape(accept: str) -> None:
        seen = 0
        try:
            while not done.is_set():
                found = check(collector.render(accept)[1])
                assert found >= seen
                seen = found
                list(collector.collect())
        except BaseException as error:  # noqa: BLE001 (told to the test)
            failed.append(error)

    accepts = ("text/plain", "text/plain; escaping=allow-utf-8", "application/openmetrics-text")
    threads = [threading.Thread(target=scrape, args=(accept,)) for accept in accepts * 2]
    for thread in threads:
        thread.start()
    for start in range(0, SERIES, 4):
        grow(provider, start, start + 4)
    done.set()
    for thread in threads:
        thread.join()

    assert [] == failed
    assert 2 * SERIES == check(collector.render()[1])
