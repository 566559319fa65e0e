"""A server whose collector or worker is stopped (SIGSTOP) in the middle of a scrape."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Serve = Callable[..., Any]


def test_a_collector_that_is_stopped_during_scrapes_is_replaced(serve: Serve) -> None:
    """A collector that stops during scrapes is replaced in time, and totals are the same."""
    server = serve("-w", "2").start()
    for _ in range(10):
        server.get("/page")
    stop = threading.Event()

    def keep_scraping() -> None:
        while not stop.is_set():
            with contextlib.suppress(Exception):  # the collector is stopped
                server.scrape()

    threads = [threading.Thread(target=keep_scraping, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    first = server.collector()
    time.sleep(0.1)  # any moment serves
    os.kill(first, signal.SIGSTOP)
    server.get("/page")
    server.wait_for(lambda: server.collector() not in (None, first))
    server.wait_for(server.scrape)
    stop.set()
    assert 11 == server.value('hits_total{path="/page"}')
    server.get("/page")
    assert 12 == server.value('hits_total{path="/page"}')
    for thread in threads:
        thread.join(15)


def test_a_stopped_worker_blocks_no_scrape(serve: Serve) -> None:
    """Each scrape is answered with all counts, while a worker is stopped and after it continues."""
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


@pytest.fixture
def stopped_server(serve: Serve) -> Iterator[Callable[[], tuple[Any, int]]]:
    """A server that has not started yet, and a process that is stopped while it holds the store's begin lock."""
    pids = []

    def make(*arguments: str) -> tuple[Any, int]:
        server = serve(*arguments)
        pid = os.fork()
        if not pid:
            Store._begin = lambda _, **_given: os.kill(os.getpid(), signal.SIGSTOP)  # type: ignore[assignment,method-assign]
            try:
                Store(server.home / "store").begin()
            finally:
                os._exit(0)
        pids.append(pid)
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        return server, pid

    yield make
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["", "preload"])
def test_a_server_beside_a_stopped_start_serves_and_has_a_store_after_a_reload(
    stopped_server: Callable[..., tuple[Any, int]], preload: list[str]
) -> None:
    """The server starts in time and logs the reason once; scrapes have store_up 0. Each reload tries again."""

    def said() -> list[str]:
        return [line for line in server.log.read_text().splitlines() if "private" in line or "Traceback" in line]

    server, pid = stopped_server("-w", "2", *preload)
    server.start()
    for _ in range(10):
        server.get("/page")
    (line,) = said()
    for words in ("[ERROR]", str(server.home / "store"), "is one stopped?", "the server runs", "stay private"):
        assert words in line
    text = server.scrape()
    assert 0 == server.value("mpmetrics_store_up", text)
    assert "hits_total{" not in text  # each worker's counts are private

    old = set(server.workers())
    server.signal(signal.SIGHUP)  # the process is still stopped
    server.wait_for(lambda: len(server.workers()) == 2 and not old & set(server.workers()))
    server.get("/page")
    assert 2 == len(said())
    assert 0 == server.value("mpmetrics_store_up", server.wait_for(server.scrape))

    os.kill(pid, signal.SIGCONT)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # not reaped, so no other process gets its number
    old = set(server.workers())
    server.signal(signal.SIGHUP)
    server.wait_for(lambda: len(server.workers()) == 2 and not old & set(server.workers()))
    for _ in range(10):
        server.get("/after")
    server.wait_for(lambda: server.value("mpmetrics_store_up"))
    assert 10 == server.value('hits_total{path="/after"}')
    os.kill(server.workers()[0], signal.SIGKILL)
    server.get("/after")
    assert 11 == server.value('hits_total{path="/after"}')
    assert 2 == len(said())
    assert 0 == server.stop()
