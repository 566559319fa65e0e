"""The hot words in Python: exact among threads, signal handlers, finalisers and forks, and sound wherever they stop."""

from __future__ import annotations

import gc
import itertools
import math
import os
import random
import signal
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics import _cells
from mpmetrics._cells import DistributionCell, Guard, RecentCell, Segment, pure
from mpmetrics._cells.arithmetic import distribution_sum, is_set, latest

if TYPE_CHECKING:
    from collections.abc import Callable

BOUNDS = (1.0, 2.0, math.inf)


def heap(width: int) -> memoryview:
    """Fresh words, all zero."""
    return memoryview(bytearray(8 * width)).cast("d")


@pytest.fixture
def guard() -> Guard:
    """A guard of a process."""
    return Guard()


def cells(guard: Any) -> tuple[Any, Any, Any, Any]:
    """A counter at 0, a gauge at 1, and a distribution at 2, of the twin that the guard is of."""
    twin = pure if isinstance(guard, pure.Guard) else _cells
    segment = twin.Segment(heap(8))
    return (
        segment,
        twin.CounterCell(guard, segment, 0),
        twin.GaugeCell(guard, segment, 1),
        twin.DistributionCell(guard, segment, 2, BOUNDS),
    )


def test_threads_lose_nothing(guard: Guard) -> None:
    """Eight threads that all write to the same cells: every operation counts."""
    segment, counter, gauge, sizes = cells(guard)

    def work() -> None:
        for _ in range(20_000):
            counter.inc()
            gauge.inc(2)
            gauge.dec()
            sizes.observe(1.5)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    guard.drain()

    assert [160_000, 160_000] == list(segment.words[:2])
    assert [0, 160_000, 0] == list(segment.words[4:7])
    assert 240_000 == distribution_sum(segment.words[2:7])


class Interrupted:
    """Words that, whenever they are armed, run something once in the middle of an operation, after its next load."""

    def __init__(self, words: memoryview, interrupt: Callable[[], object]) -> None:
        self._words = words
        self._interrupt = interrupt
        self.armed = True

    def __getitem__(self, index: int) -> float:
        value: float = self._words[index]
        if self.armed:
            self.armed = False
            self._interrupt()
        return value

    def __setitem__(self, index: int, value: float) -> None:
        self._words[index] = value


def test_an_increment_within_an_increment_counts(guard: Guard) -> None:
    """What interrupts an operation between its load and its store, on the same thread, is done right after it."""
    segment, counter, gauge, sizes = cells(guard)
    words = segment.words
    interrupted = Interrupted(words, lambda: (counter.inc(10), gauge.inc(10), sizes.observe(1.5)))
    segment.words = interrupted

    for _ in range(3):
        for act in (counter.inc, gauge.inc, lambda: sizes.observe(0.5)):
            interrupted.armed = True
            act()
            assert not interrupted.armed

    assert [3 + 9 * 10] * 2 == list(words[:2])
    assert [3, 9, 0] == list(words[4:7])
    assert 3 * 0.5 + 9 * 1.5 == distribution_sum(words[2:7])


def test_without_the_queue_an_interrupted_increment_would_be_lost(guard: Guard) -> None:
    """The control: the same interruption, straight into the words, is overwritten."""
    segment, counter, _, _ = cells(guard)
    words = segment.words

    def straight() -> None:
        words[0] += 10

    segment.words = Interrupted(words, straight)
    counter.inc()

    assert 1 == words[0]


def storm(setting: str) -> tuple[float, ...]:
    """Interrupt a loop of operations with the same operations, by signals or collections, for a second and a half."""
    guard = Guard()
    segment, counter, gauge, sizes = cells(guard)
    interruptions = 0

    def interrupt(*_: object) -> None:
        nonlocal interruptions
        interruptions += 1
        counter.inc()
        gauge.inc()
        sizes.observe(1.5)

    class Dying:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            interrupt()

    if setting == "signal":
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    elif setting == "collection":
        gc.set_threshold(5, 2, 2)
        gc.callbacks.append(lambda phase, _: interrupt() if phase == "start" else None)
    else:
        gc.set_threshold(5, 2, 2)
    own = 0
    kept: list[object] = []
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        counter.inc()
        gauge.inc()
        sizes.observe(1.5)
        own += 1
        if setting != "signal":
            kept.append([Dying() if setting == "finaliser" else None])
            if len(kept) > 100:
                kept.clear()
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.callbacks.clear()
    gc.collect()
    guard.drain()
    words = segment.words
    return (own, interruptions, words[0], words[1], words[5], distribution_sum(words[2:7]))


@pytest.mark.parametrize("setting", ["signal", "collection", "finaliser"])
def test_a_storm_of_interruptions_loses_nothing(setting: str, in_child: Callable[..., Any]) -> None:
    """Signal handlers, collection callbacks and finalisers that write to the same cells neither hang nor lose."""
    own, interruptions, *counted, observed = in_child(storm, setting)

    assert interruptions > 100
    assert [own + interruptions] * 3 == counted
    assert 1.5 * (own + interruptions) == observed


class Stop(Exception):  # noqa: N818 (not an error)
    """Raised by a signal handler."""


def raising_storm(guard: Any) -> dict[str, Any]:
    """Write to cells while a signal handler raises; beside it a thread that does the same undisturbed."""
    segment, counter, _, sizes = cells(guard)
    others, other_counter, _, other_sizes = cells(guard)
    begun = done = hits = others_done = 0
    is_caught = is_over = False

    def interrupt(*_: object) -> None:
        if is_caught:
            raise Stop

    def work() -> None:
        nonlocal others_done
        while not is_over:
            other_counter.inc()
            other_sizes.observe(1.5)
            others_done += 1

    signal.signal(signal.SIGALRM, interrupt)
    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        try:
            is_caught = True
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.0005))
            for _ in range(10_000):  # not for ever: raised within a finaliser, the exception goes no further
                begun += 1
                counter.inc()
                sizes.observe(1.5)
                done += 1
            is_caught = False
        except Stop:
            is_caught = False
            hits += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    is_over = True
    thread.join()
    queued = len(guard.queue) if isinstance(guard, pure.Guard) else 0
    counter.inc(0)
    return {
        "hits": hits,
        "queued": queued,
        "mine": (done, segment.words[0], segment.words[5], begun),
        "others": (others_done, others.words[0], others.words[5]),
        "free": guard.free == {0: None} if isinstance(guard, pure.Guard) else True,
    }


@pytest.mark.usefixtures("restless")
def test_a_handler_that_raises_costs_what_it_interrupts(in_child: Callable[..., Any]) -> None:
    """Handlers that raise out of the middle of operations: the rest is exact, and other threads' all the more."""
    told = in_child(raising_storm, Guard())

    assert told["hits"] > 100
    assert told["free"]
    assert told["queued"] < 10
    done, counted, observed, begun = told["mine"]
    assert done <= counted <= begun
    assert done <= observed <= begun
    done, counted, observed = told["others"]
    assert done == counted == observed


class Hasty(pure.Guard):
    """For the control: takes operations out of the queue before it carries them out."""

    __slots__ = ()

    def later(self, operation: Callable[[Any], object], argument: Any) -> None:
        """Queue it as one that does not take itself out."""
        self.queue.append((lambda _: self._alone(operation, argument), None, False))
        self.drain()

    def _alone(self, operation: Callable[[Any], object], argument: Any) -> None:
        queue, self.queue = self.queue, type(self.queue)()
        try:
            operation(argument)
        finally:
            self.queue = queue


@pytest.mark.usefixtures("restless")
def test_the_storm_finds_operations_of_others_that_are_dropped(in_child: Callable[..., Any]) -> None:
    """The control: what was taken out of the queue, and then cut short, is lost to who had handed it over."""
    told = in_child(raising_storm, Hasty())

    done, counted, observed = told["others"]
    assert (done, done) != (counted, observed)


def test_an_operation_that_cannot_be_done_is_dropped() -> None:
    """Words that raise whatever is tried do not keep what is queued behind them from being carried out."""
    guard = pure.Guard()
    segment, counter, gauge, _ = cells(guard)

    def queue_behind(_: None) -> None:
        broken.inc()
        gauge.set(4)
        counter.inc()

    broken = pure.CounterCell(guard, pure.Segment(memoryview(b"").cast("d")), 0)
    guard.run(lambda _: None, None)
    with pytest.raises(IndexError):
        guard.run(queue_behind, None)

    assert [1, 4] == list(segment.words[:2])
    assert not guard.queue


def test_a_fork_amid_writing_threads_leaves_the_child_free(in_child: Callable[..., Any]) -> None:
    """However the parent's lock stood at the fork, a child that resets its guard writes, and does nothing twice."""

    def act() -> list[tuple[bool, float]]:
        guard = Guard()
        segment, counter, _, _ = cells(guard)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                counter.inc()

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        outcomes = []
        for _ in range(30):
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                guard.reset()
                segment.words = heap(8)
                for _ in range(5):
                    counter.inc()
                os.write(writer, bytes([int(segment.words[0])]))
                os._exit(0)
            os.close(writer)
            os.waitpid(pid, 0)
            outcomes.append((True, os.read(reader, 1)[0]))
            os.close(reader)
        stop.set()
        for thread in threads:
            thread.join()
        return outcomes

    assert [(True, 5)] * 30 == in_child(act)


def test_without_a_reset_a_child_would_carry_out_its_parents_queue() -> None:
    """The control: what another thread had queued at the fork is in the child's copy of the queue."""
    guard = pure.Guard()
    segment, counter, _, _ = cells(guard)
    del guard.free[0]
    counter.inc(100)
    pid = os.fork()
    if pid == 0:
        guard.free[0] = None
        segment.words = heap(8)
        counter.inc()
        os._exit(int(segment.words[0]))

    assert 101 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    guard.reset()
    counter.inc()
    assert 1 == segment.words[0]


class Killed(BaseException):
    """Stands for the end of the process."""


class Mortal:
    """Words of a process that is killed before its store number ``stores``."""

    def __init__(self, words: memoryview, stores: int) -> None:
        self._words = words
        self._left = stores

    def __getitem__(self, index: int) -> float:
        value: float = self._words[index]
        return value

    def __setitem__(self, index: int, value: float) -> None:
        if self._left == 0:
            raise Killed
        self._left -= 1
        self._words[index] = value


def killed_everywhere(
    make: Callable[[Guard, Segment], Any], act: Callable[[Any, int], object], read: Callable[[memoryview], object]
) -> list[tuple[int, object]]:
    """How many of ten operations were begun, and what a reader finds, for a kill before each store."""
    found = []
    for stores in itertools.count():
        guard, words = Guard(), heap(8)
        cell = make(guard, Segment(Mortal(words, stores)))
        begun = 0
        try:
            for begun in range(1, 11):
                act(cell, begun)
        except Killed:
            found.append((begun, read(words)))
        else:
            return [*found, (11, read(words))]
    raise AssertionError


def observed(words: memoryview) -> tuple[float, ...]:
    """Sum and buckets as a reader takes them."""
    return (distribution_sum(words[:5]), *words[2:5])


def after(operations: int) -> tuple[float, ...]:
    """Sum and buckets after observing 0.5, 1.0, 1.5, ...: bounds are 1, 2 and infinity."""
    values = [number / 2 for number in range(1, operations + 1)]
    buckets = [sum(low < value <= high for value in values) for low, high in ((0, 1), (1, 2), (2, math.inf))]
    return (sum(values), *buckets)


def test_a_distribution_is_whole_wherever_its_writer_is_killed() -> None:
    """A kill before any store leaves sum and buckets as before the operation, never in between."""
    found = killed_everywhere(
        lambda guard, segment: DistributionCell(guard, segment, 0, BOUNDS),
        lambda cell, number: cell.observe(number / 2),
        observed,
    )

    assert len(found) > 20
    assert [(begun, after(begun - 1)) for begun, _ in found] == found


def test_one_sum_would_not_be_whole() -> None:
    """The control: with a single sum, stored before the bucket, a kill in between shows."""

    class Naive(DistributionCell):
        __slots__ = ()

        def _observe(self, amount: float) -> None:
            words = self._segment.words
            words[0] += amount
            words[2 + (amount > 1) + (amount > 2)] += 1

    found = killed_everywhere(
        lambda guard, segment: Naive(guard, segment, 0, BOUNDS),
        lambda cell, number: cell.observe(number / 2),
        lambda words: (words[0], *words[2:5]),
    )

    assert [(begun, after(begun - 1)) for begun, _ in found] != found


def test_a_distribution_goes_on_after_an_operation_that_broke_off() -> None:
    """An exception before any store of an operation leaves a cell that counts on rightly."""
    for stores in range(20):
        words = heap(8)
        segment = Segment(Mortal(words, stores))
        cell = DistributionCell(Guard(), segment, 0, BOUNDS)
        done = 0
        try:
            for _ in range(10):
                cell.observe(1.5)
                done += 1
        except Killed:
            segment.words = Mortal(words, 1000)
        for _ in range(3):
            cell.observe(1.5)
        assert (1.5 * (done + 3), 0, done + 3, 0) == observed(words)

        same = Mortal(words, 1000)
        segment.words = same
        cell.observe(1.5)
        same._left = 1
        with pytest.raises(Killed):
            cell.observe(1.5)
        same._left = 1000
        cell.observe(1.5)
        assert (1.5 * (done + 5), 0, done + 5, 0) == observed(words)


def test_a_distribution_that_moves_takes_its_parity_from_where_it_is() -> None:
    """A cell that is placed on other words, with another number of observations, goes on from what they hold."""
    guard = Guard()
    first, second = Segment(heap(5)), Segment(heap(5))
    cell = DistributionCell(guard, first, 0, BOUNDS)
    cell.observe(1.5)
    cell.place(second, 0)
    cell.observe(0.5)
    cell.observe(0.5)
    cell.place(first, 0)
    cell.observe(1.5)

    assert (3.0, 0, 2, 0) == observed(first.words)
    assert (1.0, 2, 0, 0) == observed(second.words)


def test_two_distributions_in_one_segment_keep_their_own_parity() -> None:
    """Cells that share words do not take each other's count for theirs."""
    segment = Segment(heap(10))
    guard = Guard()
    left, right = DistributionCell(guard, segment, 0, BOUNDS), DistributionCell(guard, segment, 5, BOUNDS)
    again = DistributionCell(guard, segment, 0, BOUNDS)
    for _ in range(3):
        left.observe(0.5)
        right.observe(1.5)
        right.observe(1.5)
    assert (1.5, 3, 0, 0) == observed(segment.words[:5])
    assert (9.0, 0, 6, 0) == observed(segment.words[5:])
    again.observe(0.5)
    assert (2.0, 4, 0, 0) == observed(segment.words[:5])


def test_a_recent_value_is_whole_wherever_its_writer_is_killed() -> None:
    """A kill before any store leaves the value that was set before, never a new value with an old time."""
    found = killed_everywhere(
        lambda guard, segment: RecentCell(guard, segment, 0),
        lambda cell, number: cell.set(number),
        lambda words: latest(words)[1] if latest(words)[0] else 0.0,  # a time of zero: never set
    )

    assert len(found) > 20
    assert [(begun, begun - 1) for begun, _ in found] == found


@pytest.mark.parametrize("times", [[5.0, 5.0, 5.0], [5.0, 3.0, 1.0], [5.0, 1.0, 9.0]])
def test_the_last_value_counts_whatever_the_clock_does(times: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands still or goes back does not bring an older value back."""
    ticks = iter(times)
    monkeypatch.setattr(pure, "time", SimpleNamespace(time=lambda: next(ticks), monotonic=time.monotonic))
    words = heap(4)
    cell = RecentCell(Guard(), Segment(words), 0)
    for value in range(1, len(times) + 1):
        cell.set(value)
        assert value == latest(words)[1]


def test_a_gauge_that_was_set_to_zero_is_told_from_one_that_was_not(guard: Guard) -> None:
    """Zero, by setting or by arithmetic, is stored as minus zero; untouched words are all zero bits."""
    segment, _, gauge, _ = cells(guard)
    assert not is_set(segment.words[1])
    gauge.set(0)
    assert is_set(segment.words[1])
    gauge.inc(2)
    gauge.dec(2)
    assert is_set(segment.words[1])
    assert 0 == segment.words[1]


@pytest.mark.parametrize("amount", [-1, -0.001, math.nan, -math.inf])
def test_a_counter_goes_up_only(amount: float, guard: Guard) -> None:
    """A negative amount, or none, is refused before anything is changed, and leaves the cell usable."""
    segment, counter, _, _ = cells(guard)
    counter.inc(2)

    with pytest.raises(ValueError, match="only go up"):
        counter.inc(amount)

    counter.inc()
    assert 3 == segment.words[0]


def test_an_observation_that_is_no_number_is_refused(guard: Guard) -> None:
    """NaN belongs to no bucket: it is refused before anything is changed."""
    segment, _, _, sizes = cells(guard)
    sizes.observe(1.5)
    before = list(segment.words)

    with pytest.raises(ValueError, match="not a number"):
        sizes.observe(math.nan)

    assert before == list(segment.words)
    sizes.observe(1.0)
    assert [1, 1, 0] == list(segment.words[4:7])


def test_a_bound_belongs_to_its_bucket(guard: Guard) -> None:
    """Buckets hold what is less than or equal to their bound."""
    segment, _, _, sizes = cells(guard)
    for value in (1.0, 1.0000001, 2.0, 2.5, math.inf, -5):
        sizes.observe(value)

    assert [2, 2, 2] == list(segment.words[4:7])
