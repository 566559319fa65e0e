"""A store under test, an account of what was counted in it, and the checks that must hold after any disturbance."""

from __future__ import annotations

import collections
import faulthandler
import fcntl
import functools
import gc
import json
import os
import select
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics.collector.epoch_reader import EpochReader
from mpmetrics.collector.merge import merge

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 100.0
"""Seconds after which something hangs; never a measure of speed."""

_write = os.write
_close = os.close


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
