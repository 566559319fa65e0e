"""The compiled core, read after each machine instruction, as a kill at that instruction would leave it."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics import _cells
from mpmetrics._cells import Map
from mpmetrics.collector.epoch_reader import EpochReader
from mpmetrics.storage import format as fmt

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(_cells.TWIN != "compiled", reason="the twin in Python is killed before each line")

TRACE_ME, STEP = 0, 9
REFUSED = 77
WIDE = "w" * 200

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


def visible(slab: memoryview) -> tuple[bytes, ...]:
    """What readers look at of a slab: its head, its words, and the records that are committed."""
    head = slab.cast("Q")
    area = head[fmt.FLIPS] & 1
    start = fmt.AREA_0 + area * fmt.AREA_SIZE
    parts = slab[: fmt.PAGE], slab[fmt.PAGE : head[fmt.WORDS_END]], slab[start : start + head[fmt.COMMITTED + area]]
    return tuple(part.tobytes() for part in parts)


@pytest.fixture
def step_through(world: Any, tally: Callable[..., None]) -> Callable[..., set[tuple[Any, ...]]]:
    """Runs an action in a child, one instruction at a time; returns what readers saw of the store, in any order."""

    def child(prepare: Callable[[], object], action: Callable[[], object]) -> None:
        if _libc.ptrace(TRACE_ME, 0, None, None) < 0:
            os._exit(REFUSED)
        prepare()
        os.kill(os.getpid(), signal.SIGSTOP)
        action()
        os.kill(os.getpid(), signal.SIGSTOP)

    def look() -> tuple[Any, ...]:
        """What a reader shows that has been there, and one that has just come."""
        seen = world.peek()
        world.reader, known = EpochReader(world.path), world.reader
        assert seen == world.peek()
        world.reader = known
        return seen["h"], seen["s"], world.values.get("passing_total{'way': 'there'}")

    def run(prepare: Callable[[], object], action: Callable[[], object]) -> set[tuple[Any, ...]]:
        pid = os.fork()
        if pid == 0:
            try:
                child(prepare, action)
            finally:
                os._exit(0)
        status = os.waitpid(pid, 0)[1]
        if os.WIFEXITED(status):
            pytest.skip("this system lets no process be traced")
        try:
            (name,) = [name for name in os.listdir(world.path) if name.startswith("slab-")]
            with open(f"{world.path}/{name}", "rb") as file:  # noqa: PTH123
                slab = memoryview(Map(file.fileno(), fmt.SLAB_SIZE)).cast("B")
            before, found, looks = (), {look()}, 0
            _libc.ptrace(STEP, pid, None, None)
            while os.WSTOPSIG(os.waitpid(pid, 0)[1]) == signal.SIGTRAP:
                now = visible(slab)
                if now != before:
                    found.add(look())
                    looks += 1
                before = now
                _libc.ptrace(STEP, pid, None, None)
            tally(looks)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return found

    return run


def test_first_uses(world: Any, step_through: Any) -> None:
    """At each instruction, readers see a new series with its first value, with zero, or not at all."""

    def use() -> None:
        world.hits.labels("new").inc()
        world.sizes.labels("new").observe(0.25)

    found = step_through(world.hits.labels("warm").inc, use)

    assert found == {(1, 0, None), (2, 0, None), (2, 1, None)}


def test_hot_words(world: Any, step_through: Any) -> None:
    """At each instruction, readers see an observation whole or not at all."""
    sizes = world.sizes.labels("warm")

    found = step_through(lambda: sizes.observe(0.25), lambda: [sizes.observe(0.25) for _ in range(3)])

    assert found == {(0, count, None) for count in range(1, 5)}


def test_a_value_and_its_time(world: Any, step_through: Any) -> None:
    """Readers see the old value with its time or the new value with its time, never a mix."""
    level = mpmetrics.Gauge("level", "x", multiprocess_mode="mostrecent", provider=world.provider)
    values, peek = set(), world.peek

    def look() -> Any:
        seen = peek()
        values.add(world.values.get("level{}"))
        return seen

    world.peek = look
    step_through(lambda: [level.set(number) for number in (1, 2)], lambda: [level.set(number) for number in (3, 4)])

    assert values == {2.0, 3.0, 4.0}


def test_the_look_finds_a_count_before_its_sum(world: Any, step_through: Any) -> None:
    """The control: readers see a bucket that is stored before the sum."""
    sizes = world.sizes.labels("warm")

    def hasty() -> None:
        words = memoryview(world.memory._leased.map).cast("d")
        words[sizes.place + 3] += 1.0
        words[sizes.place] = 0.5

    with pytest.raises(AssertionError):
        step_through(lambda: sizes.observe(0.25), hasty)


def test_growth(world: Any, step_through: Any) -> None:
    """Readers see all earlier counts at each instruction of a slab's growth."""
    deep = world.deep.labels

    def use() -> None:
        deep("wide").observe(0.25)
        for number in range(16):
            world.hits.labels(f"{WIDE}-{number}").inc()

    found = step_through(world.hits.labels("warm").inc, use)

    assert found == {(1, 0, None), *((count, 1, None) for count in range(1, 18))}


def test_an_end_and_the_use_of_its_words(world: Any, step_through: Any) -> None:
    """A series shows its value until its END, and the series that gets its words shows nothing of it."""
    family = world.memory._children["passing"].family

    def reuse() -> None:
        world.memory.forget(family, ("there",))
        world.hits.labels("new").inc()

    found = step_through(lambda: world.passing.labels("there").inc(5), reuse)

    assert found == {(0, 0, 5.0), (0, 0, None), (1, 0, None)}


def test_flip(world: Any, step_through: Any) -> None:
    """At each instruction of a flip, readers find all records in one of the two areas."""
    family = world.memory._children["passing"].family

    def waste() -> None:
        world.hits.labels("warm").inc()
        slab = world.memory.process.slab
        while slab.room_for(1, 700) or not slab.needs_flip:
            world.passing.labels(WIDE).inc()
            world.memory.forget(family, (WIDE,))

    def flip() -> None:
        world.hits.labels(4 * WIDE).inc()
        assert memoryview(world.memory._leased.map).cast("Q")[fmt.FLIPS]

    assert step_through(waste, flip) == {(1, 0, None), (2, 0, None)}
