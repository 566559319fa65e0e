"""Measures one Python library: what requests pay for, or a scrape. Prints one JSON object. ``run.py`` calls this."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
import timeit
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 9
TIMES = 50_000
FIRST_USES = 10_000


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

    mpmetrics.set_provider(mpmetrics.Provider(directory))
    return mpmetrics


def hot_path(name: str, directory: str, _: argparse.Namespace) -> dict[str, float]:
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
    for number in range(FIRST_USES):
        many.labels("GET", str(number)).inc()
    figures["first use of a series [us]"] = (time.perf_counter() - start) / FIRST_USES * 1e6
    return figures


def _work(counter: Any, series: int, ready: Any, end: Any) -> None:
    for number in range(series):
        counter.labels(f"/path/{number}").inc(number)
    ready.release()
    if end is not None:
        end.wait()


def scrape(name: str, directory: str, options: argparse.Namespace) -> dict[str, float]:
    """A scrape over live workers with many series each, which share them, after others died."""
    module = library(name, directory)
    extra = {"max_series": 2_000_000} if name == "mpmetrics" else {}
    counter = module.Counter("requests", "Requests served.", ["path"], **extra)
    context = multiprocessing.get_context("fork")
    ready, end = context.Semaphore(0), context.Event()
    for _ in range(options.dead):
        worker = context.Process(target=_work, args=(counter, 100, ready, None))
        worker.start()
        worker.join()
    workers = [
        context.Process(target=_work, args=(counter, options.series, ready, end)) for _ in range(options.workers)
    ]
    for worker in workers:
        worker.start()
    for _ in range(len(workers) + options.dead):
        ready.acquire()
    collect = _scraper(name, module, directory)
    milliseconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        body = collect()
        milliseconds.append((time.perf_counter() - start) * 1e3)
    end.set()
    for worker in workers:
        worker.join()
    lines = body.count(b'requests_total{path="')
    if lines != max(options.series if options.workers else 0, 100 if options.dead else 0):
        raise SystemExit(f"{name} shows {lines} series: not what was counted")
    files = [path for path in Path(directory).rglob("*") if path.is_file()]
    return {
        "scrape [ms]": statistics.median(milliseconds[1:]),
        "first scrape [ms]": milliseconds[0],
        "files": float(len(files)),
        "store [KiB]": sum(path.stat().st_blocks / 2 for path in files),
    }


def _scraper(name: str, module: Any, directory: str) -> Callable[[], bytes]:
    if name == "mpmetrics":
        collector = module.Collector(directory)
        return lambda: collector.render()[1]  # type: ignore[no-any-return]
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess  # noqa: PLC0415

    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=directory)
    return lambda: generate_latest(registry)


ROWS = {"hot_path": hot_path, "scrape": scrape}


def main() -> None:
    """Measure one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("library", choices=("mpmetrics", "prometheus_client"))
    parser.add_argument("directory", help="an empty directory that it may count in")
    parser.add_argument("--workers", type=int, default=8, help="live workers (default: %(default)s)")
    parser.add_argument("--series", type=int, default=10_000, help="series of each (default: %(default)s)")
    parser.add_argument("--dead", type=int, default=0, help="workers of 100 series that died (default: %(default)s)")
    options = parser.parse_args()
    print(json.dumps(ROWS[options.row](options.library, options.directory, options)))


if __name__ == "__main__":
    main()
