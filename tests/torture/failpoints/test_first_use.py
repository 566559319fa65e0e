"""The first use of a series, a declaration, the growth of a slab and its flip, disturbed at every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mpmetrics
from mpmetrics import _cells
from mpmetrics.storage import format as fmt

HERE = f"{Path(__file__).parent}/"
WIDE = "w" * 200

pure = pytest.mark.skipif(_cells.TWIN != "pure", reason="the compiled twin passes no lines here")


def lease(world: Any, ledger: Any) -> None:
    """Have a slab before what is looked at begins."""
    assert world.deep  # declared
    ledger.do("h", lambda: world.hits.labels("warm").inc())


def obtain(world: Any, ledger: Any) -> None:
    """The first uses of two series."""
    ledger.do("h", lambda: world.hits.labels(f"way-{ledger.step}").inc())
    ledger.do("s", lambda: world.sizes.labels(f"way-{ledger.step}").observe(0.25))


def declare(world: Any, ledger: Any) -> None:
    """A new metric, and its first series."""
    mpmetrics.Counter(f"more_{ledger.step}", "More.", ["way"], provider=world.provider).labels("there").inc()


def grow(world: Any, ledger: Any) -> None:
    """Series that the slab has neither words nor records for."""
    ledger.do("s", lambda: world.deep.labels("wide").observe(0.25))
    for number in range(20):
        ledger.do("h", lambda number=number: world.hits.labels(f"{WIDE}-{number}").inc())


def waste(world: Any, ledger: Any) -> None:
    """Have a slab whose records are mostly of no use, and that has no room for a large one."""
    lease(world, ledger)
    memory, slab = world.memory, world.memory.process.slab
    family = memory._children["passing"].family
    while slab.room_for(1, 700) or not slab.needs_flip:
        world.passing.labels(WIDE).inc()
        memory.forget(family, (WIDE,))


def flip(world: Any, ledger: Any) -> None:
    """A series that the records are moved for."""
    ledger.do("h", lambda: world.hits.labels(f"{4 * WIDE}-{ledger.step}").inc())


def flips(world: Any) -> int:
    """How often this process' slab has flipped."""
    return int(memoryview(world.memory._leased.map).cast("Q")[fmt.FLIPS])


SMALL = [(obtain, lease), (declare, lease)]
"""What makes no call into the system."""

LARGE = [(grow, lease), (flip, waste)]

LARGE_BY_LINES = [pytest.param(*each, marks=pure) for each in LARGE]


def test_the_operations_grow_and_flip_the_slab(world: Any) -> None:
    """The operations of these sweeps really grow words and records, and flip the slab."""

    def measure(ledger: Any) -> object:
        lease(world, ledger)
        head = memoryview(world.memory._leased.map).cast("Q")
        before = head[fmt.WORDS_END], head[fmt.ROOM]
        grow(world, ledger)
        grown = head[fmt.WORDS_END] > before[0], head[fmt.ROOM] > before[1]
        waste(world, ledger)
        flipped = flips(world)
        flip(world, ledger)
        return [*grown, flips(world) - flipped]

    outcome = world.child(measure)

    assert [True, True, 1] == outcome.said
    world.check(outcome, "undisturbed")


@pure
@pytest.mark.parametrize(("operation", "prepare"), [*SMALL, *LARGE])
def test_killed_anywhere(operation: Any, prepare: Any, sweep: Any) -> None:
    """After a kill before any line, totals are exact, records are whole, and the next process goes on."""
    sweep.kill(operation, prepare)


@pytest.mark.parametrize(("operation", "prepare"), [(declare, lease), *LARGE_BY_LINES])
def test_interrupted_anywhere(operation: Any, prepare: Any, sweep: Any) -> None:
    """An exception from a signal handler costs the use that it interrupts and nothing else."""
    sweep.interrupt(operation, prepare)


@pure
@pytest.mark.parametrize(("operation", "prepare"), LARGE)
def test_an_error_anywhere(operation: Any, prepare: Any, sweep: Any) -> None:
    """When a system call fails in any way, the request succeeds and is counted in the store in the end."""
    sweep.fail(operation, prepare)


@pytest.mark.parametrize(("operation", "prepare"), LARGE)
def test_killed_at_any_call(operation: Any, prepare: Any, traced: Any) -> None:
    """The same holds after a kill that follows any system call."""
    traced.kill_in_calls(operation, prepare)


@pytest.mark.parametrize(("operation", "prepare"), LARGE)
def test_an_error_of_the_kernel(operation: Any, prepare: Any, traced: Any) -> None:
    """The same holds when the kernel itself returns the error."""
    traced.fail(operation, prepare)


@pure
def test_the_sweep_finds_a_commit_before_the_record(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: when the commit is stored first, a kill shows readers a record that does not exist."""
    from mpmetrics._cells.slab import Slab  # noqa: PLC0415 (the twin in Python alone has it)

    append = Slab.append

    def hasty(self: Any, kind: int, body: bytes) -> bool:
        word = fmt.COMMITTED + (self.flips & 1)
        self.bits[word] += 64
        done = append(self, kind, body)
        self.bits[word] = self.committed
        return done

    monkeypatch.setattr(Slab, "append", hasty)
    sweep.where = (HERE,)
    sweep.only = (f"failpoints/test_first_use.py:{hasty.__qualname__}",)
    sweep.least = 0
    with pytest.raises(AssertionError, match="killed at"):
        sweep.kill(declare, lease)


@pure
def test_the_sweep_finds_a_flip_before_its_records(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: when the flip is stored first, a kill shows readers an empty area."""
    from mpmetrics._cells.slab import Slab  # noqa: PLC0415 (as above)

    whole = Slab.flip

    def hasty(self: Any) -> bool:
        self.bits[fmt.FLIPS] += 1
        return whole(self)

    monkeypatch.setattr(Slab, "flip", hasty)
    sweep.where = (HERE,)
    sweep.only = (f"failpoints/test_first_use.py:{hasty.__qualname__}",)
    sweep.least = 0
    with pytest.raises(AssertionError, match="killed at"):
        sweep.kill(flip, waste)


@pure
def test_the_sweep_finds_room_that_is_not_there(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: when the room is stored before its blocks are allocated, a full disk ends the process."""
    from mpmetrics._cells.slab import Slab  # noqa: PLC0415 (as above)

    have = Slab._have_blocks

    def hasty(self: Any, offset: int, size: int) -> None:
        if offset >= fmt.AREA_0:
            self.bits[fmt.ROOM] = offset + size - fmt.AREA_0
        have(self, offset, size)

    monkeypatch.setattr(Slab, "_have_blocks", hasty)
    with pytest.raises(AssertionError, match="from call"):
        sweep.fail(grow, lease)
