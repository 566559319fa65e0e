"""Deadlines: a late callback is abandoned, the others run in time, and no callback runs twice at the same time."""

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
    """A callback that waits until it is released, and then observes 1; ``started`` and ``ended`` count its calls."""

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
    """A hanging callback that is released at the end of the test, if not before."""
    made = Hanging()
    yield made
    made.go.set()


def callbacks(provider: Provider, *functions: Callable[[Any], object], **options: Any) -> list[Callback]:
    """Make these functions the callbacks of gauges named ``g0``, ``g1``, ..."""
    meter = provider.meter("test")
    for number, function in enumerate(functions):
        meter.observable_gauge(f"g{number}", callback=function, **options)
    return provider.callbacks.of("host")


def values(run: Run) -> list[float]:
    """Return the values that a run observed."""
    return [value for _, _, value in run.observations.taken]


def observe(value: float) -> Callable[[Any], object]:
    """Return a callback that observes a value."""
    return lambda observer: observer.observe(value)


def test_a_late_callback_is_abandoned(hanging: Hanging) -> None:
    """The callbacks behind it run, and nothing that it observes counts, also later."""
    runner = Runner()
    first, late, last = runner.run(callbacks(Provider(), observe(5), hanging, observe(6), timeout=0.2), seconds=20)

    assert [5.0] == values(first)
    assert [6.0] == values(last)
    assert (True, False) == (late.timed_out, late.is_complete)
    hanging.go.set()
    assert hanging.ended.acquire(timeout=10)
    assert [] == values(late)


def test_a_callback_that_still_runs_is_not_started_again(hanging: Hanging) -> None:
    """While it still runs it is not started again, and costs no time; after its end it is started again."""
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
    """A delta that is too late for its collection is still added to the stored total."""
    provider = Provider()
    counter = provider.meter("test").observable_counter("c", callback=hanging, temporality="delta", timeout=0.1)
    (run,) = Runner().run(provider.callbacks.of("host"), seconds=20)
    assert [] == values(run)
    hanging.go.set()
    assert hanging.ended.acquire(timeout=10)

    snapshot = EpochReader(None, provider.memory).snapshot()
    assert [1.0] == list(Merger(snapshot.shapes["c"][0], snapshot.columns).sums())
    assert "c" == counter.name


def test_several_late_callbacks(hanging: Hanging) -> None:
    """When several hang, the others still have time to run: each gets at most half of the time that is left."""
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
    """A coroutine is cancelled at its deadline; a TimeoutError of its own is an ordinary error."""
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
def test_any_exception_of_a_callback(error: type[BaseException]) -> None:
    """The exception is kept in the run, earlier observations count, and the next callback runs."""

    def bad(observer: Any) -> None:
        observer.observe(1)
        raise error

    failed, good = Runner().run(callbacks(Provider(), bad, observe(6)), seconds=20)

    assert isinstance(failed.error, error)
    assert ([1.0], [6.0]) == (values(failed), values(good))


def test_no_thread_is_left() -> None:
    """A run leaves no thread behind if no callback hangs."""
    before = set(threading.enumerate())
    Runner().run(callbacks(Provider(), observe(5), observe(6)), seconds=20)

    assert set(threading.enumerate()) <= before


def test_a_forked_child_has_no_running_callback(hanging: Hanging) -> None:
    """A callback that runs in the parent can be started in the child."""
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


def test_no_thread_runs_callbacks_in_a_forked_child(
    hanging: Hanging, child: Callable[[Callable[[], object]], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a new thread that gets the ident of a thread which runs callbacks in the parent."""
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


def test_a_callback_that_forks() -> None:
    """In the child, the callback's thread ends without an error, although no caller waits for it."""
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


def in_child(crashed: CrashedCallbacks, wanted: list[Callback]) -> int:
    """Run callbacks in a forked process that takes the notes over; return its exit status."""
    pid = os.fork()
    if not pid:
        crashed.take_over()
        runs = Runner(watch=crashed).run(wanted, seconds=20)
        os._exit(10 + sum(run.is_complete for run in runs))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_callback_that_ends_the_process() -> None:
    """After two deaths in a row during one callback, it is suspended, and the others run."""
    crashed = CrashedCallbacks()
    wanted = callbacks(Provider(), observe(5), lambda _: os._exit(3), observe(6))

    assert [3, 3, 12, 12] == [in_child(crashed, wanted) for _ in range(4)]


def test_a_callback_that_ended_in_between_is_not_suspended() -> None:
    """Two deaths during a callback that returned in between do not suspend it."""
    crashed = CrashedCallbacks()
    fate = [False]
    wanted = callbacks(Provider(), lambda _: os._exit(3) if fate[0] else None)
    seen = []
    for dies in (True, False, True, False, True, True, False):
        fate[0] = dies
        seen.append(in_child(crashed, wanted))

    assert [3, 11, 3, 11, 3, 3, 10] == seen
