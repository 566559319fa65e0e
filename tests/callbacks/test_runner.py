"""Deadlines: a late callback is left behind, the others run in time, and nothing runs twice beside itself."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics import Provider
from mpmetrics.callbacks.runner import Runner, at_work_for
from mpmetrics.collector.crashed_callbacks import CrashedCallbacks
from mpmetrics.collector.epoch_reader import EpochReader
from mpmetrics.collector.merge import Merger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpmetrics.callbacks.callback import Callback
    from mpmetrics.callbacks.runner import Run


class Hanging:
    """A callback that waits until it is let go, and then observes 1; ``started`` and ``ended`` count."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.started = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        self.starts = 0

    def __call__(self, observer: Any) -> None:
        """Wait."""
        self.starts += 1
        self.started.release()
        self.go.wait(50)
        observer.observe(1)
        self.ended.release()


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    """One that is let go at the end of the test, if not before."""
    made = Hanging()
    yield made
    made.go.set()


def callbacks(provider: Provider, *functions: Callable[[Any], object], **options: Any) -> list[Callback]:
    """Callbacks of gauges, called ``g0``, ``g1``, ..., that are these functions."""
    meter = provider.meter("test")
    for number, function in enumerate(functions):
        meter.observable_gauge(f"g{number}", callback=function, **options)
    return provider.callbacks.of("host")


def values(run: Run) -> list[float]:
    """What a run observed."""
    return [value for _, _, value in run.observations.taken]


def observe(value: float) -> Callable[[Any], object]:
    """A callback that observes a value."""
    return lambda observer: observer.observe(value)


def test_a_late_callback_is_left_behind(hanging: Hanging) -> None:
    """Those behind it run, and nothing of it counts, also once it goes on."""
    runner = Runner()
    first, late, last = runner.run(callbacks(Provider(), observe(5), hanging, observe(6), timeout=0.2), seconds=20)

    assert [5.0] == values(first)
    assert [6.0] == values(last)
    assert (True, False) == (late.timed_out, late.is_complete)
    hanging.go.set()
    assert hanging.ended.acquire(timeout=10)
    assert [] == values(late)


def test_not_twice_beside_itself(hanging: Hanging) -> None:
    """As long as it runs it is not started again, and costs no time; once it has ended, it is."""
    runner = Runner()
    wanted = callbacks(Provider(), hanging, observe(6), timeout=0.2)
    runner.run(wanted, seconds=20)
    late, other = runner.run(wanted, seconds=20)

    assert (True, [6.0]) == (late.timed_out, values(other))
    assert 1 == hanging.starts
    hanging.go.set()
    assert hanging.ended.acquire(timeout=10)
    for thread in threading.enumerate():
        if thread.name == "mpmetrics-callbacks":
            thread.join(10)
    again, _ = runner.run(wanted, seconds=20)
    assert [1.0] == values(again)
    assert 2 == hanging.starts


def test_a_late_delta_is_not_lost(hanging: Hanging) -> None:
    """What comes too late for a collection still moves the stored total: the callback is not going to say it again."""
    provider = Provider()
    counter = provider.meter("test").observable_counter("c", callback=hanging, temporality="delta", timeout=0.1)
    (run,) = Runner().run(provider.callbacks.of("host"), seconds=20)
    assert [] == values(run)
    hanging.go.set()
    assert hanging.ended.acquire(timeout=10)

    snapshot = EpochReader(None, provider.memory).snapshot()
    assert [1.0] == list(Merger(snapshot.shapes["c"][0], snapshot.columns).sums())
    assert "c" == counter.name


def test_several_late_ones(hanging: Hanging) -> None:
    """However many hang, those behind them have time to run: none gets more than half of what is left for all."""
    other = Hanging()

    def takes_time(observer: Any) -> None:
        time.sleep(0.05)
        observer.observe(6)

    try:
        runs = Runner().run(callbacks(Provider(), hanging, other, takes_time, timeout=40), seconds=2)
    finally:
        other.go.set()

    assert [True, True, False] == [run.timed_out for run in runs]
    assert [6.0] == values(runs[-1])


def test_a_coroutine_is_cancelled() -> None:
    """At its deadline, so that it does not go on behind anybody's back; its own TimeoutError is an error."""
    cancelled = threading.Event()

    async def waits(_: Any) -> None:
        try:
            await asyncio.sleep(50)
        finally:
            cancelled.set()

    async def raises(_: Any) -> None:
        raise TimeoutError("its own")

    late, failed = Runner().run(callbacks(Provider(), waits, raises, timeout=0.2), seconds=20)

    assert cancelled.wait(10)
    assert (True, None) == (late.timed_out, late.error)
    assert (False, "its own") == (failed.timed_out, str(failed.error))


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, TimeoutError])
def test_whatever_is_raised(error: type[BaseException]) -> None:
    """It is noted, what was observed before counts, and the next callback runs."""

    def bad(observer: Any) -> None:
        observer.observe(1)
        raise error

    failed, good = Runner().run(callbacks(Provider(), bad, observe(6)), seconds=20)

    assert isinstance(failed.error, error)
    assert ([1.0], [6.0]) == (values(failed), values(good))


def test_no_thread_is_left() -> None:
    """A run leaves no thread behind when nothing hangs."""
    before = set(threading.enumerate())
    Runner().run(callbacks(Provider(), observe(5), observe(6)), seconds=20)

    assert set(threading.enumerate()) <= before


def test_a_forked_child_begins_anew(hanging: Hanging) -> None:
    """What runs, runs in the parent: the child starts it for itself."""
    runner = Runner()
    wanted = callbacks(Provider(), hanging, timeout=0.1)
    runner.run(wanted, seconds=20)
    pid = os.fork()
    if not pid:
        hanging.go = threading.Event()
        hanging.go.set()
        runner.reset()
        (run,) = runner.run(wanted, seconds=20)
        os._exit(0 if values(run) == [1.0] else 1)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_nobody_is_at_work_in_a_forked_child(
    hanging: Hanging, child: Callable[[Callable[[], object]], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a thread that the system gives the identity of the parent's thread that is."""
    at_work: dict[int, int | None] = {}

    def note(_: object) -> None:
        at_work[threading.get_ident()] = at_work_for()

    Runner().run(callbacks(Provider(), note, hanging, timeout=0.1), seconds=20)
    (identity,) = at_work
    assert threading.get_ident() == at_work[identity]

    def look() -> None:
        monkeypatch.setattr(threading, "get_ident", lambda: identity)
        assert at_work_for() is None

    child(look)


def test_a_callback_that_forks_ends_well_in_its_child() -> None:
    """Nobody waits for it there, and its thread ends like any other."""
    reader, writer = os.pipe()
    pids = []

    def forking(_: object) -> None:
        pid = os.fork()
        if pid:
            pids.append(pid)
        else:
            threading.excepthook = lambda args: os.write(writer, repr(args).encode())
            os.write(writer, repr(at_work_for()).encode())

    Runner().run(callbacks(Provider(), forking), seconds=20)
    os.close(writer)
    with os.fdopen(reader) as said:
        assert "None" == said.read()
    assert 0 == os.waitpid(pids[0], 0)[1]


def in_child(suspects: CrashedCallbacks, wanted: list[Callback]) -> int:
    """Run callbacks in a forked process that takes the notes over; its exit status."""
    pid = os.fork()
    if not pid:
        suspects.take_over()
        runs = Runner(watch=suspects).run(wanted, seconds=20)
        os._exit(10 + sum(run.is_complete for run in runs))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_callback_that_ends_the_process() -> None:
    """Twice in a row, and it is left out; the others run again."""
    suspects = CrashedCallbacks()
    wanted = callbacks(Provider(), observe(5), lambda _: os._exit(3), observe(6))

    assert [3, 3, 12, 12] == [in_child(suspects, wanted) for _ in range(4)]


def test_once_in_a_while_is_forgiven() -> None:
    """A callback that came to an end in between was not the one, or is better now."""
    suspects = CrashedCallbacks()
    fate = [False]
    wanted = callbacks(Provider(), lambda _: os._exit(3) if fate[0] else None)
    seen = []
    for dies in (True, False, True, False, True, True, False):
        fate[0] = dies
        seen.append(in_child(suspects, wanted))

    assert [3, 11, 3, 11, 3, 3, 10] == seen
