"""What was merged once stays as it was, whatever comes after it and whoever looks at it."""

from __future__ import annotations

import re
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from mpmetrics.collector.view import ExporterOptions
from mpmetrics.exposition.collector import Collector
from mpmetrics.exposition.text import render_openmetrics, render_text
from mpmetrics.instruments import Counter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpmetrics.provider import Provider

SERIES = 400


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def grow(provider: Provider, start: int, end: int) -> None:
    """Make series of two metrics, each of which counted what its label says."""
    counter = Counter("plain", "", ["n"], provider=provider)
    metered = provider.meter("m").counter("metered")
    for number in range(start, end):
        counter.labels(number).inc(number)
        metered.add(number, {"n": number})


def check(text: bytes) -> int:
    """How many series a scrape shows, none twice, and each with its own value: that of its label, or none so far."""
    found = re.findall(rb'(plain|metered)_total{[^}]*\bn="(\d+)"[^}]*} (\S+)\n', text)
    assert [] == [line for line in found if float(line[2]) not in (0.0, float(line[1]))]
    assert len(found) == len({line[:2] for line in found})
    return len(found)


def test_an_earlier_collection_is_as_it_was(provider: Provider) -> None:
    """Readings that are looked at after the next collection show what they were collected with."""
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


def test_labels_that_become_the_same(provider: Provider) -> None:
    """Series that an option makes one are put together from the collection on in which there are two of them."""
    collector = Collector(provider, options=ExporterOptions(without_scope_labels=True))
    for number, name in enumerate(("a", "b"), 1):
        provider.meter(name).counter("metered").add(1, {"n": 1})
        text = render_text(collector.exported(collector.readings()))
        assert f'metered_total{{n="1"}} {number}.0\n'.encode() in text


@pytest.mark.usefixtures("restless")
def test_threads_scrape_while_series_come(provider: Provider) -> None:
    """Each scrape has whole lines with values of their own series, in every format, while more series come."""
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
