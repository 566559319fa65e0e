"""A store with a file of every kind and a metric of every kind, to be damaged, and what a scrape of it has to show."""

from __future__ import annotations

import contextlib
import fcntl
import glob
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

import mpmetrics
from mpmetrics.endpoint.app import make_wsgi_app
from mpmetrics.names.family import Family
from mpmetrics.registry import Registry
from mpmetrics.storage import format as fmt
from mpmetrics.storage.fold import fold
from mpmetrics.storage.format import unpack_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("MPMETRICS_TORTURE_SECONDS", "0"))
"""How long each sweep goes on, if it has more to try than it always does."""

PATIENCE = 120
"""Seconds after which something hangs; never a measure of speed."""

Values = dict[str, float]


def records_in(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """End, kind and body of each record of ``data``, which holds nothing else: read by the specification alone."""
    position = 0
    while position < len(data):
        magic, length, checksum, kind = fmt.RECORD_HEAD.unpack_from(data, position)
        start = position + fmt.RECORD_HEAD.size
        body = data[start : start + length]
        assert magic == fmt.RECORD_MAGIC
        assert zlib.crc32(body, kind) == checksum
        position = start + length + -length % fmt.WORD
        yield position, kind, body


class Record(NamedTuple):
    """A record of a slab: its place in the file, and the metric that it has to do with, with its label values."""

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
                with open("/proc/self/status", encoding="ascii") as file:  # maps of files take no memory
                    used = next(1024 * int(line.split()[1]) for line in file if line.startswith("VmData"))
                resource.setrlimit(resource.RLIMIT_DATA, (used + limit, used + limit))
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
    """Make the store: a process that was folded, one that is dead, one that is going to be alive, and a removal."""
    builder = mpmetrics.Provider(directory)
    path = str(builder.epoch.path)  # type: ignore[union-attr]
    fill(builder, 1.5)
    gone = mpmetrics.Counter("hits", "Hits.", ["code"], provider=builder)
    gone.labels("gone").inc(1000)

    def work() -> None:
        fill(builder, 2.5)
        gone.labels("gone").inc(1000)

    assert "" == in_child(work)
    assert 1 == fold(path)
    gone.remove("gone")
    assert "" == in_child(lambda: fill(builder, 3.25))
    os._exit(0)


def extents(path: str) -> list[tuple[int, bytes]]:
    """What is in a sparse file: offsets and bytes."""
    found, offset = [], 0
    with open(path, "rb") as file:
        while True:
            try:
                offset = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:  # a hole up to the end
                return found
            end = os.lseek(file.fileno(), offset, os.SEEK_HOLE)
            found.append((offset, os.pread(file.fileno(), end - offset, offset)))
            offset = end


def copy_tree(source: str, target: str) -> None:
    """Copy a store; its files are sparse."""
    for directory, _, files in os.walk(source):
        there = os.path.join(target, os.path.relpath(directory, source))
        os.makedirs(there, 0o700)
        for name in files:
            path = os.path.join(directory, name)
            if os.path.isfile(path):
                rebuild(os.path.join(there, name), os.path.getsize(path), extents(path))


def rebuild(path: str, size: int, parts: list[tuple[int, bytes]]) -> None:
    """Have this in a file, and nothing else; one that is there stays the same file."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        file.truncate(0)
        file.truncate(size)
        for offset, data in parts:
            os.pwrite(file.fileno(), data, offset)


class Store:
    """A copy of the reference store whose files can be damaged and made whole again, under an open collector.

    ``names`` are the files by what they are: retired, live, dead, shared, removals. Nothing is folded meanwhile.
    """

    def __init__(self, whole: str, directory: str) -> None:
        self._end = time.monotonic() + max(15.0, SECONDS)
        self.directory = os.path.join(directory, "store")
        copy_tree(whole, self.directory)
        (self.path,) = glob.glob(os.path.join(self.directory, "epoch-*"))
        self._held: list[int] = []
        self.names = {"live": "slab-0", "dead": "slab-1"}
        self.hold("slab-0")
        self._keep_folds_out = self.hold("fold.lock")
        files = ("retired", "live", "dead", "shared", "removals")
        self.files = {what: (os.path.getsize(self.where(what)), extents(self.where(what))) for what in files}
        self.records = {what: self._records(what) for what in ("retired", "live", "dead")}
        self.early = Scraper(self.directory)
        self.whole, figures = self.early.values()
        assert 0 == figures["unreadable_files[]"] == figures["damaged_records[]"]
        assert "hits_total[('code', 'gone')]" not in self.whole
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
        os.close(self._keep_folds_out)
        self._held.remove(self._keep_folds_out)

    def where(self, what: str) -> str:
        """Path of a file."""
        return os.path.join(self.path, self.names.get(what, what))

    def read(self, what: str, offset: int, size: int) -> bytes:
        """Some bytes of a file."""
        with open(self.where(what), "rb") as file:
            return os.pread(file.fileno(), size, offset)

    def write(self, what: str, data: bytes) -> None:
        """Have these bytes alone in a file, which stays the same file."""
        rebuild(self.where(what), len(data), [(0, data)])

    def patch(self, what: str, offset: int, data: bytes) -> None:
        """Overwrite some bytes of a file in place."""
        with open(self.where(what), "r+b") as file:
            os.pwrite(file.fileno(), data, offset)

    def flip(self, what: str, offset: int, flip: int) -> None:
        """Change bits of a byte; again changes them back."""
        self.patch(what, offset, bytes([self.read(what, offset, 1)[0] ^ flip]))

    def restore(self, what: str) -> None:
        """Make a file whole again."""
        rebuild(self.where(what), *self.files[what])

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

    def word(self, what: str, number: int) -> int:
        """A word of a file's head."""
        return int.from_bytes(self.read(what, 8 * number, 8), fmt.BYTE_ORDER)

    def put_word(self, what: str, number: int, value: int) -> None:
        """Overwrite a word of a file's head."""
        self.patch(what, 8 * number, value.to_bytes(8, fmt.BYTE_ORDER))

    def append(self, what: str, kind: int, body: bytes) -> None:
        """Commit a record with a right checksum, whatever is in it; ``what`` is a slab, or the removals."""
        head = fmt.RECORD_HEAD.pack(fmt.RECORD_MAGIC, len(body), zlib.crc32(body, kind), kind)
        record = head + body + b"\0" * (-len(body) % 8)
        if what == "removals":
            self.patch(what, os.path.getsize(self.where(what)), record)
            self.put_word("shared", fmt.GENERATION, self.word("shared", fmt.GENERATION) + 1)
            return
        committed = self.word(what, fmt.COMMITTED)
        self.patch(what, fmt.AREA_0 + committed, record)
        self.put_word(what, fmt.ROOM, max(committed + len(record), self.word(what, fmt.ROOM)))
        self.put_word(what, fmt.COMMITTED, committed + len(record))

    def _records(self, what: str) -> list[Record]:
        data = self.read(what, fmt.AREA_0, self.word(what, fmt.COMMITTED))
        families: dict[int, str] = {}
        found, start = [], 0
        for end, kind, body in records_in(data):
            family, key = "", None
            if kind == fmt.FAMILY:
                family = families[int.from_bytes(body[:4], fmt.BYTE_ORDER)] = Family.unpack(body[16:]).name
            elif kind == fmt.SERIES:
                family = families[int.from_bytes(body[:4], fmt.BYTE_ORDER)]
                is_overflow = body[32:] == b"\xff\xff"
                key = None if is_overflow else tuple(unpack_texts(body, 32))
            found.append(Record(fmt.AREA_0 + start, fmt.AREA_0 + end, kind, family, key))
            start = end
        return found

    def expected(self, what: str, lost: Iterable[Record]) -> Values:
        """What is shown without these records of a file: of their series, what the other files have."""
        names = {name for record in lost for name in self.samples_of(record)}
        values = {name: value for name, value in self.whole.items() if name not in names}
        values.update((name, value) for name, value in self.without[what].items() if name in names)
        return values

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
        """Names of the samples that a record has a part in."""
        if record.kind not in (fmt.FAMILY, fmt.SERIES):
            return set()
        suffixes = ("", "_total", "_created", "_bucket", "_count", "_sum", "_info")
        names = {name for name in self.whole if name.partition("[")[0] in {record.family + end for end in suffixes}}
        if record.kind == fmt.FAMILY or record.family in ("build", "metered_bytes"):
            return names
        if record.key is None:
            return {name for name in names if "otel_metric_overflow" in name}
        return {name for name in names if all(f"'{value}'" in name for value in record.key)}

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
    """Yield all that must be tried, then the rest in random order as long as there is time.

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
    """Makes unix sockets on which no process listens."""
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
