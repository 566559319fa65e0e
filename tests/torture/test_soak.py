"""Workers and folding processes killed at random moments while others scrape: no scrape shows a wrong number.

Eight seconds by default; ``MPMETRICS_TORTURE_SECONDS`` in the environment makes it longer, and then it is thousands.
The accounts are kept outside of the store, in words that the workers share with the test.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import mmap
import os
import random
import re
import select
import shutil
import signal
import tempfile
import time
import traceback
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics import _cells
from mpmetrics.collector.epoch_reader import EpochReader
from mpmetrics.collector.merge import merge
from mpmetrics.storage import fold as fold_module
from mpmetrics.storage import format as fmt
from mpmetrics.storage import memory as memory_module
from mpmetrics.storage.fold import fold
from mpmetrics.storage.retire import Contents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = float(os.environ.get("MPMETRICS_TORTURE_SECONDS", "0") or 0) or 8.0
PATIENCE = 100.0
WORKERS = 5
WAYS = 7
SPREAD = 1500
MOST_FILES = 120 if _cells.TWIN == "compiled" else 250
"""Far more than there are processes at a time. In Python a fold takes ten times as long, and is killed more often."""

pytestmark = pytest.mark.timeout(200 + 2 * SECONDS)

Values = dict[tuple[str, str], float]
_LINE = re.compile(r"([a-z_]+)(?:\{(.*)\})? (\S+)")


class WrongNumberError(Exception):
    """A scrape that cannot be."""


class Checker:
    """Looks at one scrape after the other."""

    def __init__(self) -> None:
        self._before: Values = {}
        self.scrapes = 0

    def __call__(self, values: Values) -> None:
        """Check ``values``, by sample name and labels, by themselves and against those before."""
        self.scrapes += 1
        for (name, labels), value in values.items():
            if name == "sizes_count":
                buckets = [(key, values[key]) for key in values if key[0] == "sizes_bucket" and labels in key[1]]
                counts = [count for _, count in buckets]
                if counts != sorted(counts):
                    raise WrongNumberError(f"buckets go down: {buckets}")
                if not counts or counts[-1] != value:
                    raise WrongNumberError(f"_count is {value}, +Inf is not: {buckets}")
                if values["sizes_sum", labels] != 0.25 * value:
                    raise WrongNumberError(f"{value} of 0.25 sum up to {values['sizes_sum', labels]}")
        steady = {key: value for key, value in values.items() if not key[0].startswith(("mpmetrics", "passing"))}
        for key, value in self._before.items():
            if steady.get(key, -1.0) < value:
                raise WrongNumberError(f"{key} went back from {value} to {steady.get(key)}")
        self._before = steady


def flat(readings: list[Any]) -> Values:
    """Values by sample name and labels."""
    values: Values = {}
    for reading in readings:
        for suffix, labels, value in reading.samples:
            if suffix != "_created":
                values[reading.name + suffix, ",".join(f"{name}={text}" for name, text in labels)] = value
    return values


def parsed(text: str) -> Values:
    """The same of what the endpoint answers, for metrics whose labels hold no odd characters."""
    values: Values = {}
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found and not found[1].endswith("_created"):
            values[found[1], (found[2] or "").replace('"', "")] = float(found[3])
    return values


class Process:
    """A forked child that can be killed, or told to stop and asked what it has to say."""

    def __init__(self, work: Callable[[Callable[[], bool]], object], nice: int = 0) -> None:
        self._said, said = os.pipe()
        stop, self._stop = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            outcome: object = None
            try:
                os.nice(nice)
                os.close(self._said)
                os.close(self._stop)
                outcome = work(lambda: not select.select([stop], [], [], 0)[0])
            except BaseException:  # noqa: BLE001 (told to the parent, which fails)
                outcome = traceback.format_exc()
            finally:
                with contextlib.suppress(BaseException):
                    os.write(said, json.dumps(outcome).encode())
                os._exit(0)
        os.close(said)
        os.close(stop)

    def kill(self) -> None:
        """SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._close()

    def stop(self) -> Any:
        """Have it stop, and return what it says."""
        with contextlib.suppress(BrokenPipeError):  # it has ended, and says why
            os.write(self._stop, b".")  # not closed: children that were forked later have it open, too
        if not select.select([self._said], [], [], PATIENCE)[0]:
            os.kill(self.pid, signal.SIGKILL)
        said = os.read(self._said, 1 << 16)
        os.waitpid(self.pid, 0)
        self._close()
        return json.loads(said) if said else "it hung"

    def _close(self) -> None:
        os.close(self._said)
        os.close(self._stop)


class Soak:
    """The store, its metrics, and the account of what was done."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.provider = mpmetrics.Provider(directory)
        assert self.provider.epoch is not None
        self.path = self.provider.epoch.path
        self.hits = mpmetrics.Counter("hits", "Hits.", ["way"], provider=self.provider)
        self.sizes = mpmetrics.Histogram("sizes", "Sizes.", ["way"], buckets=(0.1, 1, 5), provider=self.provider)
        self.spread = mpmetrics.Counter("spread", "Many series.", ["number"], provider=self.provider)
        self.passing = mpmetrics.Counter("passing", "Comes and goes.", ["number"], provider=self.provider)
        self._map = mmap.mmap(-1, 1 << 22)
        self.account = memoryview(self._map).cast("Q")
        """For each worker that there ever was: operations begun, and done."""
        self.born = 0
        self.killed = {"workers": 0, "folds": 0}
        self.most_files = 0

    def worker(self) -> Process:
        """A worker that counts until it is killed."""
        number = self.born
        self.born += 1
        begun, done = 2 * number, 2 * number + 1

        def work(_: Callable[[], bool]) -> None:
            account = self.account
            for turn in itertools.count():
                way = str((number + turn) % WAYS)
                account[begun] += 1
                self.hits.labels(way).inc()
                self.sizes.labels(way).observe(0.25)
                self.spread.labels(str((number * 31 + turn) % SPREAD)).inc()
                account[done] += 1
                if turn % 50 == 10:
                    self.passing.labels(str(number)).inc()
                    with contextlib.suppress(mpmetrics.StoreError):
                        self.passing.remove(str(number))

        return Process(work)

    def folding(self) -> Process:
        """A process that folds all the time."""

        def work(_: Callable[[], bool]) -> None:
            while True:
                fold(self.path)

        return Process(work, nice=5)

    def scrapers(self) -> list[Process]:
        """One that folds, one that never does, one behind the endpoint."""

        def keep(read: Callable[[], Values], goes_on: Callable[[], bool]) -> int:
            check = Checker()
            while goes_on() or check.scrapes < 3:
                check(read())
            return check.scrapes

        def folding(goes_on: Callable[[], bool]) -> int:
            collector = mpmetrics.Collector(self.directory)
            return keep(lambda: flat(collector.readings()), goes_on)

        def reading(goes_on: Callable[[], bool]) -> int:
            reader = EpochReader(self.path)

            def look() -> Values:
                snapshot = reader.snapshot()
                if snapshot.unreadable:
                    raise WrongNumberError(f"files that cannot be read: {snapshot.unreadable}")
                return flat(merge(snapshot))

            return keep(look, goes_on)

        def asking(goes_on: Callable[[], bool]) -> int:
            server = mpmetrics.start_http_server(0, source=self.directory)

            def ask() -> Values:
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
                connection.request("GET", "/metrics", headers={"Accept": "text/plain"})
                answer = connection.getresponse()
                body = answer.read().decode()
                connection.close()
                if answer.status != 200:
                    raise WrongNumberError(f"status {answer.status}")
                return parsed(body)

            return keep(ask, goes_on)

        return [Process(work) for work in (folding, reading, asking)]

    def bounds(self) -> tuple[int, int]:
        """How many operations were done at least, and at most."""
        words = self.account[: 2 * self.born].tolist()
        return sum(words[1::2]), sum(words[::2])

    def run(self, seconds: float, least: int = 0) -> list[Any]:
        """Kill and start processes for so long, and at least so many workers; returns what the scrapers said."""
        scrapers = self.scrapers()
        workers = [self.worker() for _ in range(WORKERS)]
        folding = self.folding()
        try:
            end = time.monotonic() + seconds
            limit = len(self.account) // 2 - WORKERS
            while (time.monotonic() < end or self.killed["workers"] < least) and self.born < limit:
                time.sleep(random.uniform(0.0, 0.01))
                if random.random() < 0.2:
                    folding.kill()
                    self.killed["folds"] += 1
                    folding = self.folding()
                place = random.randrange(WORKERS)
                workers[place].kill()
                self.killed["workers"] += 1
                workers[place] = self.worker()
                self.most_files = max(self.most_files, len(os.listdir(self.path)))
        finally:
            for process in (*workers, folding):
                process.kill()
            said = [scraper.stop() for scraper in scrapers]
        return said

    def totals(self) -> tuple[float, float, float]:
        """What a fresh collector shows in the end, of hits, sizes and spread series."""
        values = flat(mpmetrics.Collector(self.directory).readings())
        return tuple(  # type: ignore[return-value]
            sum(value for (name, _), value in values.items() if name == wanted)
            for wanted in ("hits_total", "sizes_count", "spread_total")
        )


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Iterator[Soak]:
    """A soak that has yet to run."""
    for module in (fold_module, memory_module):  # so that the list of removals is shortened now and then
        monkeypatch.setattr(module, "SHORTEN_AT", 1 << 12)
    path = tempfile.mkdtemp(prefix="mpmetrics-test-", dir="/dev/shm")
    made = Soak(f"{path}/store")
    yield made
    made.provider.shutdown()
    shutil.rmtree(path, ignore_errors=True)


def test_no_scrape_is_wrong_while_processes_die(soak: Soak, tally: Callable[..., None]) -> None:
    """No counter goes back, ``_count`` equals ``+Inf``, sums fit; in the end all counts and few files are left."""
    said = soak.run(SECONDS, least=21)
    low, high = soak.bounds()
    totals = soak.totals()
    tried = {"scrapes": said, "killed": soak.killed, "done": low, "in flight": high - low, "totals": totals}
    tally(sum(soak.killed.values()), lost=max(0, low - min(totals)))

    assert all(isinstance(scrapes, int) for scrapes in said), said
    assert all(low <= total <= high for total in totals), tried
    assert totals[0] >= totals[1] >= totals[2], tried
    assert high - low <= soak.born
    assert soak.most_files <= MOST_FILES
    while fold(soak.path):
        pass
    left = {name for name in os.listdir(soak.path) if not name.endswith("lock")}
    own = soak.provider.memory.process.slab.file
    assert left == {"lease", "server", "shared", "removals", "retired", own}


def test_the_soak_finds_a_fold_that_counts_twice(soak: Soak, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: folded slabs that stay, and that the retired file does not name, count twice."""
    add, unlink = Contents.add_record, fold_module._Fold._unlink

    def forgetful(self: Contents, kind: int, body: bytes) -> None:
        if kind != fmt.FOLDED:
            add(self, kind, body)

    def lazy(self: Any, name: str, reader: Any) -> bool:
        return random.random() < 0.5 or unlink(self, name, reader)

    monkeypatch.setattr(Contents, "add_record", forgetful)
    monkeypatch.setattr(fold_module._Fold, "_unlink", lazy)
    for _ in range(8):  # on a busy machine hardly anybody folds in two seconds
        said = soak.run(2.0)
        low, high = soak.bounds()
        if not all(isinstance(scrapes, int) for scrapes in said) or not low <= soak.totals()[0] <= high:
            return
    pytest.fail("nothing was found")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({("hits_total", ""): 2.0}, {("hits_total", ""): 1.0}, "went back"),
        ({("hits_total", ""): 2.0}, {}, "went back"),
        ({}, {("sizes_count", "way=1"): 2.0, ("sizes_bucket", "way=1,le=+Inf"): 1.0}, r"\+Inf"),
        (
            {},
            {
                ("sizes_count", "way=1"): 1.0,
                ("sizes_bucket", "way=1,le=1.0"): 2.0,
                ("sizes_bucket", "way=1,le=+Inf"): 1.0,
            },
            "go down",
        ),
        (
            {},
            {("sizes_count", "way=1"): 1.0, ("sizes_bucket", "way=1,le=+Inf"): 1.0, ("sizes_sum", "way=1"): 0.5},
            "sum up",
        ),
    ],
)
def test_the_checker_finds(first: Values, second: Values, message: str) -> None:
    """The control of each check of a scrape."""
    check = Checker()
    check(first)
    with pytest.raises(WrongNumberError, match=message):
        check(second)
