"""A store with a file of every kind and a metric of every kind, to be damaged, and what a scrape of it has to show."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import random
import resource
import shutil
import signal
import socket
import struct
import tempfile
import time
import traceback
import zlib
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

import mpmetrics
from mpmetrics.exposition.app import make_wsgi_app
from mpmetrics.registry import Registry
from mpmetrics.storage import format as fmt
from mpmetrics.storage.fold import fold
from mpmetrics.storage.records import decode_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("MPMETRICS_TORTURE_SECONDS", "0"))
"""How long each sweep goes on, if it has more to try than it always does."""

PATIENCE = 50
"""Seconds after which something hangs; never a measure of speed."""

Values = dict[str, float]


class Record(NamedTuple):
    """A record of the series directory, and the names of the metrics that it has to do with, with its label values."""

    start: int
    end: int
    kind: int
    family: str
    key: tuple[str, ...] | None


def parsed(body: bytes) -> tuple[Values, Values]:
    """The samples of a scrape, and the collector's figures about itself; none may be there twice."""
    values: Values = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            name = sample.name + str(sorted(sample.labels.items()))
            assert name not in values, f"{name} is shown twice"
            values[name] = sample.value
    own = {name.removeprefix("mpmetrics_"): value for name, value in values.items() if name.startswith("mpmetrics_")}
    return {name: value for name, value in values.items() if not name.startswith("mpmetrics_")}, own


class Scraper:
    """A collector behind its web application."""

    def __init__(self, directory: str) -> None:
        self.collector = mpmetrics.Collector(directory)
        self._app = make_wsgi_app(self.collector)

    def scrape(self, accept: str = "text/plain") -> bytes:
        """The body of a scrape, which is answered with 200."""
        said: list[str] = []
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "HTTP_ACCEPT": accept}
        body = b"".join(self._app(environ, lambda status, _: said.append(status)))
        assert ["200 OK"] == said
        return body

    def values(self) -> tuple[Values, Values]:
        """The samples and the figures."""
        return parsed(self.scrape())

    def close(self) -> None:
        """Close its files."""
        self.collector.close()


def differing(expected: Values, actual: Values) -> set[str]:
    """Names of the samples that are not the same; NaN is the same as NaN."""
    return {
        name
        for name in expected.keys() | actual.keys()
        if struct.pack("d", expected.get(name, 1e-300)) != struct.pack("d", actual.get(name, 1e-300))
    }


def fill(provider: mpmetrics.Provider, scale: float) -> None:
    """Set and count metrics of every kind; figures are a multiple of ``scale``."""
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=provider)
    for number, code in enumerate(("200", "301", "404", "500")):
        hits.labels(code).inc(scale * (number + 1))
    mpmetrics.Counter("alone", "No labels.", provider=provider).inc(scale)
    capped = mpmetrics.Counter("capped", "Past its cap.", ["n"], provider=provider, max_series=1)
    capped.labels("a").inc(scale)
    capped.labels("b").inc(scale)
    mpmetrics.UpDownCounter("jobs", "Jobs.", ["queue"], provider=provider).labels("mail").inc(scale)
    for mode in ("all", "min", "max", "sum", "mostrecent"):
        for live in ("", "live"):
            gauge: Any = mpmetrics.Gauge(f"{live}{mode}", "G.", ["x"], multiprocess_mode=live + mode, provider=provider)
            gauge.labels("y").set(scale)
    mpmetrics.Histogram("sizes", "Sizes.", ["x"], buckets=(1, 10, 100), provider=provider).labels("y").observe(scale)
    mpmetrics.Summary("waits", "Waits.", ["x"], provider=provider).labels("y").observe(scale)
    mpmetrics.Info("build", "Build.", provider=provider).info({"version": "1"})
    mpmetrics.Enum("door", "Door.", ["x"], states=["open", "shut"], provider=provider).labels("y").state("shut")
    provider.meter("m").counter("metered", unit="By").add(scale, {"a": "b"})
    Registry("r", provider=provider).get_or_register_timer("took").update(scale)
    mpmetrics.Counter("last", "Last.", ["n"], provider=provider).labels("1").inc(scale)


def in_child(work: Callable[[], object], *, limit: int = 0) -> str:
    """Run ``work`` in a forked process, in memory that is limited to so many more bytes; what it raised, as text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reader)
            signal.alarm(PATIENCE)
            if limit and "asan" not in os.environ.get("LD_PRELOAD", ""):
                with open("/proc/self/statm", encoding="ascii") as file:
                    used = int(file.read().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (used + limit, used + limit))
            try:
                work()
            except BaseException:  # noqa: BLE001 (told to the parent)
                os.write(writer, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read().decode()
    _, status = os.waitpid(pid, 0)
    return said if status == 0 else f"{said}ended by {os.waitstatus_to_exitcode(status)}"


def _build(directory: str) -> None:
    """Make the store: a process that was folded, one that is dead, one that is going to be alive, and a tombstone."""
    builder = mpmetrics.Provider(directory)
    path = str(builder.epoch.path)  # type: ignore[union-attr]
    fill(builder, 1.5)
    gone = mpmetrics.Counter("hits", "Hits.", ["code"], provider=builder)
    gone.labels("gone").inc(1000)
    assert "" == in_child(lambda: fill(builder, 2.5))
    assert 1 == fold(path)
    gone.remove("gone")
    assert "" == in_child(lambda: fill(builder, 3.25))
    os._exit(0)


class Store:
    """A copy of the reference store whose files can be damaged and made whole again, under an open collector.

    ``files`` are the whole ones, by what they are: series, retired, live, dead. Nothing is folded meanwhile.
    """

    def __init__(self, whole: str, directory: str) -> None:
        self._end = time.monotonic() + max(15.0, SECONDS)
        self.directory = os.path.join(directory, "store")
        shutil.copytree(whole, self.directory, symlinks=True)
        os.chmod(self.directory, 0o700)
        (self.path,) = glob.glob(os.path.join(self.directory, "epoch-*"))
        self._held: list[int] = []
        slabs = sorted(name for name in os.listdir(self.path) if name.startswith("slab-"))
        self.names = {"series": "series", "retired": "retired", "live": slabs[0], "dead": slabs[1]}
        self.hold(self.names["live"])
        self._keep_folders_out = self.hold("fold.lock")
        self.files = {what: self.read(what) for what in self.names}
        self.records = self._records()
        self.early = Scraper(self.directory)
        self.whole, figures = self.early.values()
        assert 0 == figures["unreadable_files[]"] == figures["damaged_records[]"]
        self.without = {what: self._scrape_without(what) for what in ("retired", "live", "dead")}

    @property
    def is_late(self) -> bool:
        """Whether a test has gone on for as long as it may, on a machine that has other things to do."""
        return time.monotonic() > self._end

    def hold(self, name: str) -> int:
        """Lock a file, as the owner of a slab would."""
        descriptor = os.open(os.path.join(self.path, name), os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._held.append(descriptor)
        return descriptor

    def let_fold(self) -> None:
        """From now on the dead may be folded."""
        os.close(self._keep_folders_out)
        self._held.remove(self._keep_folders_out)

    def where(self, what: str) -> str:
        """Path of a file."""
        return os.path.join(self.path, self.names.get(what, what))

    def read(self, what: str) -> bytes:
        """Bytes of a file."""
        with open(self.where(what), "rb") as file:
            return file.read()

    def write(self, what: str, data: bytes) -> None:
        """Have these bytes in a file, which stays the same file."""
        with open(self.where(what), "r+b") as file:
            file.write(data)
            file.truncate()

    def patch(self, what: str, offset: int, data: bytes) -> None:
        """Overwrite some bytes of a file in place."""
        with open(self.where(what), "r+b") as file:
            file.seek(offset)
            file.write(data)

    def restore(self, what: str) -> None:
        """Make a file whole again."""
        self.write(what, self.files[what])

    def replace(self, what: str, make: Callable[[str], object]) -> None:
        """Put something else in the place of a file."""
        where = self.where(what)
        os.rename(where, where + ".away")
        make(where)

    def put_back(self, what: str) -> None:
        """Take it away again, if it is still there."""
        where = self.where(what)
        if os.path.isdir(where) and not os.path.islink(where):
            shutil.rmtree(where)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(where)
        os.rename(where + ".away", where)

    def word(self, number: int) -> int:
        """A word of the series directory's head."""
        return int.from_bytes(self.read("series")[8 * number : 8 * number + 8], fmt.BYTE_ORDER)

    def put_word(self, what: str, number: int, value: int) -> None:
        """Overwrite a word of a file's head."""
        self.patch(what, 8 * number, value.to_bytes(8, fmt.BYTE_ORDER))

    def append(self, kind: int, body: object) -> None:
        """Commit a record with a right checksum, whatever is in it: bytes as they are, else JSON."""
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = fmt.RECORD_HEAD.pack(fmt.RECORD_MAGIC, len(text), zlib.crc32(text, kind), kind)
        record = head + text + b"\0" * (-len(text) % 8)
        end = self.word(fmt.COMMITTED)
        self.patch("series", end, record)
        self.put_word("series", fmt.COMMITTED, end + len(record))

    def _records(self) -> list[Record]:
        data = self.files["series"][fmt.SERIES_HEAD_SIZE :]
        families: dict[int, str] = {}
        found, start = [], 0
        for end, kind, body in decode_records(data):
            assert body is not None
            family, key = "", None
            if kind == fmt.FAMILY:
                families[body[0]] = family = body[1]["name"]
            elif kind == fmt.SERIES:
                family, key = families[body[0]], body[1] and tuple(body[1])
            found.append(Record(fmt.SERIES_HEAD_SIZE + start, fmt.SERIES_HEAD_SIZE + end, kind, family, key))
            start = end
        return found

    def _scrape_without(self, what: str) -> Values:
        where = self.where(what)
        os.rename(where, where + ".away")
        values, _ = self.fresh()
        os.rename(where + ".away", where)
        return values

    def fresh(self) -> tuple[Values, Values]:
        """What a collector shows that begins now."""
        scraper = Scraper(self.directory)
        try:
            return scraper.values()
        finally:
            scraper.close()

    def samples_of(self, record: Record) -> set[str]:
        """Names of the samples that are lost with a record."""
        if record.kind not in (fmt.FAMILY, fmt.SERIES):
            return set()
        names = [name for name in self.whole if name.partition("[")[0] in self._sample_names(record.family)]
        if record.kind == fmt.FAMILY:
            return set(names)
        if record.key is None:
            return {name for name in names if "otel_metric_overflow" in name}
        if record.family in ("build", "metered_bytes"):
            return set(names)
        return {name for name in names if all(f"'{value}'" in name for value in record.key)}

    def _sample_names(self, family: str) -> set[str]:
        return {family + suffix for suffix in ("", "_total", "_created", "_bucket", "_count", "_sum", "_info")}

    def close(self) -> None:
        """Close everything."""
        self.early.close()
        for descriptor in self._held:
            os.close(descriptor)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A longer form has longer limits."""
    for item in items:
        if SECONDS and item.path.parent == HERE and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(60 + 4 * SECONDS))


@pytest.fixture(scope="session")
def reference() -> Iterator[str]:
    """The store as it is before all damage."""
    base = tempfile.mkdtemp(prefix="mpmetrics-test-", dir="/dev/shm")
    directory = os.path.join(base, "store")
    said = in_child(lambda: _build(directory))
    assert "" == said
    yield directory
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def store(reference: str) -> Iterator[Store]:
    """A copy of the reference store."""
    base = tempfile.mkdtemp(prefix="mpmetrics-test-", dir="/dev/shm")
    made = Store(reference, base)
    yield made
    made.close()
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def in_process() -> Callable[..., str]:
    """Runs a function in a forked process, with a limit of memory; what it raised, as text."""
    return in_child


@pytest.fixture
def sweep(request: pytest.FixtureRequest) -> Callable[..., Iterator[Any]]:
    """All of what has to be tried, then as much of the rest, in random order, as there is time for.

    ``least`` are seconds for the rest in any case, ``share`` is how many such sweeps one test makes.
    """
    tried = 0

    def each(always: Iterable[Any], rest: Iterable[Any] = (), least: float = 1.0, share: int = 1) -> Iterator[Any]:
        nonlocal tried
        start = time.monotonic()
        for item in always:
            tried += 1
            yield item
        others = list(rest)
        random.shuffle(others)
        for item in others:
            if time.monotonic() - start > max(SECONDS / share, least):
                break
            tried += 1
            yield item
        properties = request.node.user_properties
        properties[:] = [entry for entry in properties if entry[0] != "tried"] + [("tried", tried)]

    return each


@pytest.fixture
def differ() -> Callable[[Values, Values], set[str]]:
    """Names of the samples that are not the same in two scrapes."""
    return differing


@pytest.fixture
def put_socket() -> Iterator[Callable[[str], None]]:
    """Makes unix sockets that nobody answers at."""
    made: list[socket.socket] = []

    def make(where: str) -> None:
        made.append(socket.socket(socket.AF_UNIX))
        here = os.getcwd()
        os.chdir(os.path.dirname(where))
        try:
            made[-1].bind(os.path.basename(where))
        finally:
            os.chdir(here)

    yield make
    for each in made:
        each.close()


def boundaries(records: list[Record]) -> list[int]:
    """Ends of records, and the bytes before and behind them."""
    ends = [records[0].start, *(record.end for record in records)]
    assert all(first < second for first, second in pairwise(ends))
    return sorted({end + step for end in ends for step in (-1, 0, 1)})


@pytest.fixture
def edges() -> Callable[[list[Record]], list[int]]:
    """Offsets at and beside the ends of records."""
    return boundaries
