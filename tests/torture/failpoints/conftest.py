"""Failpoints: kills, interrupts and errors at every step of the storage code, and what must hold after each.

None of this is in the code under test, so it costs nothing in production. In a forked child the interpreter's tracing
is a failpoint before every line of ``mpmetrics/storage``, for kills with the twin in Python also of
``mpmetrics/_cells``, and a layer around ``os`` and ``fcntl`` one at every call into the system. A :class:`Sweep` runs
an operation once for each of them, each time in a new child, and after each has the :class:`World` checked: totals
against what the child said that it did, leftovers, and that the next process goes on. The short form takes samples of
the failpoints, other ones each time. With ``MPMETRICS_TORTURE_SECONDS`` in the environment it is all of them, and from
3600 on before every instruction instead of every line.
"""

from __future__ import annotations

import collections
import contextlib
import dis
import errno
import faulthandler
import fcntl
import functools
import gc
import json
import logging
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import filelock
import pytest

import mpmetrics
from mpmetrics import _cells
from mpmetrics.collector.epoch_reader import EpochReader
from mpmetrics.collector.merge import merge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType

SECONDS = float(os.environ.get("MPMETRICS_TORTURE_SECONDS", "0") or 0)
LONG = SECONDS > 0
"""Whether sweeps try every failpoint; the short form tries a sample, another one each time."""

INSTRUCTIONS = SECONDS >= 3600
"""Whether they stop before each instruction rather than each line."""

SAMPLES = 20
"""How many failpoints the short form of a sweep tries, unless it says otherwise."""

PATIENCE = 100.0
"""Seconds after which something hangs; never a measure of speed."""

ERRORS = (errno.ENOSPC, errno.EIO, errno.EINTR, errno.EACCES, errno.EMFILE)
KILL = -1
"""In the place of an error: the process is killed once the call is done."""

SHORT = 0
"""In the place of an error: a write that takes only half of what it is given."""

PURE = {"format.py", "retire.py", "shapes.py"}
"""Storage files that change nothing: an exception there has the effect of one at the calling line."""

UNSHARED = PURE | {"descriptor.py", "log.py", "memory.py", "owner.py", "reader.py", "waiting.py"}
"""Storage files that change nothing that outlives the process: a kill there is one at the calling line."""

HOME = os.path.dirname(mpmetrics.__file__) + os.sep  # noqa: PTH120
STORAGE = (f"{HOME}storage{os.sep}",)
"""Files with failpoints, unless a sweep says otherwise."""

INTERRUPTED = (*STORAGE, f"{HOME}_cells{os.sep}files.py")
"""Files with interrupts; elsewhere in the cells, the steps that must be one let no signal handler in."""

WRITING = (*STORAGE, *([f"{HOME}_cells{os.sep}"] if _cells.TWIN == "pure" else []))
"""Files with kills; the C twin writes without passing a line of Python."""

EVERYWHERE = (HOME, os.path.dirname(filelock.__file__) + os.sep)  # noqa: PTH120
"""All files that a scrape runs through, the lock library included."""

_write = os.write
_close = os.close


@dataclass(frozen=True)
class Point:
    """A place in the code (a line or an instruction), and which pass of it this is."""

    function: str
    place: int
    time: int


class Failpoints:
    """A context in which ``act`` is called before ``point`` in this thread, and that records the points passed.

    The files in the directories ``where`` have points, where a signal handler may come in: there are places at which
    tracing would let an exception in although the interpreter does not.
    """

    def __init__(
        self,
        point: Point | None = None,
        act: Callable[[], object] | None = None,
        where: tuple[str, ...] = WRITING,
    ) -> None:
        self._point = point
        self._act = act
        self.where = where
        self._times: collections.Counter[tuple[str, int]] = collections.Counter()
        self.passed: list[Point] = []

    def __enter__(self) -> Self:
        sys.settrace(self._enter_frame)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter_frame(self, frame: Any, event: str, _: object) -> Any:
        if event != "call" or not frame.f_code.co_filename.startswith(self.where):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = INSTRUCTIONS, not INSTRUCTIONS
        return self._step

    def _step(self, frame: Any, event: str, _: object) -> Any:
        if event in {"line", "opcode"}:
            if frame.f_lasti in _closed_places(frame.f_code):
                return self._step
            name = f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{frame.f_code.co_qualname}"
            place = frame.f_lasti if INSTRUCTIONS else frame.f_lineno
            self._times[name, place] += 1
            point = Point(name, place, self._times[name, place])
            self.passed.append(point)
            if point == self._point and self._act is not None:
                self._act()
        return self._step


@functools.cache
def _closed_places(code: CodeType) -> set[int]:
    """Offsets of instructions before which no signal handler runs.

    They are those that do nothing, which belong to no ``try``, and those by which a ``with`` statement calls
    ``__exit__``: three times None, and the call. Both come right behind others that let no handler in.
    """
    steps = list(dis.get_instructions(code))
    found = {step.offset for step in steps if step.opname == "NOP"}
    for at in range(len(steps) - 3):
        if all(step.opname == "LOAD_CONST" and step.argval is None for step in steps[at : at + 3]):
            calls = [each for each in steps[at + 3 : at + 6] if each.opname.startswith(("PRECALL", "CALL"))]
            if calls:
                found.update(step.offset for step in steps[max(0, at - 1) : steps.index(calls[-1]) + 1])
    return found


class Calls:
    """A context that counts this thread's system calls made by Python code; number ``at`` fails with ``error``."""

    NAMES = {  # noqa: RUF012 (a constant)
        os: (
            *("open", "close", "read", "write", "pread", "pwrite", "posix_fallocate", "fchmod", "fchown", "chmod"),
            *("mkdir", "rmdir", "rename", "link", "unlink", "listdir", "scandir", "stat", "lstat", "fstat", "access"),
        ),
        fcntl: ["flock"],
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
    """The same by strace, for calls that reach the kernel, also those of the interpreter and of the compiled core.

    Number ``at`` of the calls ``made`` undisturbed fails, or is the last that the process makes.
    """

    # Not ``close``, which the kernel carries out whatever it answers, nor ``mmap``, which the allocator needs as well.
    NAMES = (
        "openat,pread64,pwrite64,fallocate,flock,fcntl,lseek,getdents64,?newfstatat,?fstat,?mkdir,mkdirat,"
        "?rename,?renameat,renameat2,?link,linkat,?unlink,unlinkat,?chmod,fchmod,fchown"
    )

    def __init__(self, at: int = -1, error: int = 0, made: tuple[str, ...] = ()) -> None:
        self._inject = []
        if at >= 0:
            when = made[: at + 1].count(made[at])
            how = "signal=KILL" if error == KILL else f"error={errno.errorcode[error]}"
            self._inject = ["-e", f"inject={made[at]}:{how}:when={when}"]
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
    """A child's account of its operations: it writes to a pipe before and after each, so a kill cannot falsify it."""

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
        """Carry out ``action``, which counts one of ``kind``, in the waiting room until :meth:`keep` is called."""
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
    """All bytes of a pipe up to its end; fails when it does not end in time."""
    deadline = time.monotonic() + PATIENCE
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    said = b""
    while True:
        if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
            pytest.fail("the child neither ends nor goes on")
        more = os.read(reader, 1 << 16)
        if not more:
            return said
        said += more


class World:
    """A store, an account of what was counted in it, and the checks that must hold after any disturbance.

    Every operation adds one to ``hits`` (kind ``h``), or observes 0.25 in ``sizes`` or ``deep`` (kind ``s``). The
    parent declares, but counts nothing, so that without children the epoch has its idle slab alone.
    """

    def __init__(self, directory: str) -> None:
        self.provider = mpmetrics.Provider(directory)
        assert self.provider.epoch is not None
        self.path = self.provider.epoch.path
        self.hits = mpmetrics.Counter("hits", "Hits.", ["way"], provider=self.provider)
        self.sizes = mpmetrics.Histogram("sizes", "Sizes.", ["way"], buckets=(0.1, 1), provider=self.provider)
        self.passing = mpmetrics.Counter("passing", "Comes and goes.", ["way"], provider=self.provider)
        self.account: collections.Counter[str] = collections.Counter()
        self.reader = EpochReader(self.path)
        self.collector = mpmetrics.Collector(directory)
        self.steps = 0
        self.values: dict[str, float] = {}
        self.kept = {*os.listdir(self.path), "retired", "collector.lock"}
        """All files of the epoch while no other process lives."""

    @functools.cached_property
    def deep(self) -> mpmetrics.Histogram:
        """A histogram with more buckets than a page has words; not declared before use, since it slows down scrapes."""
        return mpmetrics.Histogram("deep", "Wide.", ["way"], buckets=range(600), provider=self.provider)

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
        ledger = Ledger(self.steps)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(ledger.reader)
                sys.unraisablehook = lambda _: None  # the test runner's keeps what an interrupt in a __del__ leaves
                faulthandler.dump_traceback_later(PATIENCE - 5, exit=True, file=sys.__stderr__)
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
        for reading in readings:
            for suffix, labels, value in reading.samples:
                way = dict(labels)["way"] if reading.name in {"hits", "sizes", "deep"} else ""
                if reading.name + suffix == "hits_total":
                    if way.startswith("doomed"):
                        assert value == 1.0, "a series that is to be removed is there as it was, or not at all"
                    else:
                        totals["h"] += value
                elif reading.name in {"sizes", "deep"} and suffix == "_count":
                    totals["s"] += value
                    last = self.values[f"{reading.name}_bucket{ {'way': way, 'le': '+Inf'} }"]
                    assert value == last, f"_count and +Inf differ for {way}"
                    assert 0.25 * value == self.values[f"{reading.name}_sum{ {'way': way} }"], way
        return totals

    def peek(self, what: str = "") -> collections.Counter[str]:
        """What a reader shows that never folds."""
        snapshot = self.reader.snapshot()
        assert {} == snapshot.unreadable, what
        assert snapshot.damaged == 0, what
        return self._figures(merge(snapshot))

    def scrape(self) -> collections.Counter[str]:
        """What a collector shows that folds the dead first."""
        return self._figures(self.collector.readings())

    def trouble(self) -> float:
        """How many series had to wait so far."""
        return self.reader.snapshot().trouble

    def waits(self) -> bool:
        """Whether values of this process wait for room in the store."""
        return any(True for _ in self.memory.private_maps())

    def check(self, outcome: Outcome, what: str) -> None:
        """Totals are exact within the operation in flight, nothing is left over, and the next process goes on."""
        seen = self.peek(what)
        for kind in "hs":
            low, high = self.account[kind] + outcome.done[kind], self.account[kind] + outcome.begun[kind]
            assert low <= seen[kind] <= high, f"{what}: {kind}"
        self.account = seen
        doomed = self._doomed()
        assert seen == self.scrape(), f"{what}: folded"

        after = self.child(self._go_on)
        assert after.status == 0, f"{what}: the next process: {after.said}"
        self.account += after.done
        assert self.account == self.scrape(), f"{what}: after the next process"
        assert doomed == self._doomed(), f"{what}: a removal comes into force or is undone later"
        assert f"after_{self.steps}_total{{'way': 'there'}}" in self.values, what
        assert not [name for name in self.values if name.startswith("passing_total")], what
        assert set(os.listdir(self.path)) <= self.kept, f"{what}: files are left"

    def _doomed(self) -> list[str]:
        return sorted(name for name in self.values if "doomed" in name and "_total" in name)

    def _go_on(self, ledger: Ledger) -> None:
        """Declare, obtain, count, remove."""
        fresh = mpmetrics.Counter(f"after_{ledger.step}", "Of the next process.", ["way"], provider=self.provider)
        fresh.labels("there").inc()
        ledger.do("h", lambda: self.hits.labels("after").inc())
        ledger.do("s", lambda: self.sizes.labels("after").observe(0.25))
        self.passing.labels("along").inc()
        self.passing.clear()
        assert not self.waits(), "the store does not take the next process' values"
        assert [] == self.held_locks()

    def held_locks(self) -> list[str]:
        """The locks of the store that a process holds."""
        held = []
        for name in ("removals.lock", "fold.lock", ".", "../lock"):
            descriptor = os.open(f"{self.path}/{name}", os.O_RDONLY)
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
    where: tuple[str, ...] = ()
    """The directories whose files have failpoints, if they are others than usual."""
    inspect: Callable[[World], object] = lambda _: None
    """What the survivor of an interrupt or an error looks at in the end; fails where it is not as it should."""
    least: int = 5
    """More than how many have to hit."""
    may_raise: tuple[type[BaseException], ...] = ()
    """What the operation may raise to its caller when a call into the system fails: nothing, when that is a request."""

    def points(
        self, operation: Any, prepare: Any, skipped: set[str] = UNSHARED, where: tuple[str, ...] = WRITING
    ) -> list[Point]:
        """The failpoints of an operation, in order; in the short form without those in the files ``skipped``."""

        def profile(ledger: Ledger) -> object:
            prepare(self.world, ledger)
            with Failpoints(where=self.where or where) as points:
                operation(self.world, ledger)
            return [(point.function, point.place, point.time) for point in points.passed]

        skipped = set() if LONG else skipped
        outcome = self.world.child(profile)
        assert outcome.status == 0, outcome.said
        self.world.check(outcome, "undisturbed")
        points = [Point(*fields) for fields in outcome.said]
        points = [point for point in points if point.time <= self.often]
        if self.only:
            points = [point for point in points if point.function in self.only]
            return points or pytest.fail(f"nothing passes {self.only}")
        files = {f"storage/{name}" for name in skipped}
        return self._sample([point for point in points if point.function.split(":")[0] not in files])

    def _sample(self, whole: Any) -> Any:
        """All of it, or in the short form so many, evenly spread."""
        step = 1 if LONG else -(-len(whole) // self.samples) or 1
        return whole[random.randrange(step) :: step]

    def kill(self, operation: Any, prepare: Any = _nothing) -> None:
        """Kill the process at every point of ``operation``, which comes after ``prepare``."""
        killed = 0
        for point in self.points(operation, prepare):

            def work(ledger: Ledger, point: Point = point) -> None:
                prepare(self.world, ledger)
                with Failpoints(point, lambda: os.kill(os.getpid(), signal.SIGKILL), self.where or WRITING):
                    operation(self.world, ledger)

            outcome = self.world.child(work)
            assert outcome.status in {0, -signal.SIGKILL}, outcome.said
            killed += outcome.status != 0
            self.world.check(outcome, f"killed at {point}")
        self.hit(killed)

    def interrupt(self, operation: Any, prepare: Any = _nothing) -> None:
        """Raise KeyboardInterrupt, as a signal handler does, at every point of ``operation``; the process goes on."""
        points = self.points(operation, prepare, PURE, INTERRUPTED)
        whole = self._survive(operation, prepare, contextlib.nullcontext())
        self._check_survivor(whole, whole, "undisturbed")
        interrupted = 0
        for point in points:
            outcome = self._survive(operation, prepare, Failpoints(point, _interrupt, self.where or INTERRUPTED))
            what = f"interrupted at {point}"
            self._check_survivor(outcome, whole, what)
            interrupted += outcome.said["raised"] is not None
            assert outcome.said["raised"] in {None, "KeyboardInterrupt"}, what
        self.hit(interrupted)

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
        self.hit(failed, min(self.least, self.samples // 4))

    def hit(self, times: int, least: int | None = None) -> None:
        """Fail unless more than the least number were hit, and note how many."""
        if times <= (self.least if least is None else least):
            pytest.fail(f"only {times} hit")  # no AssertionError, which would do for a control
        self.tally(times)

    def kill_in_calls(self, operation: Any, prepare: Any = _nothing) -> None:
        """Kill the process after each of its calls into the system."""

        def work(ledger: Ledger, at: int, made: tuple[str, ...]) -> list[str]:
            prepare(self.world, ledger)
            with self.calls(at, KILL, made) as calls:
                operation(self.world, ledger)
            return calls.made

        whole = self.world.child(lambda ledger: work(ledger, -1, ()))
        self.world.check(whole, "undisturbed")
        killed = 0
        for at in self._sample(range(len(whole.said))):
            outcome = self.world.child(lambda ledger, at=at: work(ledger, at, whole.said))
            killed += outcome.status == -signal.SIGKILL
            self.world.check(outcome, f"killed at call {at}, {whole.said[at]}")
        self.hit(killed, min(self.least, self.samples // 4))

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
            waiting, left, trouble = self.world.waits(), self.world.held_locks(), memory.epoch.shared.trouble
            start = time.monotonic()
            operation(self.world, ledger)  # what was disturbed works when it is tried again, also by another thread
            with ThreadPoolExecutor(1) as other:
                other.submit(operation, self.world, ledger).result(PATIENCE / 2)
            ledger.do("h", lambda: self.world.hits.labels("again").inc())
            ledger.do("s", lambda: self.world.sizes.labels("again").observe(0.25))
            self.world.passing.labels("again").inc()
            seconds = time.monotonic() - start
            while (self.world.waits() or self.world.held_locks()) and time.monotonic() < start + PATIENCE / 2:
                self.world.provider.force_flush()
                time.sleep(0.002)
            if not self.world.waits():
                ledger.keep()
            self.inspect(self.world)
            gc.collect()
            return {
                "raised": raised,
                "waited": waiting,
                "left": left,
                "trouble": trouble,
                "log": said,
                "seconds": seconds,
                "calls": getattr(injected, "made", []),
                "waiting": self.world.waits(),
                "locks": self.world.held_locks(),
                "files": _open_files(),
                "descriptors": len(os.listdir("/proc/self/fd")) - opened,
            }

        return self.world.child(work)

    def _check_survivor(self, outcome: Outcome, whole: Outcome, what: str) -> None:
        """The process lives, without locks or descriptors too many; all its values are in the store."""
        assert outcome.status == 0, f"{what}: {outcome.said}"
        said = outcome.said
        assert said["seconds"] < PATIENCE / 2, f"{what}: what comes after it waits"
        assert not said["waiting"], f"{what}: values wait for ever"
        assert [] == said["left"] == said["locks"], f"{what}: a lock is left"
        # Between the system opening a descriptor and our having it there is a moment for a signal to come in.
        allowed = whole.said["descriptors"] + ("interrupted" in what)
        assert said["descriptors"] <= allowed, f"{what}: leaks descriptors: {said['files']}"
        assert len(said["log"]) <= 1 + len(whole.said["log"]), f"{what}: {said['log']}"
        if said["waited"]:
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
    """Give sweeps a longer limit: on a busy machine they take many times as long."""
    for item in items:
        if "failpoints" in item.nodeid:
            item.add_marker(pytest.mark.timeout(3600 if LONG else 240))
