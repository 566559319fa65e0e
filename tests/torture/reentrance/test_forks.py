"""Forks in signal handlers and beside busy threads, and every way to start a process."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics.collector import shared_call
from mpmetrics.collector.collection import Collection
from mpmetrics.collector.shared_call import SharedCall

if TYPE_CHECKING:
    from collections.abc import Callable

HANGS = 60.0
"""Seconds after which a thread hangs; never a measure of speed."""


class Forks:
    """Children of a signal handler: a few at a time, which do ``work`` in it."""

    def __init__(self, work: Callable[[int], object]) -> None:
        self._work = work
        self._running: set[int] = set()
        self.is_child = False
        self.count = 0
        self.worst = 0

    def __call__(self) -> None:
        """Fork."""
        if self.is_child or (self.reap() or len(self._running)) > 3:
            return
        self.count += 1
        pid = os.fork()
        if pid:
            self._running.add(pid)
        else:
            self.is_child = True
            self._work(self.count)

    def reap(self, options: int = os.WNOHANG) -> None:
        """Take notice of those that ended, or wait for them."""
        for pid in list(self._running):
            ended, status = os.waitpid(pid, options)
            if ended:
                self._running.discard(pid)
                self.worst = max(self.worst, status)


def test_a_fork_within_a_signal_handler_keeps_both_exact(
    kit: Any, storm: Any, rounds: Callable[..., Any], in_child: Callable[..., Any], store_directory: str
) -> None:
    """A signal handler forks amid any operation; the child uses all instruments and scrapes, and totals are exact."""

    def act() -> tuple[int, int, int, dict[str, float], dict[str, float]]:
        used = kit(mpmetrics.Provider(store_directory))
        collector = mpmetrics.Collector(store_directory)

        def work(number: int) -> None:
            used.use(f"child-{number % 10}")
            collector.render()
            os._exit(0)  # without any clean-up: what was counted is there

        forks = Forks(work)
        own = 0
        with storm("signal", forks, pause=0.002):
            for own in rounds(lambda done: forks.count > 5 and done > 101, 2.0):
                used.churn(f"own-{own}")
                used.by_code.labels(f"own-{own % 5000}").inc(0)
                if own % 3 == 0:
                    used.use("own")
        forks.reap(0)
        used.provider.force_flush()
        uses = forks.count + own // 3 + 1
        return forks.count, own, forks.worst, used.expected(uses), used.counted(store_directory)

    children, own, worst, expected, counted = in_child(act)

    assert children > 5
    assert own > 100
    assert worst == 0
    assert expected == counted


def test_a_child_forked_amid_a_collection_collects_at_once(
    shared: mpmetrics.Provider, child: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that is forked while one thread collects and another one waits for it neither waits nor shows less."""
    hits = mpmetrics.Counter("hits", "Hits.", provider=shared)
    hits.inc(3)
    collector = mpmetrics.Collector(shared)
    inside, go_on = threading.Event(), threading.Event()
    read = Collection._read

    def pause(self: Collection, path: str | None) -> Any:
        if threading.current_thread() is thread:
            inside.set()
            assert go_on.wait(HANGS)
        return read(self, path)

    monkeypatch.setattr(Collection, "_read", pause)
    thread = threading.Thread(target=collector.readings)
    waiting = threading.Thread(target=collector.readings)
    thread.start()
    assert inside.wait(HANGS)
    waits = threading.Event()
    waiters = set()

    def sleep(seconds: float) -> None:
        waiters.add(os.getpid())
        waits.set()
        time.sleep(seconds)

    monkeypatch.setattr(shared_call, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    waiting.start()
    assert waits.wait(HANGS)

    def scrape() -> None:
        hits.inc()
        assert b"hits_total 4.0" in collector.render()[1]
        assert os.getpid() not in waiters

    def fork() -> None:
        child(scrape).end()

    forking = threading.Thread(target=fork)
    forking.start()
    forking.join(HANGS)
    assert not forking.is_alive()
    go_on.set()
    for each in (thread, waiting):
        each.join(HANGS)


def test_without_a_reset_that_child_would_wait_for_its_parents_thread(child: Callable[..., Any]) -> None:
    """The control: a child that does not notice the fork waits for the collection that its parent runs."""
    go_on = threading.Event()
    inside = threading.Event()

    def work() -> int:
        inside.set()
        go_on.wait(HANGS)
        return 1

    call = SharedCall(work, lambda: 0, patience=0.3)
    thread = threading.Thread(target=call)
    thread.start()
    assert inside.wait(HANGS)

    def ask() -> None:
        assert call() == 0  # after all its patience
        call.reset()
        go_on.set()
        assert call() == 1

    child(ask).end()
    go_on.set()
    thread.join()


PROGRAM = textwrap.dedent(
    """
    import multiprocessing, os, sys, threading
    sys.path.insert(0, {here!r})
    import reentrance_work as work

    if __name__ == "__main__":
        multiprocessing.set_start_method({method!r})
        stop = threading.Event()
        threads = [threading.Thread(target=work.keep_counting, args=(stop,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        processes = [multiprocessing.Process(target=work.count, args=(i,)) for i in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        from concurrent.futures import ProcessPoolExecutor
        with ProcessPoolExecutor(2) as pool:
            assert sum(pool.map(work.count, range(8))) == 8
        with multiprocessing.Pool(2, maxtasksperchild=1) as pool:
            assert sum(pool.map(work.count, range(4), chunksize=1)) == 4
            pool.close()
            pool.join()
        stop.set()
        for thread in threads:
            thread.join()
        assert [0] * 4 == [process.exitcode for process in processes]
        print(16, work.counted())
    """
)

WORK = textwrap.dedent(
    """
    import itertools, time, mpmetrics
    from mpmetrics.registry import default_registry
    HITS = mpmetrics.Counter("hits", "Hits.", ["who"])
    TOOK = mpmetrics.Histogram("took", "Took.", ["who"], buckets=(1, 2))
    OPEN = mpmetrics.UpDownCounter("open", "Open.")
    BUILD = mpmetrics.Info("build", "Build.")
    PAID = mpmetrics.get_meter("kit").counter("paid")
    TIMER = default_registry.get_or_register_timer("timer")
    _mine = itertools.count()

    def count(number):
        for which in range(50):
            HITS.labels(f"child-{number}-{which}").inc()
            TOOK.labels(f"child-{number % 3}").observe(1.5)
            OPEN.inc()
            PAID.inc({"who": number})
            TIMER.update(1)
        BUILD.info({"version": str(number)})
        return 1

    def keep_counting(stop):
        while not stop.is_set():
            HITS.labels(f"thread-{next(_mine) % 200}").inc()
            time.sleep(0.0005)

    def counted():
        return next(_mine)
    """
)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_every_way_to_start_a_process_is_exact(method: str, store_directory: str, tmp_path: Any) -> None:
    """Totals of processes, executors and pools of each start method are exact beside threads that count."""
    (tmp_path / "reentrance_work.py").write_text(WORK)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(here=str(tmp_path), method=method))
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(program)],
        env=os.environ | {"MPMETRICS_DIR": store_directory},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert (0, "") == (ended.returncode, ended.stderr)
    runs, threads = map(int, ended.stdout.split())

    totals: dict[str, float] = {}
    for family in mpmetrics.Collector(store_directory).collect():
        for sample in family.samples:
            name = sample.name
            if name == "hits_total":
                name += " " + sample.labels["who"].partition("-")[0]
            totals[name] = totals.get(name, 0.0) + sample.value
    assert (50 * runs, threads) == (totals["hits_total child"], totals["hits_total thread"])
    assert [50 * runs] * 3 == [totals[name] for name in ("took_count", "open", "paid_total")]
    assert 1.5 * 50 * runs == totals["took_sum"]
    assert 1 == totals["build_info"]


def test_a_worker_of_a_pool_that_is_killed_loses_nothing(store_directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An executor whose worker is killed breaks; what its workers had counted stays."""
    monkeypatch.setenv("MPMETRICS_DIR", store_directory)
    shared = mpmetrics.Provider(store_directory)
    hits = mpmetrics.Counter("hits", "Hits.", provider=shared)
    _State.hits = hits
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        assert 20 == sum(pool.map(_count, range(20)))
        with pytest.raises(concurrent.futures.process.BrokenProcessPool):
            pool.submit(_count_and_die).result(30)
    families = list(mpmetrics.Collector(shared).collect())
    values = {sample.name: sample.value for family in families for sample in family.samples}
    assert 21 == values["hits_total"]
    shared.shutdown()


class _State:
    hits: Any


def _count(_number: int) -> int:
    _State.hits.inc()
    return 1


def _count_and_die() -> None:
    _State.hits.inc()
    os.kill(os.getpid(), signal.SIGKILL)
