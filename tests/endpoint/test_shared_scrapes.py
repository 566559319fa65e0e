"""Scrapes at the same time share one body for each format; a callback may scrape too."""

from __future__ import annotations

import threading
import time
from typing import Any

import mpmetrics
from mpmetrics.endpoint.app import MetricsApp
from mpmetrics.http.messages import Request

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def test_a_callback_that_scrapes_does_not_wait(provider: mpmetrics.Provider) -> None:
    """A callback's scrape returns what is available, also if another scrape of that format waits for the callback."""
    collector = mpmetrics.Collector(provider)
    others: list[threading.Thread] = []
    nested: list[bytes] = []

    def scrape() -> bytes:
        return collector.scrape(OPENMETRICS, None)[1]

    def look(observer: Any) -> None:
        if not others:
            others.append(threading.Thread(target=scrape))
            others[0].start()
            while len(collector._wanted) < 2:
                time.sleep(0.001)
            time.sleep(0.05)  # the other scrape has begun
            nested.append(scrape())
        observer.observe(1)

    mpmetrics.Counter("hits", "Hits.", provider=provider).inc()
    provider.meter("looking").observable_gauge("looked", callback=look)
    assert b"\nlooked{" in collector.scrape(None, None)[1]
    others[0].join()
    assert b"hits_total 1" in nested[0]


def test_a_scrape_that_waits_for_its_turn_sets_no_time_limit(provider: mpmetrics.Provider) -> None:
    """A scrape of names that waits for its turn has its values already, and does not shorten the time of callbacks."""
    collector = mpmetrics.Collector(provider)
    ends: list[float] = []
    with collector._turn:
        waiting = threading.Thread(target=lambda: collector.scrape(None, None, ["hits"], 60.0))
        waiting.start()
        while collector._shared._finished is None:
            time.sleep(0.001)
        time.sleep(0.05)  # the scrape waits for its turn
        ends += collector._ends
    waiting.join()
    assert [] == ends


def test_scrapes_at_the_same_time_share_their_bodies(provider: mpmetrics.Provider) -> None:
    """Scrapes during a collection share the next one; each format and coding of it is one object."""
    begun, go = threading.Event(), threading.Event()
    runs: list[int] = []

    def look(observer: Any) -> None:
        runs.append(1)
        begun.set()
        go.wait(10)
        observer.observe(len(runs))

    labels = mpmetrics.Counter("hits", "Hits.", ["label"], provider=provider)
    for number in range(100):
        labels.labels(f"value {number}").inc()
    provider.meter("looking").observable_gauge("looked", callback=look)
    collector = mpmetrics.Collector(provider)
    forms = [(accept, coding) for accept in (None, OPENMETRICS) for coding in (None, "gzip")]
    bodies: dict[tuple[str | None, str | None], list[bytes]] = {form: [] for form in forms}
    first = threading.Thread(target=lambda: collector.scrape(None, None))
    first.start()
    assert begun.wait(10)
    threads = [
        threading.Thread(target=lambda form=form: bodies[form].append(collector.scrape(*form)[1])) for form in forms * 5
    ]
    for thread in threads:
        thread.start()
    while len(collector._wanted) < 1 + len(threads):
        time.sleep(0.001)
    go.set()
    for thread in (first, *threads):
        thread.join()
    assert 2 == len(runs)
    assert [1] * 4 == [len({id(body) for body in made}) for made in bodies.values()]
    assert 4 == len({made[0] for made in bodies.values()})


def test_scrapes_of_names_do_not_delay_other_scrapes(provider: mpmetrics.Provider) -> None:
    """Eight scrapes of names may run or wait at once; more of them get 503, and other scrapes are answered."""
    collector = mpmetrics.Collector(provider)
    app = MetricsApp(collector)
    picked, plain = (Request("GET", "/metrics", query, {}) for query in ("name[]=hits", "x=1"))
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(app(picked).status)) for _ in range(8)]
    with collector._turn:
        for thread in threads:
            thread.start()
        while app._picks._value:
            time.sleep(0.001)
        answer = app(picked)
        assert (503, "1") == (answer.status, dict(answer.headers)["Retry-After"])
        assert 200 == app(plain).status
    for thread in threads:
        thread.join()
    assert [200] * 8 == statuses
    assert 200 == app(picked).status


def test_too_many_fields_are_refused(provider: mpmetrics.Provider) -> None:
    """A query of more than a thousand fields, of any name, gets 400."""
    app = MetricsApp(mpmetrics.Collector(provider))
    queries = ("", "a=1", "&".join(["a=1"] * 1000), "&".join(["a=1"] * 1001))
    assert [200, 200, 200, 400] == [app(Request("GET", "/metrics", query, {})).status for query in queries]
