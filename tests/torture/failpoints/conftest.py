"""Failpoints: kills, interrupts and errors at every step of the storage code, and what must hold after each.

None of this is in the code under test, so it costs nothing in production. In a forked child the interpreter's tracing
is a failpoint before every line of ``mpmetrics/storage``, and a layer around ``os``, ``fcntl`` and ``mmap`` one at
every call into the system. A :class:`Sweep` runs an operation once for each of them, each time in a new child, and
after each has the :class:`World` checked: totals against what the child said that it did, leftovers, and that the next
process goes on. The short form takes samples of the failpoints, other ones each time. With
``MPMETRICS_TORTURE_SECONDS`` in the environment it is all of them, and from 3600 on before every instruction instead of
every line.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import fcntl
import gc
import json
import logging
import mmap
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import filelock
import pytest

import mpmetrics
from mpmetrics import storage
from mpmetrics.collector.merge import merge
from mpmetrics.collector.snapshot import EpochReader
from mpmetrics.storage import directory as directory_module
from mpmetrics.storage import format as fmt
from mpmetrics.storage import segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = float(os.environ.get("MPMETRICS_TORTURE_SECONDS", "0") or 0)
LONG = SECONDS > 0
"""Whether sweeps are whole; the short form takes its samples, others each time."""

INSTRUCTIONS = SECONDS >= 3600
"""Whether they stop before each instruction rather than each line."""

SAMPLES = 30
"""How many failpoints the short form of a sweep tries, unless it says otherwise."""

PATIENCE = 40.0
"""Seconds after which something hangs; never a measure of speed."""

QUICK = 1.0
"""Seconds in which the operation after an interrupt is done, or it counts as deadlocked; on a loaded machine, more."""

ERRORS = (errno.ENOSPC, errno.EIO, errno.EINTR, errno.EACCES, errno.EMFILE)
SHORT = 0
"""In the place of an error: a write that takes only half of what it is given."""

KEPT = {"lease", "series", "series.lock", "fold.lock", "retired"}
"""All files of an epoch in which nobody lives."""

PURE = {"format.py", "geometry.py", "private.py", "records.py", "retire.py", "survey.py"}
"""Files that change nothing: an exception there is one at the line that calls."""

UNSHARED = PURE | {"bindings.py", "catalog.py", "memory.py", "descriptor.py", "settled.py", "retry.py"}
"""Files that change nothing which outlives the process: a kill there is one at the line that calls."""

STORAGE = (os.path.dirname(storage.__file__) + os.sep,)  # noqa: PTH120
"""Where failpoints are, unless a sweep says otherwise."""

EVERYWHERE = (
    *STORAGE,
    *(os.path.dirname(module.__file__) + os.sep for module in (mpmetrics, filelock)),  # noqa: PTH120
)
"""In all that a scrape runs through, the library that its locks are from, too."""

_write = os.write
_close = os.close


@dataclass(frozen=True)
class Point:
    """A place in the code, a line or an instruction, and the how manieth time it is passed."""

    function: str
    place: int
    time: int


class Failpoints:
    """While it is entered, has ``act`` called before ``point`` in this thread, and keeps which points were passed.

    The files in the directories ``where`` have points.
    """

    def __init__(
        self,
        point: Point | None = None,
        act: Callable[[], object] | None = None,
        where: tuple[str, ...] = STORAGE,
    ) -> None:
        self._point = point
        self._act = act
        self._where = where
        self._times: collections.Counter[tuple[str, int]] = collections.Counter()
        self.passed: list[Point] = []

    def __enter__(self) -> Self:
        sys.settrace(self._enter_frame)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter_frame(self, frame: Any, event: str, _: object) -> Any:
        if event != "call" or not frame.f_code.co_filename.startswith(self._where):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = INSTRUCTIONS, not INSTRUCTIONS
        return self._step

    def _step(self, frame: Any, event: str, _: object) -> Any:
        if event in {"line", "opcode"}:
            file = frame.f_code.co_filename
            file = file[max(len(root) for root in self._where if file.startswith(root)) :]
            name = f"{file}:{frame.f_code.co_qualname}"
            place = frame.f_lasti if INSTRUCTIONS else frame.f_lineno
            self._times[name, place] += 1
            point = Point(name, place, self._times[name, place])
            self.passed.append(point)
            if point == self._point and self._act is not None:
                self._act()
        return self._step


class Calls:
    """While it is entered, counts this thread's calls into the system; number ``at`` fails with ``error``."""

    NAMES = {  # noqa: RUF012 (a constant)
        os: (
            *("open", "close", "read", "write", "pread", "pwrite", "fdopen", "posix_fallocate", "fchmod", "fchown"),
            *("chmod", "mkdir", "rmdir", "rename", "unlink", "listdir", "scandir", "stat", "lstat", "fstat", "access"),
        ),
        fcntl: ["flock"],
        mmap: ["mmap"],
    }

    def __init__(self, at: int = -1, error: int = SHORT, _: Any = ()) -> None:
        self._at = at
        self._error = error
        self._patch = pytest.MonkeyPatch()
        self.made: list[str] = []

    def __enter__(self) -> Self:
        for module, names in self.NAMES.items():
            for name in names:
                self._patch.setattr(module, name, self._layer(name, getattr(module, name)))
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _layer(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def layer(*arguments: Any, **named: Any) -> Any:
            self.made.append(name)
            if len(self.made) - 1 != self._at:
                return call(*arguments, **named)
            if self._error != SHORT:
                if name == "close":  # Linux closes the descriptor whatever it says
                    call(*arguments, **named)
                raise OSError(self._error, os.strerror(self._error), f"injected into {name}")
            if name in {"write", "pwrite"}:
                data = memoryview(arguments[1])
                arguments = (arguments[0], data[: max(1, len(data) // 2)], *arguments[2:])
            return call(*arguments, **named)

        return layer


class Traced:
    """The same by strace, of the kernel's calls: also of those that Python makes by itself.

    Number ``at`` of the calls ``made`` undisturbed fails.
    """

    # Not ``close``, which the kernel carries out whatever it answers, nor ``mmap``, which the allocator needs as well.
    NAMES = (
        "openat,pread64,pwrite64,fallocate,flock,fcntl,lseek,getdents64,?newfstatat,?fstat,?mkdir,mkdirat,"
        "?rename,?renameat,renameat2,?unlink,unlinkat,?chmod,fchmod,fchown"
    )

    def __init__(self, at: int = -1, error: int = 0, made: tuple[str, ...] = ()) -> None:
        self._inject = []
        if at >= 0:
            when = made[: at + 1].count(made[at])
            self._inject = ["-e", f"inject={made[at]}:error={errno.errorcode[error]}:when={when}"]
        self.made: list[str] = []

    def __enter__(self) -> Self:
        self._file = tempfile.TemporaryFile()  # without a name, so nothing stays when this process is killed
        number = self._file.fileno()
        self._strace = subprocess.Popen(
            ["strace", "-p", str(os.getpid()), "-o", f"/dev/fd/{number}", "-e", f"trace={self.NAMES}", *self._inject],
            stderr=subprocess.PIPE,
            pass_fds=[number],
            text=True,
        )
        assert self._strace.stderr is not None
        said = self._strace.stderr.readline()
        assert "attached" in said, said
        return self

    def __exit__(self, *_: object) -> None:
        self._strace.terminate()
        self._strace.communicate()
        with self._file:
            self._file.seek(0)
            said = self._file.read().decode(errors="replace")
        self.made = re.findall(r"^([a-z_0-9]+)\(", said, re.MULTILINE)


class Ledger:
    """What a child says, over a pipe, before and after each operation: the account that a kill cannot falsify."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.reader, self._writer = os.pipe()
        self._promised = b""

    def do(self, kind: str, action: Callable[[], object]) -> None:
        """Carry out ``action``, which counts one of ``kind`` (a lower-case letter)."""
        _write(self._writer, kind.encode())
        action()
        _write(self._writer, kind.upper().encode())

    def promise(self, kind: str, action: Callable[[], object]) -> None:
        """Carry out ``action``, which counts one of ``kind``, privately until :meth:`keep` says otherwise."""
        _write(self._writer, kind.encode())
        action()
        self._promised += kind.upper().encode()

    def keep(self) -> None:
        """What was promised is in the store."""
        _write(self._writer, self._promised)
        self._promised = b""

    def say(self, what: object) -> None:
        """Say the last word."""
        _write(self._writer, b"=" + json.dumps(what).encode())

    def hand_over(self) -> None:
        """In the parent: only the child writes."""
        _close(self._writer)


@dataclass
class Outcome:
    """How a child ended, what it began and did of each kind, and its last word."""

    status: int
    begun: collections.Counter[str] = field(default_factory=collections.Counter)
    done: collections.Counter[str] = field(default_factory=collections.Counter)
    said: Any = None


def _drain(reader: int) -> bytes:
    """All that comes out of a pipe; fails when it does not end."""
    deadline = time.monotonic() + PATIENCE
    said = b""
    while True:
        if not select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
            pytest.fail("the child neither ends nor goes on")
        more = os.read(reader, 1 << 16)
        if not more:
            return said
        said += more


class World:
    """A store, what was counted in it by an account of its own, and what must hold whatever happened.

    Every operation adds one to ``hits`` (kind ``h``), or observes 0.25 in ``sizes`` or ``deep`` (kind ``s``). The
    parent writes nothing, so that without children the epoch has no slab.
    """

    def __init__(self, directory: str) -> None:
        self.provider = mpmetrics.Provider(directory)
        assert self.provider.epoch is not None
        self.path = self.provider.epoch.path
        self.hits = mpmetrics.Counter("hits", "Hits.", ["way"], provider=self.provider)
        self.sizes = mpmetrics.Histogram("sizes", "Sizes.", ["way"], buckets=(0.1, 1), provider=self.provider)
        self.deep = mpmetrics.Histogram("deep", "Wide.", ["way"], buckets=range(600), provider=self.provider)
        self.passing = mpmetrics.Counter("passing", "Comes and goes.", ["way"], provider=self.provider)
        self.account: collections.Counter[str] = collections.Counter()
        self.reader = EpochReader(self.path)
        self.collector = mpmetrics.Collector(directory)
        self.steps = 0
        self.compacts = False
        """Whether each next process compacts the series directory, which removes what a cut compaction left."""
        self.values: dict[str, float] = {}

    @property
    def memory(self) -> Any:
        """Where this process keeps its values."""
        return self.provider.memory

    def close(self) -> None:
        """Close all files."""
        self.reader.close()
        self.collector.close()
        self.provider.shutdown()

    def child(self, work: Callable[[Ledger], object]) -> Outcome:
        """Run ``work`` in a forked child to its end, whichever that is."""
        self.steps += 1
        self.memory.directory.sync()  # else each child would take in all that the others did
        ledger = Ledger(self.steps)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(ledger.reader)
                sys.unraisablehook = lambda _: None  # the test runner's keeps what an interrupt in a __del__ leaves
                gc.freeze()  # else each collection goes through all that the test runner has
                ledger.say(work(ledger))
                status = 0
            except BaseException:  # noqa: BLE001 (told to the parent, which fails)
                ledger.say(traceback.format_exc())
            finally:
                os._exit(status)
        ledger.hand_over()
        try:
            told, _, last = _drain(ledger.reader).partition(b"=")
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        finally:
            os.close(ledger.reader)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        outcome = Outcome(status, said=json.loads(last) if last else None)
        for letter in told.decode():
            (outcome.begun if letter.islower() else outcome.done)[letter.lower()] += 1
        return outcome

    def bury(self, count: int, work: Callable[[], object]) -> None:
        """In a child: have ``work`` done by so many children of its own, whose slabs stay."""
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                segments.FOLD_AT = 1_000_000
                try:
                    work()
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)

    def _figures(self, readings: list[Any]) -> collections.Counter[str]:
        totals: collections.Counter[str] = collections.Counter()
        self.values = {}
        for reading in readings:
            for suffix, labels, value in reading.samples:
                self.values[reading.name + suffix + repr(dict(labels))] = value
                if reading.name + suffix == "hits_total":
                    if dict(labels)["way"].startswith("doomed"):
                        assert value == 1.0, "a series that is to be removed is there as it was, or not at all"
                    else:
                        totals["h"] += value
                elif reading.name in {"sizes", "deep"} and suffix == "_count":
                    totals["s"] += value
                    way = dict(labels)["way"]
                    last = self.values[f"{reading.name}_bucket{ {'way': way, 'le': '+Inf'} }"]
                    assert value == last, f"_count and +Inf differ for {way}"
                    if reading.name + f"_sum{ {'way': way} }" in self.values:
                        assert 0.25 * value == self.values[f"{reading.name}_sum{ {'way': way} }"], way
        return totals

    def peek(self) -> collections.Counter[str]:
        """What a reader shows that never folds."""
        snapshot = self.reader.snapshot()
        assert {} == snapshot.unreadable
        assert snapshot.catalog.damaged == 0
        return self._figures(merge(snapshot))

    def scrape(self) -> collections.Counter[str]:
        """What a collector shows that folds the dead first."""
        return self._figures(self.collector.readings())

    def trouble(self) -> float:
        """How many series had to be kept private so far."""
        return self.reader.snapshot().trouble

    def check(self, outcome: Outcome, what: str) -> None:
        """Totals are exact within the operation in flight, nothing is left over, and the next process goes on."""
        seen = self.peek()
        for kind in "hs":
            low, high = self.account[kind] + outcome.done[kind], self.account[kind] + outcome.begun[kind]
            assert low <= seen[kind] <= high, f"{what}: {kind}"
        self.account = seen
        assert seen == self.scrape(), f"{what}: folded"

        after = self.child(self._go_on)
        assert after.status == 0, f"{what}: the next process: {after.said}"
        self.account += after.done
        assert self.account == self.scrape(), f"{what}: after the next process"
        assert f"after_{self.steps}_total{{'way': 'there'}}" in self.values, what
        assert not [name for name in self.values if name.startswith("passing_total")], what
        assert set(os.listdir(self.path)) == KEPT, f"{what}: files are left"

    def _go_on(self, ledger: Ledger) -> None:
        """Declare, obtain, count, remove."""
        fresh = mpmetrics.Counter(f"after_{ledger.step}", "Of the next process.", ["way"], provider=self.provider)
        fresh.labels("there").inc()
        ledger.do("h", lambda: self.hits.labels("after").inc())
        ledger.do("s", lambda: self.sizes.labels("after").observe(0.25))
        self.passing.labels("along").inc()
        if self.compacts:
            directory_module.COMPACT_AT = -1_000_000
        self.passing.clear()
        assert [] == list(self.memory.private_values()), "the store does not take the next process' values"
        assert [] == self.held_locks()

    def held_locks(self) -> list[str]:
        """The locks of the store that somebody holds."""
        held = []
        for name in ("series.lock", "fold.lock", "../lock"):
            descriptor = os.open(f"{self.path}/{name}", os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(name)
            os.close(descriptor)
        return held


def _nothing(_world: World, _ledger: Ledger) -> None:
    return


@dataclass
class Sweep:
    """Runs an operation once for each failpoint in it."""

    world: World
    tally: Callable[..., None]
    """Told how much was tried."""
    often: int = 1
    """How many times a point counts that an operation passes again and again."""
    trouble: float = 0.0
    """What the store counted as trouble so far."""
    only: tuple[str, ...] = ()
    """The functions whose points count; all when it names none."""
    calls: Callable[..., Any] = Calls
    """What counts the calls into the system, and has one of those that were made undisturbed fail."""
    samples: int = SAMPLES
    """How many failpoints the short form tries."""
    where: tuple[str, ...] = STORAGE
    """The directories whose files have failpoints."""
    inspect: Callable[[World], object] = lambda _: None
    """What the survivor of an interrupt or an error looks at in the end; fails where it is not as it should."""
    may_raise: tuple[type[BaseException], ...] = ()
    """What the operation may raise to its caller when a call into the system fails: nothing, when that is a request."""

    def points(self, operation: Any, prepare: Any, skipped: set[str] = UNSHARED) -> list[Point]:
        """The failpoints of an operation, in order; in the short form without those in the files ``skipped``."""

        def profile(ledger: Ledger) -> object:
            prepare(self.world, ledger)
            with Failpoints(where=self.where) as points:
                operation(self.world, ledger)
            return [(point.function, point.place, point.time) for point in points.passed]

        skipped = set() if LONG else skipped
        outcome = self.world.child(profile)
        assert outcome.status == 0, outcome.said
        self.world.check(outcome, "undisturbed")
        points = [Point(*fields) for fields in outcome.said]
        points = [point for point in points if point.time <= self.often]
        if self.only:
            return [point for point in points if point.function in self.only]
        return self._sample([point for point in points if point.function.split(":")[0] not in skipped])

    def _sample(self, whole: list[Any]) -> list[Any]:
        """All of it, or in the short form so many, evenly spread."""
        step = 1 if LONG else -(-len(whole) // self.samples) or 1
        return whole[random.randrange(min(step, len(whole))) :: step]

    def kill(self, operation: Any, prepare: Any = _nothing) -> None:
        """Kill the process at every point of ``operation``, which comes after ``prepare``."""
        killed = 0
        for point in self.points(operation, prepare, UNSHARED):

            def work(ledger: Ledger, point: Point = point) -> None:
                prepare(self.world, ledger)
                with Failpoints(point, lambda: os.kill(os.getpid(), signal.SIGKILL), self.where):
                    operation(self.world, ledger)

            outcome = self.world.child(work)
            assert outcome.status in {0, -signal.SIGKILL}, outcome.said
            killed += outcome.status != 0
            self.world.check(outcome, f"killed at {point}")
        assert killed > 5, "the kills do not hit"
        self.tally(killed)

    def interrupt(self, operation: Any, prepare: Any = _nothing) -> None:
        """Raise KeyboardInterrupt, as a signal handler does, at every point of ``operation``; the process goes on."""
        points = self.points(operation, prepare, PURE)
        whole = self._survive(operation, prepare, contextlib.nullcontext())
        self._check_survivor(whole, whole, "undisturbed")
        interrupted = 0
        for point in points:
            outcome = self._survive(operation, prepare, Failpoints(point, _interrupt, self.where))
            what = f"interrupted at {point}"
            self._check_survivor(outcome, whole, what)
            interrupted += outcome.said["raised"] is not None
            assert outcome.said["raised"] in {None, "KeyboardInterrupt"}, what
        assert interrupted > 5, "the interrupts do not hit"
        self.tally(interrupted)

    def fail(self, operation: Any, prepare: Any = _nothing) -> None:
        """Have each call into the system fail in every way; the process goes on."""
        whole = self._survive(operation, prepare, self.calls())
        self._check_survivor(whole, whole, "undisturbed")
        failed = 0
        tries = [(at, name, error) for at, name in enumerate(whole.said["calls"]) for error in ERRORS]
        shorts = [(at, name, SHORT) for at, name in enumerate(whole.said["calls"]) if name in {"write", "pwrite"}]
        for at, name, error in self._sample(tries) + shorts:
            what = f"{errno.errorcode.get(error, 'short')} from call {at}, {name}"
            outcome = self._survive(operation, prepare, self.calls(at, error, whole.said["calls"]))
            failed += outcome.status != 0 or len(outcome.said["calls"]) > at
            self._check_survivor(outcome, whole, what)
        assert failed > min(5, self.samples // 4), "the errors do not hit"
        self.tally(failed)

    def _survive(self, operation: Any, prepare: Any, injected: Any) -> Outcome:
        """Run ``operation`` with something ``injected``, and then go on in the same process."""

        def work(ledger: Ledger) -> object:
            said: list[str] = []
            opened = len(os.listdir("/proc/self/fd"))
            handler = logging.Handler()
            handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
            logging.getLogger("mpmetrics").addHandler(handler)
            prepare(self.world, ledger)
            raised, memory = None, self.world.memory
            try:
                with injected:
                    operation(self.world, ledger)
            except (KeyboardInterrupt, *self.may_raise) as error:
                raised = type(error).__name__
            except OSError as error:
                raise AssertionError(f"{error} came out") from error
            private, left = bool(list(memory.private_values())), self.world.held_locks()
            trouble = sum(memory.directory._trouble[fmt.TROUBLE :].tolist())
            start = time.monotonic()
            operation(self.world, ledger)  # what was disturbed works when it is tried again, also by another thread
            with ThreadPoolExecutor(1) as other:
                other.submit(operation, self.world, ledger).result(PATIENCE / 2)
            ledger.do("h", lambda: self.world.hits.labels("again").inc())
            ledger.do("s", lambda: self.world.sizes.labels("again").observe(0.25))
            self.world.passing.labels("again").inc()
            waited = time.monotonic() - start
            while (memory._is_waiting() or self.world.held_locks()) and time.monotonic() < start + PATIENCE / 2:
                self.world.provider.force_flush()
                time.sleep(0.002)
            if not memory._is_waiting():
                ledger.keep()
            self.inspect(self.world)
            gc.collect()
            return {
                "raised": raised,
                "private": private,
                "left": left,
                "trouble": trouble,
                "log": said,
                "waited": waited,
                "calls": getattr(injected, "made", []),
                "waiting": memory._is_waiting(),
                "locks": self.world.held_locks(),
                "files": _open_files(),
                "descriptors": len(os.listdir("/proc/self/fd")) - opened - _mapped(memory),
            }

        return self.world.child(work)

    def _check_survivor(self, outcome: Outcome, whole: Outcome, what: str) -> None:
        """The process lives, without locks or descriptors too many; all its values are in the store."""
        assert outcome.status == 0, f"{what}: {outcome.said}"
        said = outcome.said
        assert said["waited"] < 5 * QUICK, what
        assert not said["waiting"], f"{what}: values stay private"
        assert [] == said["left"] == said["locks"], f"{what}: a lock is left"
        # Between the system opening a descriptor and our having it there is a moment for a signal to come in.
        allowed = whole.said["descriptors"] + ("interrupted" in what)
        assert said["descriptors"] <= allowed, f"{what}: leaks descriptors: {said['files']}"
        assert len(said["log"]) <= 1 + len(whole.said["log"]), f"{what}: {said['log']}"
        if said["private"]:
            assert said["log"], what
            assert said["trouble"] > self.trouble, what
        self.trouble = max(self.trouble, said["trouble"])
        self.world.check(outcome, what)


def _open_files() -> list[str]:
    """What the descriptors of this process lead to."""
    files = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            files.append(os.readlink(f"/proc/self/fd/{name}"))  # noqa: PTH115
    return sorted(files)


def _mapped(memory: Any) -> int:
    """How many segments of its slab a process has, each of which takes a descriptor."""
    return sum(isinstance(segment.words, memoryview) for segment in memory.segments._segments.values())


def _interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def world() -> Iterator[World]:
    """A store of its own."""
    path = tempfile.mkdtemp(prefix="mpmetrics-test-", dir="/dev/shm")
    made = World(f"{path}/store")
    yield made
    made.close()
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def sweep(world: World, tally: Callable[..., None]) -> Sweep:
    """Sweeps over that store; how much was tried stands in the table."""
    return Sweep(world, tally)


@pytest.fixture
def traced(sweep: Sweep) -> Sweep:
    """A sweep whose errors come out of the kernel; skips the test where strace cannot trace a process of ours."""

    def try_it(_: Ledger) -> list[str]:
        traced = Traced()
        with traced:
            os.chmod(sweep.world.path, 0o700)  # noqa: PTH101 (a call that is traced)
        return traced.made

    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    tried = sweep.world.child(try_it)
    if tried.status or "chmod" not in str(tried.said):
        pytest.skip(f"strace cannot be attached to a process: {str(tried.said).splitlines()[-1]}")
    sweep.calls, sweep.samples = Traced, 12
    return sweep


@pytest.fixture
def sweep_everywhere(world: World, tally: Callable[..., None]) -> Sweep:
    """The same, with failpoints in all that a scrape runs through."""
    return Sweep(world, tally, where=EVERYWHERE)


@pytest.fixture
def failpoints() -> type[Failpoints]:
    """Failpoints of one's own."""
    return Failpoints


@pytest.fixture
def calls() -> type[Calls]:
    """Calls of one's own that fail."""
    return Calls


@pytest.fixture
def errors() -> tuple[int, ...]:
    """The errors that are tried."""
    return ERRORS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole sweeps take their time."""
    if LONG:
        for item in items:
            if "failpoints" in item.nodeid:
                item.add_marker(pytest.mark.timeout(3600))
