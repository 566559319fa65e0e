"""What is queued behind an operation that takes its time: all of it is carried out, in order, and can be waited for."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics._cells import Guard
from mpmetrics.drivers.stop import Stop
from mpmetrics.storage.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Callable

MANY = 400_000


def test_a_long_queue_is_carried_out_in_proportion_to_its_length() -> None:
    """What hundreds of thousands of uses left behind a wait for the store does not hold the process up for minutes."""
    guard = Guard()
    done: list[int] = []

    def slow(_: object) -> None:
        for number in range(MANY):
            guard.run(done.append, number)

    begin = time.monotonic()
    guard.run(slow, None)

    assert list(range(MANY)) == done
    assert time.monotonic() - begin < 20  # it takes a fraction of a second; cut off one by one, a minute


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of several, one can be raised
def test_operations_queued_by_operations_that_fail_and_fork_are_carried_out_once() -> None:
    """However the queue is cut and refilled while it is carried out, each entry is carried out once and in order."""
    guard = Guard()
    done: list[int] = []
    made = 0

    def more(number: int) -> None:
        nonlocal made
        done.append(number)
        for _ in range(number % 4):
            if made < 5000:
                made += 1
                guard.run(more, made)
        if number % 7 == 3:
            raise ZeroDivisionError

    for _ in range(2000):
        made += 1
        with_error(functools.partial(guard.run, more, made))
    while len(done) < made:
        before = len(done)
        with_error(guard.drain)
        assert len(done) > before

    assert sorted(done) == list(range(1, made + 1))
    guard.reset()
    guard.run(done.append, -1)
    assert -1 == done[-1]


def with_error(action: Callable[[], object]) -> None:
    """What an operation raises, whoever has carried it out is told."""
    with contextlib.suppress(ZeroDivisionError):
        action()


@pytest.mark.parametrize("is_naive", [False, True], ids=["as it is", "control"])
def test_a_flush_waits_for_the_thread_that_is_at_it(
    shared: mpmetrics.Provider, monkeypatch: pytest.MonkeyPatch, *, is_naive: bool
) -> None:
    """While the process's own thread moves values in, a flush returns once they are there; else they may be nowhere."""
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=shared)
    inside, go_on = threading.Event(), threading.Event()
    move_in = Memory._move_in

    def pause(self: Memory, *arguments: Any) -> None:
        if self is shared.memory and threading.current_thread() is not threading.main_thread():
            inside.set()
            assert go_on.wait(20)
        move_in(self, *arguments)

    monkeypatch.setattr(Memory, "_move_in", pause)
    if is_naive:
        monkeypatch.setattr(type(shared.memory.guard), "settle", lambda *_: True)
    lock = os.open(f"{shared.epoch.path}/series.lock", os.O_RDWR)  # type: ignore[union-attr]
    fcntl.flock(lock, fcntl.LOCK_EX)
    hits.labels("new").inc()
    os.close(lock)
    assert inside.wait(20)
    if not is_naive:  # which has to return while the other thread is at it, however long that takes
        threading.Timer(0.2, go_on.set).start()
    shared.force_flush()

    assert is_naive == bool(list(shared.memory.private_values()))
    go_on.set()


def test_a_driver_is_stopped_by_a_handler_that_interrupts_its_wait(in_child: Callable[..., Any]) -> None:
    """The handler sets what the thread that it interrupted waits for, at any point of that wait: thousands of times."""

    def act() -> int:
        stop = Stop()
        waits = 0

        def interrupt(*_: object) -> None:
            stop.set()

        signal.signal(signal.SIGALRM, interrupt)
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            stop = Stop()
            signal.setitimer(signal.ITIMER_REAL, 0.00005)
            while not stop.wait(0.00001):
                pass
            assert stop.is_set()
            waits += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert not Stop().wait(0.01)
        return waits

    assert in_child(act) > 100
