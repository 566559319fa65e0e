"""The lease of a slab, the claim of an ordinal, and values that move into the store late, disturbed at every step."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from mpmetrics import _cells
from mpmetrics.storage import slab, waiting
from mpmetrics.storage.memory import Memory

pure = pytest.mark.skipif(_cells.TWIN != "pure", reason="the compiled twin makes its calls unseen, but by the kernel")


def leave_two(world: Any, ledger: Any) -> None:
    """Leave two dead slabs, under names of ordinals."""
    world.bury(2, lambda: ledger.do("s", lambda: world.sizes.labels("dead").observe(0.25)))


def first_write(world: Any, ledger: Any) -> None:
    """A process's first write: it leases a slab and claims an ordinal, here that of a dead process."""
    ledger.do("h", lambda: world.hits.labels("cold").inc())


def lease(world: Any, ledger: Any) -> None:
    """Have a slab."""
    ledger.do("h", lambda: world.hits.labels("warm").inc())


def be_short(world: Any, ledger: Any) -> None:
    """Count what the store cannot take: it has no room for a slab."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slab, "make_slab", _full)
        _count_in_vain(world, ledger)


def be_narrow(world: Any, ledger: Any) -> None:
    """The same: the slab, in whose file's place there is something else, does not grow."""
    lease(world, ledger)
    family, own = world.memory._children["passing"].family, world.memory.process.slab
    while own.room_for(0, 120):
        world.passing.labels("narrow").inc()
        world.memory.forget(family, ("narrow",))
    os.rename(f"{world.path}/{own.file}", f"{world.path}/away")  # noqa: PTH104
    os.mkdir(f"{world.path}/{own.file}")  # noqa: PTH102
    _count_in_vain(world, ledger)
    os.rmdir(f"{world.path}/{own.file}")  # noqa: PTH106
    os.rename(f"{world.path}/away", f"{world.path}/{own.file}")  # noqa: PTH104


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "no room")


def _count_in_vain(world: Any, ledger: Any) -> None:
    waiting.FIRST_PAUSE = 1000.0  # the thread that moves what waits would come in between
    ledger.promise("s", lambda: world.deep.labels("short").observe(0.25))
    ledger.promise("h", lambda: world.hits.labels(f"{100 * 's'}-{ledger.step}").inc())
    assert world.waits()


def move_in(world: Any, ledger: Any) -> None:
    """What waits moves into the store."""
    world.provider.force_flush()
    if not world.waits():
        ledger.keep()


OPERATIONS = pytest.mark.parametrize(
    ("operation", "prepare"), [(first_write, leave_two), (move_in, be_short), (move_in, be_narrow)]
)


@pytest.mark.parametrize(
    ("operation", "prepare"),
    [(first_write, leave_two), (move_in, be_short), pytest.param(move_in, be_narrow, marks=pure)],
)
def test_killed_anywhere(operation: Any, prepare: Any, sweep: Any) -> None:
    """After a kill before any line, totals are exact, no slab is left over, and the next process goes on."""
    sweep.kill(operation, prepare)


@OPERATIONS
def test_interrupted_anywhere(operation: Any, prepare: Any, sweep: Any) -> None:
    """An exception from a signal handler costs the write that it interrupts and nothing else."""
    sweep.interrupt(operation, prepare)


@pure
@OPERATIONS
def test_an_error_anywhere(operation: Any, prepare: Any, sweep: Any) -> None:
    """When a system call fails in any way, the request succeeds and is counted in the store in the end."""
    sweep.fail(operation, prepare)


@OPERATIONS
def test_killed_at_any_call(operation: Any, prepare: Any, traced: Any) -> None:
    """The same holds after a kill that follows any system call."""
    traced.kill_in_calls(operation, prepare)


@OPERATIONS
def test_an_error_of_the_kernel(operation: Any, prepare: Any, traced: Any) -> None:
    """The same holds when the kernel itself returns the error."""
    traced.fail(operation, prepare)


@pytest.mark.parametrize("error", [FileNotFoundError, BlockingIOError])
def test_a_slab_that_a_fold_removed_too_early_is_made_again(
    world: Any, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    """A new slab that a folding process removed or locked, before its owner locked it, is made again."""
    make, tries = slab.make_slab, []

    def swept(*arguments: Any) -> Any:
        tries.append(arguments)
        if len(tries) == 1:
            raise error
        return make(*arguments)

    monkeypatch.setattr(slab, "make_slab", swept)
    outcome = world.child(lambda ledger: (first_write(world, ledger), world.waits()))

    assert [None, False] == outcome.said
    world.check(outcome, "undisturbed")


def test_the_sweep_finds_a_slab_without_a_lease(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a slab without a lease is folded while its owner still writes to it."""
    make = slab.make_slab

    def fold_and_write(world: Any, ledger: Any) -> None:
        lease(world, ledger)
        world.scrape()
        lease(world, ledger)

    monkeypatch.setattr(slab, "make_slab", lambda *arguments: (None, *make(*arguments)[1:]))
    with pytest.raises(AssertionError, match="undisturbed"):
        sweep.kill(fold_and_write)


@pure
def test_the_sweep_finds_a_slab_that_has_its_name_too_early(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a slab that is made under its final name is found half made."""
    from mpmetrics._cells import files  # noqa: PLC0415 (the twin in Python alone has it)

    class Os:
        link = unlink = staticmethod(lambda *_, **__: None)

        @staticmethod
        def open(name: str, *arguments: Any, **named: Any) -> int:
            return os.open(name.replace("new-slab", "idle"), *arguments, **named)

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

    monkeypatch.setattr(files, "os", Os())
    sweep.only = ("_cells/files.py:make_slab",)
    with pytest.raises(AssertionError, match="killed at"):
        sweep.kill(lambda world, _: world.memory.begin(False))


@pure
def test_the_sweep_finds_an_ordinal_taken_from_another(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a claim that overwrites an existing name loses what that process counted."""

    def seize(where: Any, file: str, lowest: int, _: bool) -> int:  # noqa: FBT001 (as the real one)
        os.rename(f"{where[0]}/{file}", f"{where[0]}/slab-{lowest}")  # noqa: PTH104
        return lowest

    monkeypatch.setattr("mpmetrics._cells.slab.claim_ordinal", seize)
    with pytest.raises(AssertionError, match="undisturbed: s"):
        sweep.kill(first_write, leave_two)


def test_the_sweep_finds_what_waits_and_is_not_moved(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: waiting values are dropped before they have a place in the slab."""
    move = Memory._move

    def hasty(self: Any, cell: Any) -> bool:
        del self._waiting[cell]
        return move(self, cell)

    monkeypatch.setattr(Memory, "_move", hasty)
    with pytest.raises(AssertionError, match="interrupted at"):
        sweep.interrupt(move_in, be_short)


def test_the_sweep_finds_a_descriptor_that_leaks(traced: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a failed attempt to make a slab leaves a descriptor of its directory open."""
    make, kept = slab.make_slab, []

    def careless(where: Any, *arguments: Any) -> Any:
        try:
            return make(where, *arguments)
        except OSError:
            kept.append(os.open(where[0], os.O_RDONLY))
            raise

    monkeypatch.setattr(slab, "make_slab", careless)
    with pytest.raises(AssertionError, match="leaks descriptors"):
        traced.fail(first_write)
