"""An operation that is disturbed at each of its failpoints in turn, and checked after each disturbance."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from injections import INTERRUPTED, KILL, LONG, PURE, SHORT, UNSHARED, WRITING, Calls, Failpoints, Point
from world import PATIENCE, Ledger, Outcome, World

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLES = 20
"""How many failpoints the short form of a sweep tries, unless it says otherwise."""

ERRORS = (errno.ENOSPC, errno.EIO, errno.EINTR, errno.EACCES, errno.EMFILE)


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
