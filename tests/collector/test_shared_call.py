"""One run for all who ask at the same time, and nobody is given what was begun before the question."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from mpmetrics.collector import shared_call
from mpmetrics.collector.shared_call import SharedCall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Stage:
    """A function whose every run is held until it is let go, and that says when each run began and ended."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.runs = 0
        self.at_once = 0
        self.most_at_once = 0
        self.failing: deque[BaseException | None] = deque()

    def __call__(self) -> int:
        """Run once it is let go; which run it was."""
        self.runs += 1
        number = self.runs
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.begun.release()
        assert self.go.acquire(timeout=20)
        self.at_once -= 1
        error = self.failing.popleft() if self.failing else None
        if error is not None:
            raise error
        return number


class Callers:
    """Threads that ask, what they were given, and which of them had to wait for it."""

    def __init__(self, call: SharedCall[int]) -> None:
        self.call = call
        self.waited: set[threading.Thread] = set()
        self.given: dict[str, object] = {}
        self.threads: dict[str, threading.Thread] = {}

    def ask(self, name: str) -> None:
        """Ask on a thread of its own."""

        def run() -> None:
            try:
                self.given[name] = self.call()
            except ZeroDivisionError as error:
                self.given[name] = error

        self.threads[name] = threading.Thread(target=run, daemon=True)
        self.threads[name].start()

    def sleep(self, seconds: float) -> None:
        """What a caller does between two looks at a run that goes on."""
        self.waited.add(threading.current_thread())
        time.sleep(seconds)

    def wait_in_line(self, *names: str) -> None:
        """Return once these callers wait for a run that goes on."""
        deadline = time.monotonic() + 20
        while not self.waited.issuperset(self.threads[name] for name in names):
            assert time.monotonic() < deadline, "the callers do not wait"
            time.sleep(0.001)

    def join(self) -> None:
        """Wait until all were answered."""
        for thread in self.threads.values():
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def stage() -> Iterator[Stage]:
    """The function; whatever is left of its runs is let go at the end."""
    made = Stage()
    yield made
    made.go.release(100)


@pytest.fixture
def callers(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Callers:
    """Those who ask for it."""
    made = Callers(SharedCall(stage, stage))
    monkeypatch.setattr(shared_call, "time", SimpleNamespace(monotonic=time.monotonic, sleep=made.sleep))
    return made


def test_alone(stage: Stage) -> None:
    """Calls one after another are runs one after another."""
    stage.go.release(3)
    call = SharedCall(stage, stage)

    assert [1, 2, 3] == [call(), call(), call()]


def test_all_who_ask_during_a_run_share_the_next(stage: Stage, callers: Callers) -> None:
    """Nine callers during a run make one run more, not nine, and none of them is given the run before."""
    callers.ask("first")
    assert stage.begun.acquire(timeout=20)
    later = [f"later {number}" for number in range(9)]
    for name in later:
        callers.ask(name)
    callers.wait_in_line(*later)
    stage.go.release()
    assert stage.begun.acquire(timeout=20)
    stage.go.release()
    callers.join()

    assert 1 == callers.given.pop("first")
    assert {2} == set(callers.given.values())
    assert 9 == len(callers.given)
    assert (2, 1) == (stage.runs, stage.most_at_once)


def test_who_asks_during_the_shared_run_waits_for_another(stage: Stage, callers: Callers) -> None:
    """A run that is shared by those who asked before it is too old for who asks while it goes on."""
    callers.ask("first")
    assert stage.begun.acquire(timeout=20)
    callers.ask("second")
    callers.wait_in_line("second")
    stage.go.release()
    assert stage.begun.acquire(timeout=20)
    callers.ask("third")
    callers.wait_in_line("third")
    stage.go.release(2)
    callers.join()

    assert {"first": 1, "second": 2, "third": 3} == callers.given


def test_an_error_is_the_runners_own(stage: Stage, callers: Callers) -> None:
    """Who ran the function gets its exception; those who waited run it again and get a result."""
    error = ZeroDivisionError()
    stage.failing.append(error)
    callers.ask("first")
    assert stage.begun.acquire(timeout=20)
    later = [f"later {number}" for number in range(3)]
    for name in later:
        callers.ask(name)
    callers.wait_in_line(*later)
    stage.go.release(5)
    callers.join()

    assert error is callers.given.pop("first")
    assert {2} == set(callers.given.values())


def test_errors_in_a_row(stage: Stage, callers: Callers) -> None:
    """However many runs fail, each caller gets an answer, an error or a result that is new enough, and none hangs."""
    stage.failing.extend(ZeroDivisionError() for _ in range(3))
    callers.ask("first")
    assert stage.begun.acquire(timeout=20)
    later = [f"later {number}" for number in range(5)]
    for name in later:
        callers.ask(name)
    callers.wait_in_line(*later)
    stage.go.release(10)
    callers.join()

    assert 6 == len(callers.given)
    results = [given for given in callers.given.values() if isinstance(given, int)]
    assert 3 == len(results)
    assert all(result >= 2 for result in results)


def test_works_again_after_an_error(stage: Stage) -> None:
    """An error leaves nothing behind, one of a signal handler included."""
    stage.failing.extend([ZeroDivisionError(), KeyboardInterrupt()])
    stage.go.release(3)
    call = SharedCall(stage, stage)
    with pytest.raises(ZeroDivisionError):
        call()
    with pytest.raises(KeyboardInterrupt):
        call()

    assert 3 == call()


def test_reset_in_a_child_of_a_busy_parent(stage: Stage, callers: Callers) -> None:
    """After a reset nobody is running: who asks then runs the function, although a run of the parent was going on."""
    callers.ask("first")
    assert stage.begun.acquire(timeout=20)
    callers.call.reset()
    stage.go.release(2)

    assert 2 == callers.call()
    callers.join()


def test_never_older_than_the_question() -> None:
    """With many threads at full speed, no result began before its question; a plain cache would give such ones."""

    def oldest(make: Callable[[Callable[[], int]], Callable[[], int]]) -> int:
        lock = threading.Lock()
        clock = 0
        early = 0

        def now() -> int:
            nonlocal clock
            with lock:
                clock += 1
                return clock

        call = make(now)

        def ask() -> None:
            nonlocal early
            for _ in range(300):
                asked = now()
                result = call()
                with lock:
                    early += result < asked

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return early

    def cached(function: Callable[[], int]) -> Callable[[], int]:
        first = function()
        return lambda: first

    assert 0 == oldest(lambda function: SharedCall(function, function))
    assert oldest(cached) > 0
