"""Scrapes at the same time, of which each format is made once, and callbacks that scrape meanwhile."""

from __future__ import annotations

import threading
import time
from typing import Any

import mpmetrics
from mpmetrics.endpoint.app import MetricsApp
from mpmetrics.formats.negotiate import choose
from mpmetrics.http.messages import Request

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def test_a_callback_that_scrapes_does_not_wait_for_who_waits_for_it(provider: mpmetrics.Provider) -> None:
    """Somebody asks for another format while it runs, and then it does: it gets what there is, at once."""
    collector = mpmetrics.Collector(provider)
    others: list[threading.Thread] = []
    nested: list[bytes] = []

    def scrape() -> bytes:
        return collector.scrape(OPENMETRICS, None)[1]

    def look(observer: Any) -> None:
        if not others:
            others.append(threading.Thread(target=scrape))
            others[0].start()
            while (choose(OPENMETRICS), False) not in collector._shares:
                time.sleep(0.001)
            time.sleep(0.05)  # so that it has begun
            nested.append(scrape())
        observer.observe(1)

    mpmetrics.Counter("hits", "Hits.", provider=provider).inc()
    provider.meter("looking").observable_gauge("looked", callback=look)
    assert b"\nlooked{" in collector.scrape(None, None)[1]
    others[0].join()
    assert b"hits_total 1" in nested[0]


def test_who_waits_for_a_turn_hurries_nobody(provider: mpmetrics.Provider) -> None:
    """An impatient scraper of picked names has its values already: callbacks keep to the time of others."""
    collector = mpmetrics.Collector(provider)
    ends: list[float] = []
    with collector._turn:
        waiting = threading.Thread(target=lambda: collector.scrape(None, None, ["hits"], 60.0))
        waiting.start()
        while collector._shared._finished is None:
            time.sleep(0.001)
        time.sleep(0.05)  # so that it waits
        ends += collector._ends
    waiting.join()
    assert [] == ends


def test_what_a_query_says_besides_names_makes_no_kind_of_its_own(provider: mpmetrics.Provider) -> None:
    """Nor does it have another one's too many fields refused to anybody else."""
    app = MetricsApp(mpmetrics.Collector(provider))
    queries = ("", "a=1", "&".join(["a=1"] * 1000), "&".join(["a=1"] * 1001))
    plain, other, most, more = (Request("GET", "/metrics", query, {}) for query in queries)
    assert app.kind(plain) == app.kind(other) == app.kind(most) != app.kind(more)
    assert [200, 200, 200, 400] == [app([request]).status for request in (plain, other, most, more)]
