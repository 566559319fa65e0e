"""Measures the hot path and the scrape, here and in prometheus_client's multi-process mode, in one run.

    make bench            or: python benchmarks/run.py --help

Each figure is the median of several rounds. The two libraries run in processes of their own, one after the other within
each row, so that a busy moment of the machine hits both. Absolute figures depend on the machine, which is named; the
ratio is what to compare.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 7


def nanoseconds(operation: Callable[[], object], times: int = 20_000) -> float:
    """Median nanoseconds of one call, over several rounds of ``times`` calls."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        for _ in range(times):
            operation()
        rounds.append((time.perf_counter_ns() - start) / times)
    return statistics.median(rounds)


def library(name: str, directory: str) -> Any:
    """The module under test, counting in ``directory``."""
    if name == "mpmetrics":
        import mpmetrics  # noqa: PLC0415 (only one of the two is imported in a process)

        mpmetrics.set_provider(mpmetrics.Provider(directory))
        return mpmetrics
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory  # read at import
    import prometheus_client  # noqa: PLC0415

    return prometheus_client


def hot_path(name: str, directory: str, _: argparse.Namespace) -> dict[str, float]:
    """Nanoseconds of the operations that requests pay for; microseconds of a series' first use."""
    module = library(name, directory)
    plain = module.Counter("plain", "A counter.")
    labelled = module.Counter("labelled", "A counter with labels.", ["method", "code"])
    gauge = module.Gauge("level", "A gauge.")
    histogram = module.Histogram("took_seconds", "A histogram of 15 buckets.")
    figures = {
        "inc() [ns]": nanoseconds(plain.inc),
        "labels(a, b).inc() [ns]": nanoseconds(lambda: labelled.labels("GET", "200").inc()),
        "observe(), 15 buckets [ns]": nanoseconds(lambda: histogram.observe(0.3)),
        "set() [ns]": nanoseconds(lambda: gauge.set(1.0)),
    }
    start = time.perf_counter()
    for number in range(5_000):
        labelled.labels("GET", str(number))
    figures["first use of a series [us]"] = (time.perf_counter() - start) / 5_000 * 1e6
    return figures


def _work(module: Any, series: int, ready: Any, end: Any) -> None:
    counter = module.Counter("requests", "Requests served.", ["path"])
    for number in range(series):
        counter.labels(f"/path/{number}").inc(number)
    ready.release()
    end.wait()


def scrape(name: str, directory: str, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of a scrape over live workers with many series each."""
    module = library(name, directory)
    context = multiprocessing.get_context("fork")
    ready, end = context.Semaphore(0), context.Event()
    workers = [context.Process(target=_work, args=(module, options.series, ready, end)) for _ in range(options.workers)]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    collect = _scraper(name, module, directory)
    milliseconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        collect()
        milliseconds.append((time.perf_counter() - start) * 1e3)
    end.set()
    for worker in workers:
        worker.join()
    return {f"scrape, {options.workers} workers x {options.series} series [ms]": statistics.median(milliseconds)}


def _scraper(name: str, module: Any, directory: str) -> Callable[[], object]:
    if name == "mpmetrics":
        return module.Collector().render  # type: ignore[no-any-return]
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess  # noqa: PLC0415

    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=directory)
    return lambda: generate_latest(registry)


ROWS = {"hot_path": hot_path, "scrape": scrape}


def measure(row: str, name: str, options: argparse.Namespace) -> dict[str, float]:
    """Run ``row`` for one library, in a fresh process and an empty directory."""
    directory = tempfile.mkdtemp(prefix="mpmetrics-bench-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    try:
        command = [sys.executable, __file__, "--row", row, "--library", name, "--directory", directory]
        command += ["--workers", str(options.workers), "--series", str(options.series)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        figures: dict[str, float] = json.loads(done.stdout)
        return figures
    finally:
        shutil.rmtree(directory)


def machine() -> str:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8, help="live workers that are scraped (default: %(default)s)")
    parser.add_argument("--series", type=int, default=10_000, help="series of each of them (default: %(default)s)")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--library", help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(ROWS[options.row](options.library, options.directory, options)))
        return
    print(f"{machine()}\nmedians of {ROUNDS} rounds\n")
    print(f"{'':44}{'prometheus_client':>18}{'mpmetrics':>12}{'ratio':>8}")
    for row in ROWS:
        print(f"measuring {row} ...", file=sys.stderr)
        theirs, ours = measure(row, "prometheus_client", options), measure(row, "mpmetrics", options)
        for figure, value in theirs.items():
            print(f"{figure:44}{value:18.1f}{ours[figure]:12.1f}{value / ours[figure]:7.1f}x")


if __name__ == "__main__":
    main()
