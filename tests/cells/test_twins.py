"""The two twins of the hot words give the same numbers and the same bytes; and what the one in C owes besides."""

from __future__ import annotations

import gc
import math
import mmap
import os
import random
import struct
import sys
import time
from array import array
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpmetrics._cells import LAYOUTS, labelled, pure, sketch, vectors

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

compiled = pytest.importorskip("mpmetrics._cells.compiled", reason="the extension was not built")

LARGE = (1.7976931348623157e308, 0.6 * 2.0**970)
"""Whose exact sum is a number, and whose sum by parts is not."""

DOUBLES = st.one_of(
    st.floats(width=64),
    st.integers(-(2**60), 2**60).map(float),
    st.integers(-(10**9), 10**9).map(lambda number: number / 1000),
    st.sampled_from(
        [0.0, -0.0, 1e15, 1e16, 1e-4, 9.9e-5, 0.1 + 0.2, 1e308, -1e308, 5e-324, math.inf, -math.inf, math.nan, *LARGE]
    ),
)
WORDS = st.lists(DOUBLES, max_size=12)


def bits(values: Any) -> list[bytes]:
    """Doubles as bytes, all NaN the same."""
    return [b"nan" if math.isnan(value) else struct.pack("d", value) for value in values]


@given(DOUBLES)
def test_numbers(value: float) -> None:
    """A number is written down as ``repr`` has it."""
    assert vectors.number(value) == compiled.number(value)
    assert math.isnan(value) or float(compiled.number(value)) == value


def test_many_numbers() -> None:
    """The same for decimals of every length and magnitude."""
    chance = random.Random(7)
    for _ in range(200_000):
        digits, places = chance.randrange(1, 18), chance.randrange(-5, 25)
        value = float(f"{chance.randrange(10**digits)}e{-places}")
        assert repr(value) == compiled.number(value)


@given(st.lists(WORDS, max_size=6), st.integers(0, 4))
def test_sums(words: list[list[float]], width: int) -> None:
    """Sums over any vectors, of any length."""
    firsts = array("q", (0, 3, 4, 9))

    assert bits(vectors.sums(words, firsts, width)) == bits(compiled.sums(words, firsts, width))


@given(st.lists(WORDS, max_size=6))
def test_gauges(words: list[list[float]]) -> None:
    """Extremes, levels and what was set last."""
    firsts = array("q", (0, 5, 1))
    places = array("q", (number % 3 for number in range(len(words))))

    for is_max in (False, True):
        ours, shown = vectors.extremes(words, firsts, is_max)
        theirs, also = compiled.extremes(words, firsts, is_max)
        assert (bits(ours), bytes(shown)) == (bits(theirs), bytes(also))
    ours, shown = vectors.levels(words, places, 3, firsts)
    theirs, also = compiled.levels(words, places, 3, firsts)
    assert (bits(ours), bytes(shown)) == (bits(theirs), bytes(also))


TIMES = st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), min_size=4, max_size=4)


@given(st.lists(TIMES, max_size=5))
def test_recents(pairs: list[list[tuple[float, float]]]) -> None:
    """What was set last, by the later of two copies."""
    words = [[word for pair in column for word in pair] for column in pairs]
    firsts = array("q", (0, 4, 8))

    assert bits(vectors.recents(words, firsts)) == bits(compiled.recents(words, firsts))


COUNTS = st.integers(0, 9).map(float) | st.sampled_from([0.5, 2.5])


@given(st.lists(st.lists(COUNTS, max_size=10), max_size=5), st.integers(0, 2))
def test_distributions(words: list[list[float]], plain: int) -> None:
    """Cumulative counts, and the sum that the parity of the count chooses."""
    firsts = array("q", (0, 5))
    plain = min(plain, len(words))

    ours, theirs = vectors.distributions(words, plain, firsts, 3), compiled.distributions(words, plain, firsts, 3)

    assert bits(ours) == bits(theirs)


@given(WORDS, st.integers(0, 14), st.sampled_from([(), (0, 3), (2, 9), (1, 2, 5, 4), (8, 6)]))
def test_load(words: list[float], count: int, spans: tuple[int, ...]) -> None:
    """The words of a map at rest, as many as there are, whatever belongs together."""
    view = memoryview(array("d", words)).cast("B").cast("d") if words else memoryview(b"").cast("d")

    ours, theirs = (twin.load(view, count, array("q", spans)) for twin in (vectors, compiled))
    assert bits(ours) == bits(theirs) == bits(words[:count])


def write_histograms(twin: Any, words: Any, stop: Any) -> None:
    """Observe 0.25 and 1.5 in turn, as fast as can be."""
    cell = twin.DistributionCell(twin.Guard(), twin.Segment(words), 0, (1.0, math.inf))
    while not stop[0]:
        for _ in range(1000):
            cell.observe(0.25)
            cell.observe(1.5)


@pytest.mark.parametrize(("twin", "writer"), [(vectors, pure), (compiled, compiled)], ids=["pure", "compiled"])
def test_load_beside_a_writer(twin: Any, writer: Any) -> None:
    """Of a histogram that another process writes to all the time, sum and buckets are of one moment."""
    held = mmap.mmap(-1, 4096)
    words = memoryview(held).cast("d")
    pid = os.fork()
    if not pid:
        write_histograms(writer, words[:4], words[100:101])
        os._exit(0)
    readings: set[tuple[float, ...]] = set()
    deadline = time.monotonic() + 20
    try:
        while len(readings) < 1000 and time.monotonic() < deadline:
            readings.add(tuple(twin.load(words, 4, array("q", (0, 4)))))
    finally:
        words[100] = 1.0
        os.waitpid(pid, 0)

    assert len(readings) > 2
    for reading in readings:
        low, high = reading[2:]
        assert reading[int(low + high) % 2] == 0.25 * low + 1.5 * high


SHAPES = ((b"a{", b"} ", b"a "), None, (b"b{", b',le="1"} ', b'b{le="1"} '))


@given(st.lists(st.sampled_from([b"", b'k="v"', b'k="w"']), max_size=5), st.data())
def test_lines(rows: list[bytes], data: st.DataObject) -> None:
    """Lines with and without labels, masks, left-out shapes and lines behind the rows."""
    size = len(rows) * len(SHAPES)
    values = array("d", data.draw(st.lists(DOUBLES, min_size=size, max_size=size)))
    mask = data.draw(st.none() | st.lists(st.integers(0, 1), min_size=size, max_size=size).map(bytes))
    more = data.draw(st.none() | st.just([b"more %d\n" % number for number in range(len(rows))]))

    assert vectors.lines(SHAPES, rows, values, mask, more) == compiled.lines(SHAPES, rows, values, mask, more)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_sketches(layout: str) -> None:
    """The same values leave the same words behind."""
    chance = random.Random(3)
    words = []
    for twin in ((pure, sketch), (compiled, compiled)):
        width = 12 + LAYOUTS[layout].size
        segment = twin[0].Segment(memoryview(bytearray(8 * width)).cast("d"))
        cell = twin[1].SketchCell(twin[0].Guard(), segment, 0, LAYOUTS[layout], "s")
        chance.seed(3)
        for _ in range(5_000):
            value = 10 ** chance.uniform(-12, 7)
            cell.update(-value if layout == "value" and chance.random() < 0.5 else value)
        for value in (0.0, 1e-9, 86400.0, 1e15):
            cell.update(value)
        words.append(bytes(segment.words))

    assert words[0] == words[1]


def write_to_all(twin: ModuleType, words: Any) -> None:
    """One of each operation."""
    segment, guard = twin.Segment(words), twin.Guard()
    counter, gauge = twin.CounterCell(guard, segment, 0), twin.GaugeCell(guard, segment, 1)
    counter.inc()
    counter.inc(amount=2.5)
    gauge.set(3)
    gauge.inc(2)
    gauge.dec(amount=1)
    twin.RecentCell(guard, segment, 2).set(7.0)
    cell = twin.DistributionCell(guard, segment, 6, (1.0, math.inf))
    for value in (0.5, 1, "7"):
        cell.observe(value)


def test_cells() -> None:
    """The same operations leave the same words behind."""
    words = [memoryview(bytearray(80)).cast("d") for _ in range(2)]
    write_to_all(pure, words[0])  # type: ignore[arg-type]
    write_to_all(compiled, words[1])

    assert words[0].tolist()[:3] == words[1].tolist()[:3]
    assert words[0].tolist()[6:] == words[1].tolist()[6:] == [1.5, 8.5, 2.0, 1.0]


def test_a_segment_keeps_its_map_open() -> None:
    """What a segment points to cannot be closed under it; once it has other words, it can."""
    held = mmap.mmap(-1, 4096)
    segment = compiled.Segment(memoryview(held).cast("d"))
    cell = compiled.CounterCell(compiled.Guard(), segment, 511)
    cell.inc()
    with pytest.raises(BufferError):
        held.close()
    cell.inc()
    segment.words = memoryview(bytearray(4096)).cast("d")
    gc.collect()
    held.close()
    cell.inc(4)

    assert 4 == segment.words[511]


def test_words_past_the_end() -> None:
    """A cell that was placed past the end of its words raises, and writes nothing."""
    segment = compiled.Segment(memoryview(bytearray(16)).cast("d"))
    guard = compiled.Guard()
    for cell, write in (
        (compiled.CounterCell(guard, segment, 2), "inc"),
        (compiled.GaugeCell(guard, segment, 2**40), "inc"),
    ):
        with pytest.raises(IndexError, match="past the end"):
            getattr(cell, write)()
    with pytest.raises(IndexError):
        compiled.DistributionCell(guard, segment, 0, (math.inf,)).observe(1)
    with pytest.raises(ValueError, match="begin at 0"):
        compiled.CounterCell(guard, segment, -1)
    assert [0.0, 0.0] == list(segment.words)


NO_LAYOUT = {"lowest": 1e-9, "log_growth": 0.1, "side": 30, "zero": -1, "size": 20, "signed": False}
"""One whose values would fall behind the last bucket."""


def segment_of(size: int) -> Any:
    """So many words."""
    return compiled.Segment(memoryview(bytearray(8 * size)).cast("d"))


def half_made(kind: Any) -> Any:
    """A cell with a guard and words, and without what its own kind needs."""
    cell = kind.__new__(kind)
    compiled.CounterCell.__mro__[1].__init__(cell, compiled.Guard(), segment_of(40), 0)
    return cell


@pytest.mark.parametrize(
    "make",
    [
        lambda: compiled.CounterCell.__new__(compiled.CounterCell).inc(),
        lambda: compiled.GaugeCell.__new__(compiled.GaugeCell).set(1),
        lambda: compiled.DistributionCell.__new__(compiled.DistributionCell).observe(1),
        lambda: compiled.SketchCell.__new__(compiled.SketchCell).update(1),
        lambda: compiled.Labelled().labels("a"),
        lambda: half_made(compiled.DistributionCell).observe(1),
        lambda: half_made(compiled.DistributionCell)._observe(1),
        lambda: half_made(compiled.SketchCell).update(1),
        lambda: half_made(compiled.SketchCell)._update(1),
        lambda: compiled.SketchCell(compiled.Guard(), segment_of(40), 0, SimpleNamespace(**NO_LAYOUT)),
        lambda: compiled.CounterCell(None, None, 0),
        lambda: compiled.sums([b"no doubles"], array("q", (0,)), 1),
        lambda: compiled.sums([[1.0]], array("q", (-1,)), 1),
        lambda: compiled.sums([[1.0]], array("d", (0,)), 1),
        lambda: compiled.sums([["one"]], array("q", (0,)), 1),
        lambda: compiled.sums(7, array("q"), 1),
        lambda: compiled.levels([[1.0]], array("q"), 1, array("q", (0,))),
        lambda: compiled.lines((), [b"a"], array("d", (1.0,)), None, None),
        lambda: compiled.lines(((b"", b""),), [b"a"], array("d", (1.0,)), None, None),
        lambda: compiled.lines((), ["a"], array("d"), None, None),
        lambda: compiled.CounterCell.__new__(compiled.CounterCell).place(segment_of(1), 0),
        lambda: compiled.RecentCell(compiled.Guard(), segment_of(4), 0)._set(5),
        lambda: compiled.distributions([], 0, array("q", (0,)), 0),
        lambda: compiled.sums([], array("q", (0, 0, 0, 0)), 2**62),
        lambda: compiled.load(memoryview(bytearray(8)), 1, array("q")),
        lambda: compiled.Removals().watch(b"12345678", 0),
        lambda: compiled.Removals().watch(memoryview(bytearray(8)).cast("Q"), 1),
        lambda: compiled.Guard().run(print),
    ],
)
def test_bad_arguments(make: Any) -> None:
    """What makes no sense raises; nothing is read or written outside of what there is."""
    with pytest.raises((TypeError, ValueError, RuntimeError, AttributeError, MemoryError)):
        make()


def test_code_that_changes_what_is_being_read() -> None:
    """Numbers, indices and words whose own code changes the arguments of the call do no harm."""
    numbers: list[Any] = []

    class Shrinking:
        def __float__(self) -> float:
            del numbers[1:]
            return 1.0

    numbers += [Shrinking(), *map(float, range(1000))]
    assert [1.0] == list(compiled.sums([numbers], array("q", (0,)), 1))
    lists: list[Any] = [[Shrinking()], [1.0]]
    assert [2.0] == list(compiled.sums(lists, array("q", (0,)), 1))

    removals = compiled.Removals()

    class Watching:
        def __index__(self) -> int:
            removals.watch(None, 0)
            return 0

    for _ in range(50):
        words = memoryview(bytearray(16)).cast("Q")
        removals.watch(words, 0)
        removals.watch(memoryview(bytearray(16)).cast("Q"), Watching())
        removals.watch(None, 0)
        words.release()

    class Words:
        def __getitem__(self, index: int) -> float:
            cell.__init__(compiled.Guard(), compiled.Segment([0.0]), 0)  # type: ignore[misc]
            return 0.0

        def __setitem__(self, index: int, value: float) -> None:
            pass

    cell = compiled.CounterCell(compiled.Guard(), compiled.Segment(Words()), 0)
    for _ in range(50):
        cell.__init__(compiled.Guard(), compiled.Segment(Words()), 0)  # type: ignore[misc]
        cell.inc()


def operations_that_raise(guard: Any) -> tuple[list[int], list[str]]:
    """Have two operations raise, in a hold in which others are queued: which others ran, and what was unraisable."""
    done: list[int] = []
    unraisable: list[str] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda what: unraisable.append(str(what.exc_value))

    def fail(number: int) -> None:
        if number == 1:
            guard.run(fail, 2)
            guard.run(done.append, 1)
        raise LookupError(number)

    try:
        with pytest.raises(LookupError, match="1"):
            guard.run(fail, 1)
    finally:
        sys.unraisablehook = hook
    guard.run(done.append, 2)
    return done, unraisable


@pytest.mark.parametrize("twin", [pure, compiled], ids=["pure", "compiled"])
def test_an_operation_that_raises_lets_the_others_be_carried_out(twin: Any) -> None:
    """What was queued meanwhile is carried out, then the first exception goes on its way; no other one is swallowed."""
    assert ([1, 2], ["2"]) == operations_that_raise(twin.Guard())


@pytest.mark.parametrize("twin", [pure, compiled], ids=["pure", "compiled"])
def test_amounts_of_any_type(twin: Any) -> None:
    """Numbers of other types are taken, whether the guard is free or not; text is not."""
    words = memoryview(bytearray(16)).cast("d")
    guard, segment = twin.Guard(), twin.Segment(words)
    counter, gauge = twin.CounterCell(guard, segment, 0), twin.GaugeCell(guard, segment, 1)

    def write(_: object = None) -> None:
        counter.inc(Decimal("0.5"))
        gauge.inc(Fraction(1, 4))
        gauge.dec(True)
        for bad in ("7", b"7", None, [], 10**400):
            for write in (counter.inc, gauge.inc, gauge.dec):
                with pytest.raises((TypeError, OverflowError)):
                    write(bad)

    write()
    guard.run(write, None)
    assert [1.0, -1.5] == words.tolist()


class Children(compiled.Labelled):  # type: ignore[misc]
    """A parent of series."""

    def __init__(self) -> None:
        self._children = {("a", "b"): self}
        self._removals = compiled.Removals()

    def _resolve(self, values: tuple[object, ...], named: dict[str, object]) -> Any:
        return values, named


def test_a_look_up() -> None:
    """By position it is found; all else is resolved; a value that cannot be hashed, too."""
    children = Children()
    assert children.labels("a", "b") is children
    assert (("a",), {}) == children.labels("a")
    assert (([],), {}) == children.labels([])
    assert ((), {"x": 1}) == children.labels(x=1)
    assert (("a", "b"), {"x": 1}) == children.labels("a", "b", x=1)
    assert labelled.Labelled.labels.__doc__.split() == compiled.Labelled.labels.__doc__.split()  # type: ignore[union-attr]


def test_a_look_up_that_changes_what_is_looked_up_in() -> None:
    """A value whose comparison gives the instrument other children does no harm."""
    children = Children()

    class Restless:
        def __hash__(self) -> int:
            return hash("a")

        def __eq__(self, other: object) -> bool:
            children._children = {}
            gc.collect()
            return False

    children._children = {("a",): children}
    assert {} == children.labels(Restless())[1]
    assert {} == children._children


def everything() -> None:
    """Uses every function and method once, errors included."""
    write_to_all(compiled, memoryview(bytearray(80)).cast("d"))
    words = [[1.0, 2.0, 3.0, 4.0, 5.0], array("d", (0.1, 0.2))]
    firsts = array("q", (0, 1))
    compiled.sums(words, firsts, 2)
    compiled.extremes(words, firsts, True)
    compiled.levels(words, firsts, 2, firsts)
    compiled.recents(words, firsts)
    compiled.distributions(words, 1, firsts, 2)
    compiled.lines(SHAPES, [b"", b"k"], array("d", range(6)), None, [b"x", b"y"])
    compiled.load(memoryview(bytearray(160)).cast("d"), 20, array("q", (2, 15)))
    for bad in (memoryview(bytearray(8)), [1.0, "x"]):
        with pytest.raises((TypeError, ValueError)):
            compiled.load(bad, 1, array("q"))
    compiled.number(0.1 + 0.2)
    children = Children()
    children.labels("a", "b")
    children.labels("c", d="e")
    children.labels([])
    operations_that_raise(compiled.Guard())
    test_words_past_the_end()


needs_count = pytest.mark.skipif(sys.getallocatedblocks() == 0, reason="this allocator does not count its blocks")


def growth(work: Callable[[], object]) -> int:
    """Blocks of memory that 300 rounds leave behind: the least of several times, since Python's own caches fill up."""
    grown = []
    for _ in range(8):
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(300):
            work()
        gc.collect()
        grown.append(sys.getallocatedblocks() - before)
    return min(grown)


@needs_count
def test_nothing_leaks() -> None:
    """The blocks of memory in use, and the references to what is passed in, are no more after many rounds."""
    name = "a name that is held by none"
    words = memoryview(bytearray(80)).cast("d")

    def work() -> None:
        everything()
        segment = compiled.Segment(words)
        cell = compiled.DistributionCell(compiled.Guard(), segment, 0, (math.inf,), name)
        cell.observe(1)
        cell.place(compiled.Segment(words), 1)
        with pytest.raises(ValueError, match="held by none"):
            cell.observe(math.nan)

    counts = sys.getrefcount(name), sys.getrefcount(words)
    assert growth(work) < 200
    assert (sys.getrefcount(name), sys.getrefcount(words)) == counts


@needs_count
def test_a_leak_would_be_seen() -> None:
    """The control: one object a round is more than the test allows."""
    kept: list[object] = []
    assert growth(lambda: kept.append(object())) >= 200
