"""Runs callbacks one after another on a thread of their own, each with a deadline.

The caller waits for that thread. When a callback passes its deadline, the caller abandons the thread and starts
another one for the remaining callbacks. A late callback is not started again while it still runs. A coroutine is
cancelled at its deadline instead. Only the thread of a callback that hangs outlives a run, so a process that forks
between runs has no thread of ours.

The time of all callbacks together is bounded, too. Each callback gets at most half of the time that is left, the last
one all of it, so slow callbacks cannot take all the time of those behind them.
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
    """The threads of this process that run callbacks, and for each the thread that waits for it."""

    def __init__(self) -> None:
        self.callers: dict[int, int] = {}
        fork.register(self)

    def after_fork_in_child(self) -> None:
        """Forget them: they run in the parent, and the next new thread here is likely to get the ident of one."""
        self.callers = {}


_at_work = _AtWork()


def at_work_for() -> int | None:
    """Return the ident of the thread that waits for the callback that calls this; None outside of callbacks."""
    return _at_work.callers.get(threading.get_ident())


class Watch(Protocol):
    """Is told which callbacks run, so that a callback that ends its process can be identified afterwards."""

    def is_suspended(self, name: str) -> bool:
        """True if this callback must not run."""

    def began(self, name: str) -> None:
        """The callback is about to run."""

    def ended(self, name: str) -> None:
        """The callback has returned or raised."""


class Run:
    """One run of a callback: its observations, its duration in seconds, and its error, if any."""

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.observations = Observations(callback)
        self.error: BaseException | None = None
        self.timed_out = False
        self.is_suspended = False
        self.seconds = 0.0
        self.finished_at: float | None = None
        """Time on the runner's clock; None until then."""
        self.is_counted = False
        """True once the self-metrics have counted this run, which later collections may use again."""

    @property
    def is_complete(self) -> bool:
        """True if the callback returned or raised in time, so its observations are all that it has to report."""
        return not self.timed_out and not self.is_suspended

    def leave(self) -> None:
        """Give up on the run, which is past its deadline: later observations are ignored."""
        self.timed_out = True
        self.observations.is_closed = True

    def execute(self, seconds: float) -> None:
        """Call the function on this thread; a coroutine in an event loop of its own, for at most ``seconds``."""
        try:
            _call(self.callback, observer_of(self.callback, self.observations), seconds)
        except _LateError:
            self.leave()
        except BaseException as error:  # noqa: BLE001 (it must not end the thread that runs the others)
            self.error = error


def _call(callback: Callback, observer: Observer, seconds: float) -> None:
    said = callback.function(observer)
    if isinstance(said, (Awaitable, AsyncIterator)):
        asyncio.run(_consume(said, observer, seconds))
    elif isinstance(said, Iterable) and not isinstance(said, (str, bytes)):
        for item in said:
            observer.take(item)
    elif said is not None:
        msg = f"a callback must report with observer.observe(...) or by yielding, not return {said!r}"
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
    """Runs callbacks for one caller at a time. ``watch`` is told which callback runs."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, watch: Watch | None = None) -> None:
        self._clock = clock
        self.watch = watch
        self._latest: dict[Callback, Run] = {}
        self._running: dict[Callback, Run] = {}

    def run(self, callbacks: Sequence[Callback], seconds: float, max_age: float = 0.0) -> list[Run]:
        """Run ``callbacks`` within ``seconds``; return a run for each, in their order.

        A complete run that ended less than the callback's ``max_age`` seconds ago is returned again; ``max_age`` here
        is for callbacks that have none.
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
        """True if a callback must not be started: its last run has not ended, or it is suspended."""
        if run.callback in self._running:
            run.leave()
            run.callback.warn("running", "still runs since an earlier collection, so it is not started again")
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
        """In a forked child: forget all runs, which are the parent's."""
        self._latest = {}
        self._running = {}


class _Lane:
    """One thread that carries out runs in order, until a run passes its deadline and the caller abandons the thread."""

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
        """Start the thread and wait. Return the runs that are left: none, or those behind a run that is too late."""
        self._advance()
        thread = threading.Thread(target=self._work, name="mpmetrics-callbacks", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no thread for us
            for run in self._runs:
                run.error = error
            return ()
        while True:
            if self._finished.wait(max(0.0, self._deadline - self._clock())):
                thread.join()  # it is about to end
                return ()
            with self._lock:
                if not self._finished.is_set() and self._clock() >= self._deadline:
                    self._is_left = True
                    self._runs[self._current].leave()
                    return self._runs[self._current + 1 :]

    def _advance(self) -> bool:
        """Make the next run the current one and set its deadline; False if no run is left."""
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
            _at_work.callers.pop(me, None)  # already gone in a child that the callback forked

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
