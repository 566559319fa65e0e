"""Runs callbacks: one after another, each with a deadline, on a thread of their own.

Who asks for a run watches that thread. When a callback is past its deadline, the thread is left to it, and another one
goes on with the callbacks behind it; the late one is not started again beside itself. Coroutines are cancelled at their
deadline instead. No thread outlives a run, except for a callback that hangs: a process that forks later has none.

A run as a whole is bounded, too: a callback gets at most half of the time that is left for all, unless it is the last
one, so that slow ones never keep those behind them from being run.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import TYPE_CHECKING, Protocol

from mpmetrics import fork
from mpmetrics.callbacks.observer import Observations, observer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpmetrics.callbacks.callback import Callback
    from mpmetrics.callbacks.observer import Observer

__all__ = ["Run", "Runner", "Watch", "at_work_for"]


class _AtWork:
    """The threads of this process that run callbacks, and who waits for each of them."""

    def __init__(self) -> None:
        self.callers: dict[int, int] = {}
        fork.register(self)

    def after_fork_in_child(self) -> None:
        """They are at work in the parent; here, the next new thread is likely to be known by what one of them was."""
        self.callers = {}


_at_work = _AtWork()


def at_work_for() -> int | None:
    """The thread that waits for the callback in which this is asked; None when this is in none."""
    return _at_work.callers.get(threading.get_ident())


class Watch(Protocol):
    """Is told which callbacks are running, so that one that ends its process can be found out."""

    def is_suspended(self, name: str) -> bool:
        """Whether this callback is not to be run."""

    def began(self, name: str) -> None:
        """It is about to run."""

    def ended(self, name: str) -> None:
        """It has returned or raised."""


class Run:
    """One run of a callback: what it observed, how long it took in seconds, and how it went wrong, if it did."""

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.observations = Observations(callback)
        self.error: BaseException | None = None
        self.timed_out = False
        self.is_suspended = False
        self.seconds = 0.0
        self.finished_at: float | None = None
        """On the runner's clock."""
        self.is_counted = False
        """Whether the figures have it: what is used again is not run again."""

    @property
    def is_complete(self) -> bool:
        """Whether what was observed is what the callback has to say: it returned, or raised, in time."""
        return not self.timed_out and not self.is_suspended

    def leave(self) -> None:
        """It is past its deadline: what it still observes comes too late."""
        self.timed_out = True
        self.observations.is_closed = True

    def execute(self, seconds: float) -> None:
        """Call the function, within a thread of its own; coroutines within an event loop of their own."""
        try:
            _call(self.callback, observer_of(self.callback, self.observations), seconds)
        except _LateError:
            self.leave()
        except BaseException as error:  # noqa: BLE001 (it may not end the thread that runs the others)
            self.error = error


def _call(callback: Callback, observer: Observer, seconds: float) -> None:
    said = callback.function(observer)
    if isinstance(said, (Awaitable, AsyncIterator)):
        asyncio.run(_consume(said, observer, seconds))
    elif isinstance(said, Iterable) and not isinstance(said, (str, bytes)):
        for item in said:
            observer.take(item)
    elif said is not None:
        msg = f"a callback reports with observer.observe(...) or yields, but this one returned {said!r}"
        raise TypeError(msg)


async def _consume(said: Awaitable[object] | AsyncIterator[object], observer: Observer, seconds: float) -> None:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            if isinstance(said, AsyncIterator):
                async for item in said:
                    observer.take(item)
            else:
                await said
    except TimeoutError as error:
        if limit.expired():
            raise _LateError from error
        raise


class _LateError(Exception):
    """A coroutine was cancelled at its deadline."""


def _name(run: Run) -> str:
    return f"callback {run.callback.name}"


class Runner:
    """Runs callbacks for one caller at a time. ``watch`` is told what is running."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, watch: Watch | None = None) -> None:
        self._clock = clock
        self.watch = watch
        self._latest: dict[Callback, Run] = {}
        self._running: dict[Callback, Run] = {}

    def run(self, callbacks: Sequence[Callback], seconds: float, max_age: float = 0.0) -> list[Run]:
        """Run ``callbacks`` within ``seconds``; one run for each, in their order.

        What a callback observed less than its ``max_age`` seconds ago is used again; ``max_age`` here is for those that
        say nothing about it.
        """
        end = self._clock() + seconds
        runs = [self._fresh(callback, max_age) or Run(callback) for callback in callbacks]
        due: Sequence[Run] = [run for run in runs if run.finished_at is None and not self._is_barred(run)]
        while due:
            lane = _Lane(due, end, self._clock, self._began, self._ended)
            due = lane.watch()
        wanted = set(callbacks)
        self._latest = {run.callback: run for run in runs if run.is_complete and run.callback in wanted}
        return runs

    def _fresh(self, callback: Callback, max_age: float) -> Run | None:
        latest = self._latest.get(callback)
        if latest is None or latest.finished_at is None or latest.error is not None:
            return None
        age = self._clock() - latest.finished_at
        return latest if age < (max_age if callback.max_age is None else callback.max_age) else None

    def _is_barred(self, run: Run) -> bool:
        """Whether a callback may not be started: it still runs, or is suspended."""
        if run.callback in self._running:
            run.leave()
            run.callback.warn(
                "running", "is still running since an earlier collection; not started again beside itself"
            )
        elif self.watch is not None and self.watch.is_suspended(_name(run)):
            run.is_suspended = True
        return run.timed_out or run.is_suspended

    def _began(self, run: Run) -> None:
        self._running[run.callback] = run
        if self.watch is not None:
            self.watch.began(_name(run))

    def _ended(self, run: Run) -> None:
        self._running.pop(run.callback, None)
        if self.watch is not None:
            self.watch.ended(_name(run))

    def reset(self) -> None:
        """In a forked child: what runs, runs in the parent."""
        self._latest = {}
        self._running = {}


class _Lane:
    """One thread and the runs that it carries out in order, until it is left to one that hangs."""

    def __init__(
        self,
        runs: Sequence[Run],
        end: float,
        clock: Callable[[], float],
        began: Callable[[Run], None],
        ended: Callable[[Run], None],
    ) -> None:
        self._runs = runs
        self._end = end
        self._clock = clock
        self._began = began
        self._ended = ended
        self._caller = threading.get_ident()
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._current = -1
        self._deadline = 0.0
        self._is_left = False

    def watch(self) -> Sequence[Run]:
        """Carry the runs out; returns when all have ended, or one is past its deadline: then those behind it."""
        self._advance()
        thread = threading.Thread(target=self._work, name="mpmetrics-callbacks", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system gives us no thread
            for run in self._runs:
                run.error = error
            return ()
        while True:
            if self._finished.wait(max(0.0, self._deadline - self._clock())):
                thread.join()  # it has nothing left to do
                return ()
            with self._lock:
                if not self._finished.is_set() and self._clock() >= self._deadline:
                    self._is_left = True
                    self._runs[self._current].leave()
                    return self._runs[self._current + 1 :]

    def _advance(self) -> bool:
        """Make the next run the current one; False when there is none."""
        self._current += 1
        if self._current == len(self._runs):
            self._finished.set()
            return False
        callback = self._runs[self._current].callback
        now = self._clock()
        left = max(0.0, self._end - now)
        share = left if self._current == len(self._runs) - 1 else left / 2
        self._deadline = now + min(callback.timeout, share)
        return True

    def _work(self) -> None:
        me = threading.get_ident()
        _at_work.callers[me] = self._caller
        try:
            self._carry_out()
        finally:
            _at_work.callers.pop(me, None)  # gone where a callback forked, and this is the child

    def _carry_out(self) -> None:
        going = True
        while going:
            run = self._runs[self._current]
            start = self._clock()
            self._began(run)
            run.execute(max(0.0, self._deadline - start))
            self._ended(run)
            with self._lock:
                run.finished_at = self._clock()
                run.seconds = run.finished_at - start
                going = not self._is_left and self._advance()
