"""Lease and growth of a slab, and the values that had to wait for them, disturbed at every step."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from mpmetrics.storage import exclusive, geometry, retry, slab
from mpmetrics.storage import format as fmt
from mpmetrics.storage.slab import Slab


def first_write(world: Any, ledger: Any) -> None:
    """A process' first write, to a series that is there: it leases a slab, and folds if many are dead."""
    ledger.do("h", lambda: world.hits.labels("cold").inc())


def leave_two(world: Any, ledger: Any) -> None:
    """Leave two dead slabs, which the next to lease one folds."""
    world.bury(2, lambda: ledger.do("s", lambda: world.sizes.labels("dead").observe(0.25)))


def lease(world: Any, ledger: Any) -> None:
    """Have a slab of one segment."""
    ledger.do("h", lambda: world.hits.labels("warm").inc())


def grow(world: Any, ledger: Any) -> None:
    """A write to a series that lies behind the slab's end."""
    ledger.do("s", lambda: world.deep.labels("wide").observe(0.25))


def be_short(world: Any, ledger: Any) -> None:
    """Count what the store cannot take: a slab's words, and a series."""
    retry.FIRST_PAUSE = 1000.0  # the thread that moves private values in would come in between

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        ledger.promise("s", lambda: world.sizes.labels("short").observe(0.25))
        patch.setattr(os, "pwrite", full)
        ledger.promise("h", lambda: world.hits.labels(f"short-{ledger.step}").inc())


def move_in(world: Any, ledger: Any) -> None:
    """Private values move into the store."""
    world.provider.force_flush()
    if not world.memory._is_waiting():
        ledger.keep()


OPERATIONS = pytest.mark.parametrize(
    ("operation", "prepare"), [(first_write, leave_two), (grow, lease), (move_in, be_short)]
)


@OPERATIONS
def test_killed_anywhere(operation: Any, prepare: Any, sweep: Any) -> None:
    """Killed before any line, a process leaves exact totals, no slab, and the store to the next one."""
    sweep.kill(operation, prepare)


@OPERATIONS
def test_interrupted_anywhere(operation: Any, prepare: Any, sweep: Any) -> None:
    """An exception out of a signal handler costs the write that it interrupts, and nothing else."""
    sweep.interrupt(operation, prepare)


@OPERATIONS
def test_an_error_anywhere(operation: Any, prepare: Any, sweep: Any) -> None:
    """Whichever call into the system fails, and how: the request succeeds, and is counted in the store in the end."""
    sweep.fail(operation, prepare)


@OPERATIONS
def test_an_error_of_the_kernel(operation: Any, prepare: Any, traced: Any) -> None:
    """The same out of the kernel."""
    traced.fail(operation, prepare)


def test_the_sweep_finds_a_capacity_that_is_not_there(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with the capacity stored before its blocks are allocated, an error leaves a slab that is no slab."""
    words = Slab.words

    def hasty(self: Any, number: int) -> Any:
        self._head[fmt.CAPACITY] = max(self._head[fmt.CAPACITY], geometry.segment_span(number)[1])
        if number:
            os.posix_fallocate(self._descriptor.fileno(), 0, self._head[fmt.CAPACITY])
        return words(self, number)

    monkeypatch.setattr(Slab, "words", hasty)
    with pytest.raises(AssertionError):
        sweep.fail(grow, lease)


def test_the_sweep_finds_a_slab_without_a_lease(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a slab that is linked although it is not locked is folded while its owner still writes to it."""

    class Loose(exclusive.Lease):
        def __init__(self, path: str, owner: Any) -> None:
            super().__init__(path, owner)
            exclusive.unlock_descriptor(self.fileno())

    def fold_and_write(world: Any, ledger: Any) -> None:
        lease(world, ledger)
        world.collector.fold()
        lease(world, ledger)

    monkeypatch.setattr(slab, "Lease", Loose)
    sweep.only = ("slab.py:Slab.__init__",)
    with pytest.raises(AssertionError):
        sweep.kill(fold_and_write)


def test_the_sweep_finds_a_descriptor_that_leaks(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a slab that cannot be made keeps the descriptor of its file."""
    kept = []

    def careless(temporary: str, lease: Any) -> None:
        kept.append(lease)
        os.unlink(temporary)  # noqa: PTH108

    monkeypatch.setattr(slab, "_discard", careless)
    with pytest.raises(AssertionError, match=r"leaks descriptors|came out"):
        sweep.fail(first_write)
