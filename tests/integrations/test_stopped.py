"""A server whose collector or worker is stopped, with SIGSTOP, in the middle of a scrape."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Serve = Callable[..., Any]


def test_a_collector_stopped_amid_scrapes_is_replaced_and_answers_again(serve: Serve) -> None:
    """Scrapes are under way when it stops: it is replaced in time, and totals are what they were."""
    server = serve("-w", "2").start()
    for _ in range(10):
        server.get("/page")
    stop = threading.Event()

    def keep_scraping() -> None:
        while not stop.is_set():
            with contextlib.suppress(Exception):  # while it is stopped
                server.scrape()

    threads = [threading.Thread(target=keep_scraping, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    first = server.collector()
    time.sleep(0.1)  # any moment will do
    os.kill(first, signal.SIGSTOP)
    server.get("/page")
    server.wait_for(lambda: server.collector() not in (None, first), 20.0)
    server.wait_for(server.scrape)
    stop.set()
    assert 11 == server.value('hits_total{path="/page"}')
    server.get("/page")
    assert 12 == server.value('hits_total{path="/page"}')
    for thread in threads:
        thread.join(15)


def test_a_stopped_worker_holds_no_scrape_up(serve: Serve) -> None:
    """With a worker stopped each scrape answers, with all that it has counted; with it going on, too."""
    server = serve("-w", "2").start()
    for _ in range(10):
        server.get("/page")
    stopped = server.workers()[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        for _ in range(5):
            assert 10 == server.value('hits_total{path="/page"}')
    finally:
        os.kill(stopped, signal.SIGCONT)
    server.wait_for(lambda: server.get("/page"))
    assert 11 == server.value('hits_total{path="/page"}')
