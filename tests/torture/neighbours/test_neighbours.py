"""Short-lived processes on a machine that other processes keep busy."""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import multiprocessing
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = float(os.environ.get("MPMETRICS_TORTURE_SECONDS") or 0)
ROUNDS = 1 + int(SECONDS // 15)
SPINNING, WORKERS, TASKS = (
    (24, 150, 40) if SECONDS else (6, 30, 16)
)  # the short form slows down all tests that run beside it
SERIES, AT_ONCE = 100, 8


def _fork(function: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    return pid


def _spin() -> None:
    os.setsid()  # a scheduling group of its own, as another container is
    while True:
        pass


@pytest.fixture
def neighbours() -> Iterator[None]:
    """Processes that spin."""
    pids = [_fork(_spin) for _ in range(SPINNING)]
    yield
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _values(directory: str) -> collections.Counter[float]:
    """How often each total of the metric occurs."""
    body = mpmetrics.Collector(directory).render()[1].decode()
    return collections.Counter(float(line.split()[-1]) for line in body.splitlines() if line.startswith("hits_total{"))


def _live_and_die(store: str) -> None:
    """Many short-lived workers count 100 series each, beside a scraper; every other worker is killed."""
    provider = mpmetrics.Provider(store)
    hits = mpmetrics.Counter("hits", "x", ["series"], provider=provider)

    def work(number: int) -> None:
        for series in range(SERIES):
            hits.labels(str(series)).inc()
        if number % 2:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch() -> None:
        while True:
            mpmetrics.Collector(store).render()

    watcher = _fork(watch)
    running: list[int] = []
    try:
        for number in range(WORKERS):
            running.append(_fork(functools.partial(work, number)))
            if len(running) == AT_ONCE:
                os.waitpid(running.pop(0), 0)
        for pid in running:
            os.waitpid(pid, 0)
    finally:
        os.kill(watcher, signal.SIGKILL)
        os.waitpid(watcher, 0)
    assert {float(WORKERS): SERIES} == _values(store)
    provider.shutdown()


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("neighbours")
def test_all_that_short_lived_workers_count_is_there(store_directory: str, tally: Any) -> None:
    """The totals hold all increments that short-lived workers completed, those that were killed included."""
    for number in range(ROUNDS):
        _live_and_die(f"{store_directory}/{number}")
        tally(tried=WORKERS * SERIES)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("neighbours")
def test_eight_processes_that_make_series_at_the_same_moment(store_directory: str, tally: Any) -> None:
    """Eight processes make the same 5,000 series at once, and each of their increments counts."""
    provider = mpmetrics.Provider(store_directory)
    hits = mpmetrics.Counter("hits", "x", ["series"], provider=provider)
    start, go = os.pipe()

    def work() -> None:
        os.read(start, 1)
        for series in range(5000):
            hits.labels(str(series)).inc()

    pids = [_fork(work) for _ in range(8)]
    os.write(go, b"x" * 8)
    for pid in pids:
        os.waitpid(pid, 0)

    tally(tried=8 * 5000)
    assert {8.0: 5000} == _values(store_directory)
    os.close(start)
    os.close(go)
    provider.shutdown()


class _Shared:
    """What the functions of executors count in; they are found by name in the children."""

    hits: mpmetrics.Counter


def _count(task: int) -> int:
    for series in range(SERIES):
        _Shared.hits.labels(str(series)).inc()
    _Shared.hits.labels(f"task {task}").inc()
    return SERIES + 1


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("neighbours")
def test_executors_and_pools_are_exact(store_directory: str, tally: Any) -> None:
    """The counts of an executor's tasks are shown once it has their results, and after its processes end."""
    provider = mpmetrics.Provider(store_directory)
    _Shared.hits = mpmetrics.Counter("hits", "x", ["series"], provider=provider)
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(4, mp_context=context) as executor:
        done = sum(executor.map(_count, range(TASKS)))
        assert done == _total(store_directory)
    with context.Pool(4, maxtasksperchild=2) as pool:
        done += sum(pool.imap_unordered(_count, range(TASKS)))
        assert done == _total(store_directory)
        pool.close()
        pool.join()

    assert {2.0 * TASKS: SERIES, 2.0: TASKS} == _values(store_directory)
    tally(tried=done)
    provider.shutdown()


def _total(directory: str) -> float:
    return sum(value * times for value, times in _values(directory).items())
