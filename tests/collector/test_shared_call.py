"""SharedCall: one run serves all simultaneous callers, and no caller gets a run that began before its call."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import pytest

from mpmetrics.collector.shared_call import SharedCall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Stage:
    """A function each run of which waits until it is released, and that records when each run began and ended."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.runs = 0
        self.at_once = 0
        self.most_at_once = 0
        self.failing: deque[BaseException | None] = deque()

    def __call__(self) -> int:
        """Wait until it is released; return the number of this run."""
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
    """Threads that call, their results, and which of them had to wait."""

    def __init__(self, stage: Stage) -> None:
        self.call = SharedCall(stage, stage, sleep=self.sleep)
        self.waited: set[threading.Thread] = set()
        self.given: dict[str, object] = {}
        self.threads: dict[str, threading.Thread] = {}

    def ask(self, name: str) -> None:
        """Call on a new thread."""

        def run() -> None:
            try:
                self.given[name] = self.call()
            except ZeroDivisionError as error:
                self.given[name] = error

        self.threads[name] = threading.Thread(target=run, daemon=True)
        self.threads[name].start()

    def sleep(self, seconds: float) -> None:
        """Record that a caller waits: it sleeps between two looks at a run."""
        self.waited.add(threading.current_thread())
        time.sleep(seconds)

    def wait_in_line(self, *names: str) -> None:
        """Return once all these callers wait for a run."""
        deadline = time.monotonic() + 20
        while not self.waited.issuperset(self.threads[name] for name in names):
            assert time.monotonic() < deadline, "the callers do not wait"
            time.sleep(0.001)

    def join(self) -> None:
        """Wait until all calls have returned."""
        for thread in self.threads.values():
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def stage() -> Iterator[Stage]:
    """The function; runs that still wait at the end of the test are released."""
    made = Stage()
    yield made
    made.go.release(100)


@pytest.fixture
def callers(stage: Stage) -> Callers:
    """The callers of the function."""
    return Callers(stage)


def test_alone(stage: Stage) -> None:
    """Without other callers, each call makes a run."""
    stage.go.release(3)
    call = SharedCall(stage, stage)

    assert [1, 2, 3] == [call(), call(), call()]


def test_all_callers_during_a_run_share_the_next(stage: Stage, callers: Callers) -> None:
    """Nine callers during a run make one more run, not nine, and none of them gets the earlier run."""
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


def test_a_caller_during_the_shared_run_waits_for_another(stage: Stage, callers: Callers) -> None:
    """A caller during the run that earlier callers share gets the run after it."""
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
    """The caller that ran the function gets its exception; the waiting callers run it again and get a result."""
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
    """If several runs fail in a row, each caller gets an error or a result that is new enough, and none hangs."""
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
    """After an error, also one raised by a signal handler, the next call works."""
    stage.failing.extend([ZeroDivisionError(), KeyboardInterrupt()])
    stage.go.release(3)
    call = SharedCall(stage, stage)
    with pytest.raises(ZeroDivisionError):
        call()
    with pytest.raises(KeyboardInterrupt):
        call()

    assert 3 == call()


def test_reset_in_a_child_of_a_busy_parent(stage: Stage, callers: Callers) -> None:
    """After a reset, a call runs the function, although a run was in progress in the parent."""
    callers.ask("first")
    assert stage.begun.acquire(timeout=20)
    callers.call.reset()
    stage.go.release(2)

    assert 2 == callers.call()
    callers.join()


def test_no_result_is_older_than_its_call() -> None:
    """With many threads at full speed, no result comes from a run before its call, as a plain cache would return."""

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
