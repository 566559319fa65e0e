"""Measures one Python library: what requests pay for, scrapes, or memory. Prints one JSON object for ``run.py``."""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import time
import timeit
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 9
TIMES = 50_000


def nanoseconds(statement: str, **names: object) -> float:
    """Median nanoseconds of a statement, over several rounds, without the loop around it."""
    rounds = timeit.repeat(statement, globals=names, number=TIMES, repeat=ROUNDS)
    empty = timeit.repeat("pass", number=TIMES, repeat=ROUNDS)
    return (statistics.median(rounds) - statistics.median(empty)) / TIMES * 1e9


def library(name: str, directory: str) -> Any:
    """The module under test, counting in ``directory`` if it is told where to."""
    if name == "prometheus_client":
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory  # read at import
        import prometheus_client  # noqa: PLC0415 (only one of them is imported in a process)

        return prometheus_client
    import mpmetrics  # noqa: PLC0415

    if name == "mpmetrics":
        from mpmetrics._cells import TWIN, WHY  # noqa: PLC0415

        asked = "pure" if os.environ.get("MPMETRICS_DISABLE_EXT") == "1" else "compiled"
        if asked != TWIN:
            raise SystemExit(f"the {asked} core was to be measured, and this is the {TWIN} one: {WHY}")
        mpmetrics.set_provider(mpmetrics.Provider(directory))
    elif hasattr(mpmetrics, "Provider"):
        raise SystemExit(f"{mpmetrics.__file__} is not Forty-Bot's mpmetrics")
    return mpmetrics


def hot_path(name: str, directory: str, options: argparse.Namespace) -> dict[str, float]:
    """What one operation costs, and the first use of a series."""
    module = library(name, directory)
    counter = module.Counter("plain", "A counter.")
    labelled = module.Counter("labelled", "A counter with labels.", ["method", "code"])
    gauge = module.Gauge("level", "A gauge.")
    histogram = module.Histogram("took_seconds", "A histogram of 15 buckets.")
    figures = {
        "inc() [ns]": nanoseconds("counter.inc()", counter=counter),
        "labels(a, b).inc() [ns]": nanoseconds('labelled.labels("GET", "200").inc()', labelled=labelled),
        "observe(), 15 buckets [ns]": nanoseconds("histogram.observe(0.3)", histogram=histogram),
        "set() [ns]": nanoseconds("gauge.set(1.5)", gauge=gauge),
    }
    many = module.Counter("many", "A counter of many series.", ["method", "code"])
    start = time.perf_counter()
    for number in range(options.first_uses):
        many.labels("GET", str(number)).inc()
    figures["first use of a series [us]"] = (time.perf_counter() - start) / options.first_uses * 1e6
    return figures


class Others:
    """Processes that count and die, remove series, and scrape, which folds the dead, for as long as the body runs."""

    def __init__(self, counter: Any, collect: Callable[[], bytes], series: int) -> None:
        self._context = multiprocessing.get_context("fork")
        self._counter = counter
        self._collect = collect
        self._series = series
        self._processes = [self._context.Process(target=work) for work in (self._come_and_go, self._scrape)]

    def _count(self, series: int) -> None:
        for at in range(series):
            self._counter.labels(str(at)).inc()

    def _run(self, series: int) -> None:
        worker = self._context.Process(target=self._count, args=(series,))
        worker.start()
        worker.join()

    def _come_and_go(self) -> None:
        while True:
            self._run(64)
            for at in range(64):
                self._counter.labels(f"gone-{at}").inc()
            for at in range(64):
                self._counter.remove(f"gone-{at}")

    def _scrape(self) -> None:
        while True:
            self._collect()
            time.sleep(0.2)

    def __enter__(self) -> None:
        self._run(self._series)
        for process in self._processes:
            process.start()

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def slowest(name: str, directory: str, options: argparse.Namespace) -> dict[str, float]:
    """CPU time of the slowest first use, the first write included, while others fork, die, fold, remove and scrape."""
    module = library(name, directory)
    theirs = module.Counter("theirs", "What others count.", ["at"], max_series=2 * options.series)
    ours = module.Counter("ours", "What is measured.", ["at"], max_series=2 * options.first_uses)
    seconds = []
    with Others(theirs, _scraper(name, module, directory), options.series):
        for at in range(options.first_uses):
            before = time.thread_time()
            ours.labels(str(at)).inc()
            seconds.append(time.thread_time() - before)
            if at % 100 == 0:
                time.sleep(0.005)  # the others get on
    return {"slowest first use [us of CPU]": max(seconds) * 1e6}


class Workers:
    """Processes that make series, tell, and change a part of them whenever they are asked to."""

    def __init__(self, counter: Any, options: argparse.Namespace) -> None:
        self._context = multiprocessing.get_context("fork")
        self._counter = counter
        self._options = options
        self._ready = self._context.Semaphore(0)
        self._asked = [self._context.Semaphore(0) for _ in range(options.workers)]
        self._end = self._context.Event()
        self._processes = [
            self._context.Process(target=self._work, args=(number,), daemon=True) for number in range(options.workers)
        ]

    def _work(self, number: int) -> None:
        series, chance = self._options.series, random.Random(number)  # noqa: S311 (not a secret)
        for at in range(series):
            self._counter.labels(f"/path/{at}").inc(at)
        while True:
            self._ready.release()
            self._asked[number].acquire()
            if self._end.is_set():
                return
            for at in chance.sample(range(series), series * self._options.touch // 100):
                self._counter.labels(f"/path/{at}").inc()

    def _die(self) -> None:
        for at in range(100):
            self._counter.labels(f"/path/{at}").inc()

    def start(self) -> None:
        """Those that are to be dead have come and gone, one after the other, and the others are ready."""
        for _ in range(self._options.dead):
            worker = self._context.Process(target=self._die)
            worker.start()
            worker.join()
        for process in self._processes:
            process.start()
        self._wait()

    def _wait(self) -> None:
        for _ in self._processes:
            while not self._ready.acquire(timeout=1.0):
                if not all(process.is_alive() for process in self._processes):
                    raise SystemExit("a worker failed")

    def touch(self) -> None:
        """Have each change its part."""
        for asked in self._asked:
            asked.release()
        self._wait()

    def total(self) -> float:
        """What all of them have counted."""
        series, rounds = self._options.series, ROUNDS if self._options.touch else 0
        each = sum(range(series)) + rounds * (series * self._options.touch // 100)
        return float(self._options.workers * each + self._options.dead * 100)

    def stop(self) -> None:
        """End them."""
        self._end.set()
        for asked in self._asked:
            asked.release()
        for process in self._processes:
            process.join()


def scrape(name: str, directory: str, options: argparse.Namespace) -> dict[str, float]:
    """A scrape over live workers with many series each, which share them, after others died."""
    module = library(name, directory)
    extra = {"max_series": 2_000_000} if name == "mpmetrics" else {}
    counter = module.Counter("requests", "Requests served.", ["path"], **extra)
    workers = Workers(counter, options)
    workers.start()
    collect = _scraper(name, module, directory, options.form)
    milliseconds, cpu = [], []
    for at in range(ROUNDS):
        if at == 1:
            _fold_all(collect, directory)
        if options.touch:
            workers.touch()
        start, used = time.perf_counter(), time.process_time()
        body = collect()
        milliseconds.append((time.perf_counter() - start) * 1e3)
        cpu.append((time.process_time() - used) * 1e3)
    workers.stop()
    if options.form == "gzip":
        body = gzip.decompress(body)
    counted = sum(float(line.split()[1]) for line in body.splitlines() if line.startswith(b"requests_total{"))
    if counted != workers.total():
        raise SystemExit(f"{name} shows {counted}, but {workers.total()} were counted")
    return {
        "scrape [ms]": statistics.median(milliseconds[1:]),
        "first scrape [ms]": milliseconds[0],
        "first scrape [ms of CPU]": cpu[0],
        **_store(directory),
    }


def _fold_all(collect: Callable[[], bytes], directory: str) -> None:
    """Scrape until no scrape folds any more: each one folds a batch of the dead."""
    before = 0.0
    while before != (before := _store(directory)["files"]):
        collect()


def _store(directory: str) -> dict[str, float]:
    files = [path for path in Path(directory).rglob("*") if path.is_file()]
    return {"files": float(len(files)), "store [KiB]": sum(path.stat().st_blocks / 2 for path in files)}


def fold(name: str, directory: str, options: argparse.Namespace) -> dict[str, float]:
    """CPU time of folding a dead worker's 1,000 series, beside those of the living."""
    module = library(name, directory)
    from mpmetrics.storage.fold import fold as fold_dead  # noqa: PLC0415 (where the others are measured it is not there)

    counter = module.Counter("requests", "Requests served.", ["path"], max_series=2 * options.series)
    context = multiprocessing.get_context("fork")

    def count(series: int) -> None:
        for at in range(series):
            counter.labels(f"/path/{at}").inc()

    milliseconds = []
    count(options.series)
    for _ in range(ROUNDS):
        worker = context.Process(target=count, args=(1000,))
        worker.start()
        worker.join()
        start = time.process_time()
        folded = fold_dead(module.get_provider().memory.epoch.path)
        milliseconds.append((time.process_time() - start) * 1e3)
        if folded != 1:
            raise SystemExit(f"{folded} workers were folded, and one had died")
    return {"fold [ms of CPU]": statistics.median(milliseconds)}


def memory(name: str, directory: str, options: argparse.Namespace) -> dict[str, float]:
    """What series cost the process that counts in them, the store, and the process that is scraped."""
    module = library(name, directory)
    extra = {"max_series": 2_000_000} if name == "mpmetrics" else {}
    counter = module.Counter("requests", "Requests served.", ["path"], **extra)
    counter.labels("/").inc()
    before = _private()
    start = time.perf_counter()
    for number in range(options.series):
        counter.labels(f"/path/{number}").inc()
    seconds = time.perf_counter() - start
    figures = {"worker [KiB]": _private() - before, "first use [us]": seconds / options.series * 1e6}
    # A process that was started anew: the heap of this one is not its.
    command = [sys.executable, __file__, "collector", name, directory]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return {**figures, **json.loads(done.stdout), **_store(directory)}


def collector(name: str, directory: str, _: argparse.Namespace) -> dict[str, float]:
    """What a process grows by that scrapes what others counted."""
    module = library(name, directory)
    collect = _scraper(name, module, directory)
    before = _private()
    for _round in range(3):
        collect()
    return {"collector [KiB]": _private() - before}


def _private() -> float:
    """KiB of memory that are this process's alone, maps of files aside."""
    rollup = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return float(rollup.partition("Anonymous:")[2].split()[0])


def _scraper(name: str, module: Any, directory: str, form: str = "text") -> Callable[[], bytes]:
    """What makes the body of a scrape: text, OpenMetrics, or what Prometheus asks for, which is that compressed."""
    if name == "mpmetrics":
        collector = module.Collector(directory)
        accept, coding = (None if form == "text" else PROMETHEUS), ("gzip" if form == "gzip" else None)
        return lambda: collector.scrape(accept, coding)[1]  # type: ignore[no-any-return]
    from prometheus_client import REGISTRY, CollectorRegistry, exposition, multiprocess  # noqa: PLC0415

    registry = REGISTRY
    if name == "prometheus_client":
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, path=directory)
    if form == "text":
        return lambda: exposition.generate_latest(registry)
    write, _ = exposition.choose_encoder(PROMETHEUS)
    return lambda: gzip.compress(write(registry)) if form == "gzip" else write(registry)


PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""What Prometheus 3 accepts unless it was told otherwise."""

ROWS = {
    "hot_path": hot_path,
    "slowest": slowest,
    "scrape": scrape,
    "fold": fold,
    "memory": memory,
    "collector": collector,
}


def main() -> None:
    """Measure one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("library", choices=("mpmetrics", "prometheus_client", "forty_bot"))
    parser.add_argument("directory", help="an empty directory that it may count in")
    parser.add_argument("--workers", type=int, default=8, help="live workers (default: %(default)s)")
    parser.add_argument("--series", type=int, default=10_000, help="series of each (default: %(default)s)")
    parser.add_argument("--dead", type=int, default=0, help="workers of 100 series that died (default: %(default)s)")
    parser.add_argument("--touch", type=int, default=0, help="percent of them that change between two scrapes")
    parser.add_argument("--form", choices=("text", "openmetrics", "gzip"), default="text", help="of a scrape")
    parser.add_argument("--first-uses", type=int, default=10_000, help="series made one by one (default: %(default)s)")
    options = parser.parse_args()
    print(json.dumps(ROWS[options.row](options.library, options.directory, options)))


if __name__ == "__main__":
    main()
