"""Measures the hot path and scrapes, here and in other libraries, in one run, and prints a table.

    make bench            or: python benchmarks/run.py --help

Each figure is the median of several rounds, without the loop around it where the language lets that be told. Absolute
figures depend on the machine, which is named; compare the ratios. A peer whose tools are not here is left out, and that
is said: client_golang needs Debian's golang-go and golang-github-prometheus-client-golang-dev; prom-client, npm.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE = Path(__file__).parent
SHARED = Path("/dev/shm")
PROM_CLIENT = "15.1.3"
HOT_PATH = (
    "inc() [ns]",
    "labels(a, b).inc() [ns]",
    "observe(), 15 buckets [ns]",
    "set() [ns]",
    "first use of a series [us]",
)

Figures = dict[str, float]


def run(command: list[str], environ: Mapping[str, str] | None = None) -> Figures:
    """What a program says that it measured."""
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, **(environ or {})})
    figures: Figures = json.loads(done.stdout)
    return figures


def subject(row: str, library: str, *arguments: str, pure: bool = False) -> Figures:
    """Measure a library of Python in a fresh process and an empty directory."""
    directory = tempfile.mkdtemp(prefix="mpmetrics-bench-", dir=SHARED if SHARED.is_dir() else None)
    try:
        command = [sys.executable, str(HERE / "subject.py"), row, library, directory, *arguments]
        return run(command, {"MPMETRICS_DISABLE_EXT": "1" if pure else ""})
    finally:
        shutil.rmtree(directory)


def client_golang(folder: Path, series: int) -> Figures | None:
    """client_golang, of one process; None where it cannot be built."""
    environ = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode"}
    program = folder / "client_golang"
    build = ["go", "build", "-o", str(program), str(HERE / "peers" / "client_golang.go")]
    try:
        subprocess.run(build, env=environ, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return _left_out("client_golang", error)
    return run([str(program), str(series)])


def prom_client(folder: Path, series: int, workers: int) -> Figures | None:
    """Node's prom-client, merging what workers sent; None where it cannot be installed."""
    shutil.copy(HERE / "peers" / "prom_client.js", folder)
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", f"prom-client@{PROM_CLIENT}"]
    try:
        subprocess.run(install, cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return _left_out("prom-client", error)
    return run(["node", str(folder / "prom_client.js"), str(series), str(workers)])


def _left_out(peer: str, error: Exception) -> None:
    detail = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
    print(f"{peer} is left out: {error} {' '.join(detail[-1:])}", file=sys.stderr)


def machine() -> str:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"


def rows(series: int, folder: Path) -> Iterator[tuple[str, list[float | None]]]:
    """Each row of the table: what, and the figures of the columns, None where there is none."""
    print("measuring the hot path ...", file=sys.stderr)
    peers = [
        subject("hot_path", "prometheus_client"),
        client_golang(folder, series) or {},
        prom_client(folder, series, 8) or {},
        subject("hot_path", "mpmetrics", pure=True),
        subject("hot_path", "mpmetrics"),
    ]
    for what in HOT_PATH:
        yield what, [figures.get(what) for figures in peers]
    for workers in (8, 32):
        print(f"measuring a scrape of {workers} workers ...", file=sys.stderr)
        size = ("--workers", str(workers), "--series", str(series))
        scrapes = [
            subject("scrape", "prometheus_client", *size),
            peers[1] if workers == 8 else {},
            (peers[2] if workers == 8 else prom_client(folder, series, workers)) or {},
            subject("scrape", "mpmetrics", *size, pure=True),
            subject("scrape", "mpmetrics", *size),
        ]
        yield f"scrape, {workers} x {series} [ms]", [figures.get("scrape [ms]") for figures in scrapes]
    print("measuring a scrape after 1,000 dead workers ...", file=sys.stderr)
    dead = ("--workers", "0", "--dead", "1000")
    after = [subject("scrape", name, *dead) for name in ("prometheus_client", "mpmetrics")]
    pure = subject("scrape", "mpmetrics", *dead, pure=True)
    for what in ("scrape [ms]", "files"):
        yield f"{what}, 1,000 dead", [after[0][what], None, None, pure[what], after[1][what]]


def growth() -> Iterator[tuple[str, Figures]]:
    """Scrapes by the number of workers and of series."""
    for workers in (1, 8, 32, 128):
        yield (
            f"{workers} workers x 1,000",
            subject("scrape", "mpmetrics", "--workers", str(workers), "--series", "1000"),
        )
    for series in (100, 10_000, 100_000, 1_000_000):
        yield f"2 workers x {series:,}", subject("scrape", "mpmetrics", "--workers", "2", "--series", str(series))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=10_000, help="series of each worker (default: %(default)s)")
    parser.add_argument("--growth", action="store_true", help="measure how scrapes grow, too; takes a minute more")
    options = parser.parse_args()
    print(f"{machine()}\n")
    columns = ("prometheus_client", "client_golang", "prom-client", "pure", "compiled", "ratio")
    print(f"{'':28}" + "".join(f"{column:>18}" for column in columns))
    with tempfile.TemporaryDirectory() as folder:
        for what, figures in rows(options.series, Path(folder)):
            theirs, ours = figures[0], figures[-1]
            ratio = f"{theirs / ours:.1f}x" if theirs and ours else ""
            print(
                f"{what:28}" + "".join(f"{'' if value is None else f'{value:.1f}':>18}" for value in figures),
                f"{ratio:>17}",
                flush=True,
            )
    if options.growth:
        print(f"\n{'growth':28}{'scrape [ms]':>18}{'first [ms]':>18}{'store [KiB]':>18}")
        for what, found in growth():
            print(
                f"{what:28}"
                + "".join(f"{found[name]:18.1f}" for name in ("scrape [ms]", "first scrape [ms]", "store [KiB]"))
            )


if __name__ == "__main__":
    main()
