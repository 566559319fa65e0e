"""Measures the hot path, scrapes, memory and requests, here and in other libraries, in one run, as tables of Markdown.

    make bench            or: python benchmarks/run.py --help

Each figure is the median of several rounds, without the loop around it where the language lets that be told. Absolute
figures depend on the machine, which is named; compare the ratios. What a peer does not have, or cannot be measured
with here, stays empty.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from measure import HERE, Figures, client_golang, forty_bot, machine, prom_client, run, subject

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HOT_PATH = (
    "inc() [ns]",
    "labels(a, b).inc() [ns]",
    "observe(), 15 buckets [ns]",
    "set() [ns]",
    "first use of a series [us]",
)
FASTER = {
    "inc() [ns]": 32,
    "labels(a, b).inc() [ns]": 25,
    "observe(), 15 buckets [ns]": 45,
    "set() [ns]": 30,
    "first use of a series [us]": 4,
    "scrape, 8 x 10,000 [ms]": 170,
    "scrape, 32 x 10,000 [ms]": 500,
}
"""How many times faster than prometheus_client it is to be."""

LIMITS = {
    "slowest of 10,000 first uses [us of CPU]": 200,
    "first scrape, 32 x 10,000 [ms of CPU]": 30,
    "first scrape, 2 x 1,000,000 [ms of CPU]": 400,
    "a fold beside 50,000 series [ms of CPU]": 15,
}
"""What it is to take at most."""

SLOW_PEER = ("--first-uses", "100")
"""What Forty-Bot's mpmetrics is measured with: see the notes."""

NOTES = """\
Figures are medians; in brackets, how many times the compiled core's. Workers share their series, and count nothing
between two scrapes unless it is said that they do. client_golang is one process, its scrape of 8 x 10,000 one of
10,000 series; prom-client's is the merge of what workers sent, without asking them; Forty-Bot's first use is that of
100 series, since its first uses take the longer the more there were (12 s for 400)."""

Row = tuple[str, list[float | None]]


def say(what: str) -> None:
    """Progress, for whoever waits."""
    print(f"{what} ...", file=sys.stderr, flush=True)


def table(title: str, columns: Sequence[str], rows: Iterator[tuple[str, list[str]]]) -> None:
    """Print a table, each row as soon as it is there."""
    print(f"\n## {title}\n\n| | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}", flush=True)
    for what, cells in rows:
        print(f"| {what} | {' | '.join(cells)} |", flush=True)


def text(value: float | None) -> str:
    """A figure with three digits that count."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def python_peers(row: str, *size: str, others: str | None = None, slowly: Sequence[str] = ()) -> list[Figures]:
    """prometheus_client, Forty-Bot's mpmetrics (whose Python is ``others``), the pure core and the compiled one."""
    return [
        subject(row, "prometheus_client", *size),
        subject(row, "forty_bot", *size, *slowly, python=others) if others else {},
        subject(row, "mpmetrics", *size, pure=True),
        subject(row, "mpmetrics", *size),
    ]


def against_peers(folder: Path) -> Iterator[Row]:
    """What, and the figures of the columns: four peers, the pure core, the compiled one."""
    say("measuring the hot path")
    others = forty_bot(folder)
    go, node = client_golang(folder, 10_000), {w: prom_client(folder, 10_000, w) for w in (8, 32)}
    client, other, pure, compiled = python_peers("hot_path", others=others, slowly=SLOW_PEER)
    for what in HOT_PATH:
        yield what, [found.get(what) for found in (client, other, go, node[8], pure, compiled)]
    say("measuring the slowest first use")
    found = [subject("slowest", "mpmetrics", "--series", "50000", pure=pure) for pure in (True, False)]
    slowest = [one["slowest first use [us of CPU]"] for one in found]
    yield "slowest of 10,000 first uses [us of CPU]", [None] * 4 + slowest
    say("measuring a fold")
    found = [subject("fold", "mpmetrics", "--series", "50000", pure=pure)["fold [ms of CPU]"] for pure in (True, False)]
    yield "a fold beside 50,000 series [ms of CPU]", [None] * 4 + found
    first: list[Row] = []
    for workers in (8, 32):
        say(f"measuring a scrape of {workers} workers")
        client, _, pure, compiled = python_peers("scrape", "--workers", str(workers), "--series", "10000")
        found = [one["first scrape [ms of CPU]"] for one in (pure, compiled)]
        first.append((f"first scrape, {workers} x 10,000 [ms of CPU]", [None] * 4 + found))
        alone = go.get("scrape [ms]") if workers == 8 else None
        merged = node[workers].get("scrape [ms]")
        figures = [client["scrape [ms]"], None, alone, merged, pure["scrape [ms]"], compiled["scrape [ms]"]]
        yield f"scrape, {workers} x 10,000 [ms]", figures
    yield from first
    say("measuring a first scrape of a million series")
    # More than once: the first time, the host of a virtual machine may have to find the memory.
    found = [subject("scrape", "mpmetrics", "--workers", "2", "--series", "1000000") for _ in range(3)]
    cpu = statistics.median(one["first scrape [ms of CPU]"] for one in found)
    yield "first scrape, 2 x 1,000,000 [ms of CPU]", [*[None] * 5, cpu]
    if others:
        say("measuring a scrape of few series")
        found = [one["scrape [ms]"] for one in python_peers("scrape", "--series", "100", others=others)]
        yield "scrape, 8 x 100 [ms]", [found[0], found[1], None, None, *found[2:]]
    say("measuring a scrape after 1,000 dead workers")
    client, _, pure, compiled = python_peers("scrape", "--workers", "2", "--series", "100", "--dead", "1000")
    for what, name in (
        ("scrape, 1,000 dead [ms]", "scrape [ms]"),
        ("the first one, which folds [ms]", "first scrape [ms]"),
        ("files, 1,000 dead", "files"),
    ):
        yield what, [client[name], None, None, None, pure[name], compiled[name]]
    for form, what in (("openmetrics", "OpenMetrics"), ("gzip", "OpenMetrics, compressed")):
        say(f"measuring a scrape as {what}")
        found = [one.get("scrape [ms]") for one in python_peers("scrape", "--form", form)]
        yield f"scrape as {what}, 8 x 10,000 [ms]", [found[0], None, None, None, *found[2:]]


def ratios(rows: Iterator[Row]) -> Iterator[tuple[str, list[str]]]:
    """The same as text: each peer's figure and its ratio to the compiled core's, and whether the target is reached."""
    for what, figures in rows:
        ours = figures[-1]
        cells = [f"{text(one)} ({one / ours:.1f}x)" if one is not None and ours else "" for one in figures[:-1]]
        yield what, [*cells, text(ours), _reached(what, figures[0], ours)]


def _reached(what: str, client: float | None, ours: float | None) -> str:
    """The target, if there is one, with a "not" in front where it is not reached."""
    if ours is None:
        return ""
    if what in LIMITS:
        return f"{'' if ours <= LIMITS[what] else 'not '}<= {LIMITS[what]}"
    if what in FASTER and client is not None:
        return f"{'' if client >= FASTER[what] * ours else 'not '}>= {FASTER[what]}x"
    return ""


def scrapes() -> Iterator[tuple[str, list[str]]]:
    """Scrapes by the number of workers, of series and of dead workers, and by how much has changed since the last."""
    sizes: list[tuple[str, tuple[str, ...]]] = [
        (f"{workers} workers x 1,000 series", ("--workers", str(workers), "--series", "1000"))
        for workers in (1, 8, 32, 128)
    ]
    sizes += [
        (f"2 workers x {series:,} series", ("--workers", "2", "--series", str(series)))
        for series in (100, 10_000, 100_000, 1_000_000)
    ]
    sizes += [
        (f"8 workers x 10,000 series, {part} % of them changed", ("--workers", "8", "--touch", str(part)))
        for part in (1, 10, 100)
    ]
    sizes += [
        (f"2 workers x 1,000 series, {dead:,} dead x 100", ("--series", "1000", "--workers", "2", "--dead", str(dead)))
        for dead in (0, 100, 1000)
    ]
    for what, size in sizes:
        say(f"measuring {what}")
        pure = subject("scrape", "mpmetrics", *size, pure=True) if "1,000,000" not in what else None
        found = subject("scrape", "mpmetrics", *size)
        names = ("scrape [ms]", "first scrape [ms]", "store [KiB]", "files")
        yield what, [text(pure and pure["scrape [ms]"]), *(text(found[name]) for name in names)]


def memory() -> Iterator[tuple[str, list[str]]]:
    """What series cost a worker, the store and the collector."""
    for series in (10_000, 100_000):
        for library, pure in (("prometheus_client", False), ("mpmetrics", True), ("mpmetrics", False)):
            twin = "" if library == "prometheus_client" else (", pure" if pure else ", compiled")
            say(f"measuring memory of {library}{twin}")
            found = subject("memory", library, "--series", str(series), pure=pure)
            names = ("worker [KiB]", "store [KiB]", "collector [KiB]", "first use [us]")
            yield f"{series:,} series, {library}{twin}", [text(found[name]) for name in names]


def requests() -> Iterator[tuple[str, list[str]]]:
    """What requests of a busy application wait."""
    say("measuring requests")
    found = run([sys.executable, str(HERE / "latency.py")])
    for what, figures in found.items():
        yield what, [text(value) for value in figures.values()]


REQUESTS = ("p50 [ms]", "p99 [ms]", "requests/s", "p99 / that of many series", "scrape [ms]", "scrape [KiB]")
SECTIONS = ("peers", "scrapes", "memory", "requests")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=SECTIONS, help=f"what to measure: {', '.join(SECTIONS)}; all")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    print(f"Measured on {machine()}.\n\n{NOTES}")
    if "peers" in options.sections:
        columns: tuple[str, ...] = (
            "prometheus_client",
            "Forty-Bot",
            "client_golang",
            "prom-client",
            "pure",
            "compiled",
        )
        columns += ("to reach",)
        with tempfile.TemporaryDirectory() as folder:
            table("The hot path and scrapes", columns, ratios(against_peers(Path(folder))))
    if "scrapes" in options.sections:
        columns = ("pure: scrape [ms]", "scrape [ms]", "first scrape [ms]", "store [KiB]", "files")
        table("How scrapes grow", columns, scrapes())
    if "memory" in options.sections:
        table("Memory", ("worker [KiB]", "store [KiB]", "collector [KiB]", "first use [us]"), memory())
    if "requests" in options.sections:
        if shutil.which("wrk") is None:
            print("requests are left out: there is no wrk here (Debian: apt-get install wrk)", file=sys.stderr)
        else:
            table("Requests", REQUESTS, requests())


if __name__ == "__main__":
    main()
