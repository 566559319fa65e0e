"""The pure-Python twin of the hot words; see the package for the contract.

Why the guard never waits: a lock that is waited for deadlocks when a signal handler or a finaliser interrupts its
holder on the same thread, and a re-entrant lock lets the handler's addition fall between the load and the store of the
one it interrupted, which then is lost. So an operation tries the lock once. Taken: it goes to the end of a queue, and
the holder, who looks at the queue after giving the lock back, carries it out.

An exception that a signal handler raises just between taking the lock and the ``try`` leaves the lock taken for ever.
Operations then pile up in the queue; once the oldest has waited for a second the lock is taken for abandoned and
replaced. Rejected: ``with`` on a re-entrant lock and a busy flag, which closes that gap but costs 100 ns more.

Every store to ``words`` is one aligned 8-byte store: ``memoryview.cast("d")`` copies an item as a whole.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from mpmetrics._cells.amount import as_number
from mpmetrics._cells.exemplars import say_not_kept
from mpmetrics._cells.unraisable import Unraisable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CounterCell", "DistributionCell", "GaugeCell", "Guard", "RecentCell", "Segment", "Words"]

ABANDONED_AFTER = 1.0
"""Seconds that a lock may be held, over a handful of bytecodes, before it counts as abandoned."""


class Words(Protocol):
    """Words of 8 bytes: a ``memoryview`` of format ``d``, or what stands in for one before the slab is leased."""

    def __getitem__(self, index: int, /) -> float:
        """Load a word."""

    def __setitem__(self, index: int, value: float, /) -> None:
        """Store a word."""


class Segment:
    """A run of words that cells write to; ``words`` is replaced by the segment's owner only."""

    __slots__ = ("words",)

    def __init__(self, words: Words) -> None:
        self.words = words


class Guard:
    """Makes operations on cells atomic within a process, without ever waiting."""

    __slots__ = ("_stalled", "is_slow", "lock", "queue")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.queue: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._stalled: tuple[object, float] | None = None
        self.is_slow = False
        """Set by the holder for as long as its operation may take its time: it waits for a lock or a disk."""

    def run(self, operation: Callable[[Any], object], argument: Any) -> None:
        """Carry out ``operation(argument)`` alone: now, or by whoever holds the guard as soon as it lets go."""
        self.queue.append((operation, argument))
        self.drain()

    def settle(self, seconds: float = 0.1) -> bool:
        """Wait, at most so long, until all operations that were queued before have been carried out; whether they were.

        Not for the hot path, and not for whoever may have interrupted an operation.
        """
        # Not an Event: a signal handler that interrupts its wait, and then sets it, would wait for itself.
        done: list[None] = []
        self.run(done.append, None)
        deadline = time.monotonic() + seconds
        while not done and time.monotonic() < deadline:
            time.sleep(0.0002)
        return bool(done)

    def drain(self) -> None:
        """Carry out what is queued, unless another holder is going to.

        An operation that raises does not keep the others from being carried out: what the first one raised is raised
        in the end, what others raise goes to ``sys.unraisablehook``.
        """
        queue = self.queue
        raised: BaseException | None = None
        while queue and queue is self.queue:  # which a forked child begins anew: its parent's goes on in the parent
            lock = self.lock
            if not lock.acquire(False):
                self._watch(lock)
                break
            try:
                self._stalled = None
                while queue and queue is self.queue:
                    try:
                        operation, argument = queue.popleft()
                    except IndexError:  # emptied by a thread that took this lock for abandoned
                        break
                    try:
                        operation(argument)
                    except BaseException as error:  # noqa: BLE001 (raised below)
                        if raised is None:
                            raised = error
                        else:
                            Unraisable(error)
            finally:
                lock.release()
        if raised is not None:
            raise raised

    def _watch(self, lock: threading.Lock) -> None:
        """Replace the lock if it has been held, with the queue waiting, for longer than any operation takes."""
        stalled = self._stalled
        if stalled is None or stalled[0] is not lock or self.is_slow:
            self._stalled = (lock, time.monotonic())
        elif time.monotonic() - stalled[1] > ABANDONED_AFTER and self.lock is lock:
            self.lock = threading.Lock()
            self._stalled = None
            self.drain()

    def reset(self) -> None:
        """In a forked child: a fresh lock, and none of the parent's queue, which the parent carries out."""
        self.lock = threading.Lock()
        self.queue = deque()
        self._stalled = None
        self.is_slow = False


class _Cell:
    __slots__ = ("_guard", "_index", "_name", "_segment")

    def __init__(self, guard: Guard, segment: Segment, index: int, name: str = "") -> None:
        self._name = name
        self._guard = guard
        self._segment = segment
        self._index = index

    def place(self, segment: Segment, index: int) -> None:
        """Have all later writes go to the words at ``index`` of ``segment``. Call it under the guard."""
        self._segment = segment
        self._index = index


class CounterCell(_Cell):
    """One word that only grows."""

    __slots__ = ()

    def inc(self, amount: float = 1, exemplar: object = None) -> None:
        """Add ``amount``. Safe from any thread, signal handler or finaliser.

        Raises ValueError when it is negative or not a number; the value is unchanged then. ``exemplar`` is accepted
        for compatibility and not kept, which is said once in the log.
        """
        if exemplar is not None:
            say_not_kept()
        if amount.__class__ is not int and amount.__class__ is not float:
            amount = as_number(amount)
        if not amount >= 0:
            msg = f"counter {self._name!r} can only go up: it cannot be increased by {amount!r}"
            raise ValueError(msg)
        guard = self._guard
        lock = guard.lock
        if lock.acquire(False):
            try:
                self._segment.words[self._index] += amount
            finally:
                lock.release()
            if guard.queue:
                guard.drain()
        else:
            guard.run(self._add, float(amount))

    def _add(self, amount: float) -> None:
        self._segment.words[self._index] += amount


class GaugeCell(_Cell):
    """One word that goes up and down; all bits zero mean that it was never set, so zero is stored as -0.0."""

    __slots__ = ()

    def inc(self, amount: float = 1) -> None:
        """Add ``amount``. Safe from any thread, signal handler or finaliser."""
        if amount.__class__ is not int and amount.__class__ is not float:
            amount = as_number(amount)
        guard = self._guard
        lock = guard.lock
        if lock.acquire(False):
            try:
                words, index = self._segment.words, self._index
                words[index] = (words[index] + amount) or -0.0
            finally:
                lock.release()
            if guard.queue:
                guard.drain()
        else:
            guard.run(self._add, float(amount))

    def dec(self, amount: float = 1) -> None:
        """Subtract ``amount``. Safe from any thread, signal handler or finaliser."""
        self.inc(-as_number(amount))

    def set(self, value: float) -> None:
        """Set the value. Safe from any thread, signal handler or finaliser."""
        value = float(value) or -0.0
        guard = self._guard
        lock = guard.lock
        if lock.acquire(False):
            try:
                self._segment.words[self._index] = value
            finally:
                lock.release()
            if guard.queue:
                guard.drain()
        else:
            guard.run(self._set, value)

    def unset(self) -> None:
        """Be as if it had never been set."""
        self._guard.run(self._set, 0.0)

    def _add(self, amount: float) -> None:
        words, index = self._segment.words, self._index
        words[index] = (words[index] + amount) or -0.0

    def _set(self, value: float) -> None:
        self._segment.words[self._index] = value


class RecentCell(_Cell):
    """A value and the time it was set, in two copies of which the later counts."""

    __slots__ = ()

    def set(self, value: float) -> None:
        """Set the value as of now. Safe from any thread, signal handler or finaliser."""
        self._guard.run(self._set, (float(value), time.time()))

    def _set(self, pair: tuple[float, float]) -> None:
        value, now = pair
        words, index = self._segment.words, self._index
        first, second = words[index + 1], words[index + 3]
        older = index if first <= second else index + 2
        # Times must grow for the copies to be told apart, whatever the clock does.
        latest = max(first, second)
        words[older] = value
        # The commit: with the later time this copy counts, until then the other one does.
        words[older + 1] = now if now > latest else _next_time(latest)

    def unset(self) -> None:
        """Be as if it had never been set."""
        self._guard.run(self._unset, None)

    def _unset(self, _: None) -> None:
        words, index = self._segment.words, self._index
        # The older copy first: while only the later one is left, it is the one that counts, as before.
        for at in sorted((index, index + 2), key=lambda at: words[at + 1]):
            words[at + 1] = 0.0


def _next_time(latest: float) -> float:
    return latest + 1e-6


class DistributionCell(_Cell):
    """Sum and buckets of observations: a histogram, or with one bucket a summary."""

    __slots__ = ("_bounds", "_counted", "_odd")

    def __init__(self, guard: Guard, segment: Segment, index: int, bounds: tuple[float, ...], name: str = "") -> None:
        super().__init__(guard, segment, index, name)
        self._bounds = bounds
        self._counted: Words | None = None
        self._odd = 0

    def observe(self, amount: float, exemplar: object = None) -> None:
        """Count ``amount`` in its bucket and add it to the sum. Safe from any thread, signal handler or finaliser.

        Raises ValueError when it is not a number; nothing is changed then. ``exemplar`` as in :class:`CounterCell`.
        """
        if exemplar is not None:
            say_not_kept()
        amount = float(amount)
        if amount != amount:  # noqa: PLR0124 (only NaN differs from itself; math.isnan costs a call)
            msg = f"{self._name!r} cannot observe {amount!r}, which is not a number: it belongs to no bucket"
            raise ValueError(msg)
        guard = self._guard
        lock = guard.lock
        if lock.acquire(False):
            try:
                self._observe(amount)
            finally:
                lock.release()
            if guard.queue:
                guard.drain()
        else:
            guard.run(self._observe, amount)

    def _observe(self, amount: float) -> None:
        words, index = self._segment.words, self._index
        bucket = index + 2 + bisect_left(self._bounds, amount)
        # Whether the number of observations is odd tells which of the two sums counts; see the format.
        odd = self._odd if words is self._counted else self._count_odd(words, index)
        self._counted = None
        words[index + 1 - odd] = words[index + odd] + amount
        # The commit: with one observation more, the other sum counts.
        words[bucket] += 1.0
        self._odd = 1 - odd
        self._counted = words

    def _count_odd(self, words: Words, index: int) -> int:
        """Count the observations, in words that this cell has not written to before."""
        return int(sum(words[position] for position in range(index + 2, index + 2 + len(self._bounds)))) & 1
