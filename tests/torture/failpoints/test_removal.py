"""The removal of series, the reuse of their words, and the shortening of the removals file, disturbed at every step."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

import mpmetrics
from mpmetrics import _cells
from mpmetrics._cells.children import Children
from mpmetrics.errors import StoreError
from mpmetrics.storage import fold as fold_module
from mpmetrics.storage import memory as memory_module
from mpmetrics.storage import removals as removals_module
from mpmetrics.storage.memory import Memory
from mpmetrics.storage.removals import Removals


def doom(world: Any, ledger: Any) -> None:
    """Have a slab and a series that is going to be removed."""
    world.hits.labels(f"doomed-{ledger.step}").inc()


def remove(world: Any, ledger: Any) -> None:
    """Remove it, and give its words to another one."""
    world.hits.remove(f"doomed-{ledger.step}")
    ledger.do("h", lambda: world.hits.labels(f"new-{ledger.step}").inc())


def be_long(*_: Any) -> None:
    """Have this process take the list of removals for a long one."""
    memory_module.SHORTEN_AT = fold_module.SHORTEN_AT = 1  # type: ignore[misc]


def doom_and_be_long(world: Any, ledger: Any) -> None:
    """The same, before a removal after which the list is shortened."""
    doom(world, ledger)
    be_long()


def shorten(world: Any, ledger: Any) -> None:
    """Remove a series, which shortens the list."""
    world.hits.remove(f"doomed-{ledger.step}")


OPERATIONS = pytest.mark.parametrize(("operation", "prepare"), [(remove, doom), (shorten, doom_and_be_long)])


def passing(world: Any) -> dict[str, float]:
    """The series that come and go, by their label."""
    fresh = mpmetrics.Collector(world.provider.directory)
    found = [sample for family in fresh.collect() for sample in family.samples if sample.name == "passing_total"]
    fresh.close()
    return {sample.labels["way"]: sample.value for sample in found}


@OPERATIONS
def test_killed_anywhere(operation: Any, prepare: Any, sweep: Any) -> None:
    """A kill before any line leaves the series as it was or removes it for good; all other series are exact."""
    sweep.kill(operation, prepare)


@OPERATIONS
def test_interrupted_anywhere(operation: Any, prepare: Any, sweep: Any) -> None:
    """An exception from a signal handler leaves the series as it was or removes it, and the process goes on."""
    sweep.interrupt(operation, prepare)


@OPERATIONS
def test_an_error_anywhere(operation: Any, prepare: Any, sweep: Any) -> None:
    """When a system call fails in any way, ``remove`` succeeds or raises and removes nothing."""
    sweep.may_raise = (StoreError,)
    sweep.fail(operation, prepare)


@OPERATIONS
def test_an_error_of_the_kernel(operation: Any, prepare: Any, traced: Any) -> None:
    """The same holds when the kernel itself returns the error."""
    traced.may_raise = (StoreError,)
    traced.fail(operation, prepare)


def test_the_sweep_finds_a_removal_that_takes_effect_later(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a killed process's removal takes effect with the next removal, unless it is overwritten."""

    class Os:
        ftruncate = staticmethod(lambda *_: None)

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

    monkeypatch.setattr(removals_module, "os", Os())
    monkeypatch.setattr(
        removals_module, "write_all", lambda file, data, _: os.pwrite(file, data, os.fstat(file).st_size)
    )
    sweep.only = ("storage/removals.py:Removals.append", "storage/shared.py:Shared._store")
    with pytest.raises(AssertionError, match="killed at"):
        sweep.kill(remove, doom)


def doom_another(world: Any, ledger: Any) -> None:
    """Have a series of those that come and go, too, with a value, and a reference to it."""
    doom(world, ledger)
    world.held = world.passing.labels("held")
    world.held.inc(5)


def remove_both(world: Any, ledger: Any) -> None:
    """Remove both, the one that is held first."""
    world.passing.remove("held")
    remove(world, ledger)


def use_again(world: Any) -> None:
    """A removed series that is used again counts from zero, and the series that gets its words shows nothing of it."""
    world.passing.labels("held").inc()
    assert passing(world)["held"] in {1.0, 6.0}
    world.passing.clear()
    for number in range(70):
        world.passing.labels(f"old-{number}").inc()
        world.passing.remove(f"old-{number}")
    world.held.inc(1000)
    for number in range(140):
        world.passing.labels(f"young-{number}").inc()
    world.held.inc(1000)
    assert dict.fromkeys((f"young-{number}" for number in range(140)), 1.0) == passing(world)
    world.passing.clear()


def test_interrupted_anywhere_and_used_again(sweep: Any) -> None:
    """An exception from a signal handler never leaves two series on the same words."""
    sweep.inspect = use_again
    sweep.interrupt(remove_both, doom_another)


@pytest.mark.skipif(_cells.TWIN != "pure", reason="what is made wrong for it is in Python")
def test_the_sweep_finds_cells_that_are_not_let_go_of(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a process ends a series and leaves its cell pointing at the words."""
    end = Children.end

    def hasty(self: Any, key: Any) -> bool:
        cell = self.get(key)
        before = None if cell is None else (cell._words, cell._bits, cell._at)
        ended: bool = end(self, key)
        if before is not None:
            cell._words, cell._bits, cell._at = before
        return ended

    monkeypatch.setattr(Children, "end", hasty)
    sweep.inspect = use_again
    sweep.only = ("storage/memory.py:Memory.remove",)
    with pytest.raises(AssertionError, match="undisturbed: h"):
        sweep.interrupt(remove_both, doom_another)


def kill_beside_a_witness(sweep: Any, failpoints: Any, fork: Any, gate: Any) -> None:
    """Kill a process anywhere in a removal, beside one that holds the series and only ever counts in it."""
    world = sweep.world

    def hold(world: Any, _: Any = None) -> None:
        world.passing.labels("seen").inc(0)

    def remove_it(world: Any, _: Any = None) -> None:
        world.passing.remove("seen")

    def count(ready: Any, killed: Any) -> None:
        world.passing.labels("seen").inc()
        ready.open()
        killed.wait()
        world.passing.labels("seen").inc()

    hits = 0
    for point in sweep.points(remove_it, hold):
        ready, killed = gate(), gate()
        witness = fork(count, ready, killed)
        ready.wait()

        def remove_and_die(_: Any, point: Any = point) -> None:
            hold(world)
            with failpoints(point, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                remove_it(world)

        hits += world.child(remove_and_die).status == -signal.SIGKILL
        killed.open()
        witness.result()
        for each in (ready, killed):
            each.close()
        assert passing(world).get("seen") in {1.0, 2.0}, f"killed at {point}"
        fork(world.passing.clear).result()
    sweep.hit(hits)


def test_holders_of_a_series_count_on_after_a_kill_anywhere(sweep: Any, failpoints: Any, fork: Any, gate: Any) -> None:
    """A process that holds the removed series counts on in it or in a new series, never in a removed one."""
    kill_beside_a_witness(sweep, failpoints, fork, gate)


def test_the_sweep_finds_a_removal_that_is_not_noticed(
    sweep: Any, failpoints: Any, fork: Any, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a process that reads a removal but ends no series counts in a series that is not shown."""
    monkeypatch.setattr(Memory, "_apply", lambda *_: None)
    with pytest.raises(AssertionError, match="killed at"):
        kill_beside_a_witness(sweep, failpoints, fork, gate)


@pytest.mark.parametrize("forgets", [False, True], ids=["", "control"])
def test_a_removal_that_is_needed_stays_in_the_list(
    world: Any, fork: Any, gate: Any, monkeypatch: pytest.MonkeyPatch, *, forgets: bool
) -> None:
    """A removal stays in the shortened file while a living process that has not read it holds the series."""
    ready, end = gate(), gate()

    def hold() -> None:
        world.passing.labels("held").inc()
        ready.open()
        end.wait()

    def remove_and_shorten() -> None:
        world.passing.remove("held")
        be_long()
        world.passing.remove("other")

    shorten = Removals.shorten
    if forgets:
        monkeypatch.setattr(Removals, "shorten", lambda self, _: shorten(self, set()))
    holder = fork(hold)
    ready.wait()
    fork(remove_and_shorten).result()

    assert passing(world) == ({"held": 1.0} if forgets else {})
    end.open()
    holder.result()
