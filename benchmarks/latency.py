"""Measures what requests of a busy application under gunicorn wait: bare, instrumented, and while it is scraped.

    python benchmarks/latency.py [--series 100000] [--rounds 5] [--seconds 5]

An application with two workers answers as fast as it can to wrk (Debian's package), on four connections: a closed
loop, so what a stall keeps from being asked is not in the percentiles; rates are there to tell. Rounds of the variants
take turns, in an order of their own each time, so that what the machine does besides falls on all of them; each figure
is the median of the rounds. "again" is "many series" once more: how far the two are apart says what can be told at all.
The scraper asks once a second for everything, with the headers of Prometheus. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from subject import PROMETHEUS

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
WORKERS, CONNECTIONS = 2, 4
SCRAPED = "scraped at 1 Hz"
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(series: int | None) -> Iterator[tuple[str, str]]:
    """The application's and the metrics' address; with ``series``, it is instrumented and has so many more."""
    port, metrics = free_port(), free_port()
    environ = {
        **os.environ,
        "BENCH_INSTRUMENTED": "0" if series is None else "1",
        "BENCH_SERIES": str(series or 0),
        "MPMETRICS_BIND": f"127.0.0.1:{metrics}",
    }
    environ.pop("MPMETRICS_DIR", None)
    command = [sys.executable, "-m", "gunicorn", "--chdir", str(HERE), "--log-level", "warning"]
    command += ["-w", str(WORKERS), "-b", f"127.0.0.1:{port}", "--timeout", "300"]
    command += [] if series is None else ["-c", "python:gunicorn_conf"]
    process = subprocess.Popen([*command, "latency_app:application"], env=environ)
    try:
        url = f"http://127.0.0.1:{port}/"
        # Both workers have made their series when requests one after the other are answered at once.
        answered = 0
        while answered < 50 and process.poll() is None:
            start = time.monotonic()
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=300):
                answered = answered + 1 if time.monotonic() - start < 0.5 else 0
            time.sleep(0.02)
        yield url, f"http://127.0.0.1:{metrics}/metrics"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def scrape_every_second(url: str, done: threading.Event, took: list[float], shown: list[int]) -> None:
    """Scrape until ``done``, each second that begins; notes seconds and bytes of each."""
    request = urllib.request.Request(url, headers={"Accept": PROMETHEUS, "Accept-Encoding": "gzip"})  # noqa: S310 (our own)
    due = time.monotonic()
    while not done.wait(max(0.0, due - time.monotonic())):
        due += 1.0
        start = time.perf_counter()
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            shown.append(len(answer.read()))
        took.append(time.perf_counter() - start)


def load(url: str, seconds: float) -> tuple[float, float, float]:
    """Milliseconds of the median request and of the 99th percentile, and requests a second."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--latency", url]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {name: float(value) * UNITS[unit] for name, value, unit in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)", text)}
    failed = re.search(r"Non-2xx|Socket errors: (?!connect 0, read 0, write 0, timeout 0)", text)
    if failed:
        raise SystemExit(f"requests failed:\n{text}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    return found["50"], found["99"], float(rate[1]) if rate else 0.0


def main() -> None:
    """Measure all variants in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=100_000, help="series of each worker (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each variant (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one round (default: %(default)s)")
    options = parser.parse_args()
    figures: dict[str, list[tuple[float, float, float]]] = {}
    took: list[float] = []
    shown: list[int] = []
    chance = random.Random(1)  # noqa: S311 (not a secret)
    with server(None) as (bare, _), server(0) as (few, _), server(options.series) as (many, metrics):
        urllib.request.urlopen(metrics).close()  # noqa: S310 (the first scrape, which reads all labels)
        variants = {"bare": bare, "instrumented": few, "many series": many, "again": many, SCRAPED: many}
        for number in range(options.rounds):
            print(f"latency: round {number + 1} of {options.rounds} ...", file=sys.stderr)
            for name in chance.sample(list(variants), len(variants)):
                done = threading.Event()
                scraper = threading.Thread(target=scrape_every_second, args=(metrics, done, took, shown))
                if name == SCRAPED:
                    scraper.start()
                figures.setdefault(name, []).append(load(variants[name], options.seconds))
                done.set()
                if name == SCRAPED:
                    scraper.join()
    names = ("p50 [ms]", "p99 [ms]", "requests/s")
    result: dict[str, object] = {
        name: dict(zip(names, map(statistics.median, zip(*figures[name], strict=True)), strict=True))
        for name in variants
    }
    alone = statistics.median(p99 for _, p99, _ in figures["many series"] + figures["again"])
    scraped = statistics.median(p99 for _, p99, _ in figures[SCRAPED])
    result["p99 scraped / not"] = scraped / alone
    apart = [statistics.median(p99 for _, p99, _ in figures[name]) for name in ("many series", "again")]
    result["p99 of the same twice, apart by"] = max(apart) / min(apart)
    result["scrapes"] = {"number": len(took), "ms": statistics.median(took) * 1e3, "bytes": statistics.median(shown)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
