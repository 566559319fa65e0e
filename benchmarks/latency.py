"""Measures what requests of a busy application under gunicorn wait: bare, instrumented, and while it is scraped.

    python benchmarks/latency.py [--series 100000] [--rounds 5] [--seconds 5]

An application with two workers answers as fast as it can to wrk (Debian's package), on a connection for each worker:
both are busy, and few requests wait for others. That is a closed loop, so what a stall keeps from being asked is not in
the percentiles; rates are there to tell. Rounds of the variants take turns, in an order of their own each time, so that
what the machine does besides falls on all of them; each figure is the median of the rounds. "again" is "many series"
once more: how far the two are apart says what can be told at all.
The scraper asks once a second for everything: as text; as text and compressed; and with the headers of Prometheus, for
which each series has a second line, with the time at which it was made. Prints one JSON object.
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
    from typing import Self

HERE = Path(__file__).parent
WORKERS, CONNECTIONS = 2, 2
ALONE = "many series"
SCRAPES = {
    "scraped at 1 Hz": {},
    "the same, compressed": {"Accept-Encoding": "gzip"},
    "the same, with the headers of Prometheus": {"Accept": PROMETHEUS, "Accept-Encoding": "gzip"},
}
FIGURES = ("p50 [ms]", "p99 [ms]", "requests/s")
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


class Scraper:
    """Scrapes once a second for as long as it is entered, with these headers."""

    def __init__(self, url: str, headers: dict[str, str] | None) -> None:
        self._url, self._headers = url, headers
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.took: list[float] = []
        self.bytes: list[int] = []

    def _run(self) -> None:
        request = urllib.request.Request(self._url, headers=self._headers or {})  # noqa: S310 (our own)
        due = time.monotonic()
        while not self._done.wait(max(0.0, due - time.monotonic())):
            due += 1.0
            start = time.perf_counter()
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                self.bytes.append(len(answer.read()))
            self.took.append((time.perf_counter() - start) * 1e3)

    def __enter__(self) -> Self:
        if self._headers is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._headers is not None:
            self._thread.join()


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
    parser.add_argument("--only", action="append", help="a variant to measure instead of all; may be repeated")
    options = parser.parse_args()
    figures: dict[str, list[tuple[float, float, float]]] = {}
    scrapes: dict[str, list[tuple[float, float]]] = {}
    chance = random.Random(1)  # noqa: S311 (not a secret)
    with server(None) as (bare, _), server(0) as (few, _), server(options.series) as (many, metrics):
        urllib.request.urlopen(metrics).close()  # noqa: S310 (the first scrape, which reads all labels)
        variants = {"bare": (bare, None), "instrumented": (few, None), ALONE: (many, None), "again": (many, None)}
        variants |= {name: (many, headers) for name, headers in SCRAPES.items()}
        if options.only:
            variants = {name: variants[name] for name in (ALONE, "again", *options.only)}
        for number in range(options.rounds):
            print(f"latency: round {number + 1} of {options.rounds} ...", file=sys.stderr)
            for name in chance.sample(list(variants), len(variants)):
                url, headers = variants[name]
                with Scraper(metrics, headers) as scraper:
                    figures.setdefault(name, []).append(load(url, options.seconds))
                scrapes.setdefault(name, []).extend(zip(scraper.took, scraper.bytes, strict=True))
    alone = statistics.median(p99 for _, p99, _ in figures[ALONE] + figures["again"])
    result = {}
    for name in variants:
        found = dict(zip(FIGURES, map(statistics.median, zip(*figures[name], strict=True)), strict=True))
        found["p99 / that of many series"] = found["p99 [ms]"] / alone
        took, size = map(statistics.median, zip(*scrapes[name], strict=True)) if scrapes[name] else (None, None)
        result[name] = found | {"scrape [ms]": took, "scrape [KiB]": size and size / 1024}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
