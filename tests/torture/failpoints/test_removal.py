"""Removal, the reuse of its slots, and compaction, disturbed at every step."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

import mpmetrics
from mpmetrics.errors import StoreError
from mpmetrics.storage import departures
from mpmetrics.storage import directory as directory_module
from mpmetrics.storage import format as fmt
from mpmetrics.storage.directory import SeriesDirectory
from mpmetrics.storage.segments import Segments


def doom(world: Any, ledger: Any) -> None:
    """Have a slab and a series that is going to be removed."""
    directory_module.REUSE_AT = 1
    world.hits.labels(f"doomed-{ledger.step}").inc()


def remove(world: Any, ledger: Any) -> None:
    """Remove it, and give its slots to another one."""
    world.hits.remove(f"doomed-{ledger.step}")
    ledger.do("h", lambda: world.hits.labels(f"new-{ledger.step}").inc())


def doom_and_compact(world: Any, ledger: Any) -> None:
    """The same, before a removal that compacts the file."""
    doom(world, ledger)
    directory_module.COMPACT_AT = -1_000_000


def compact(world: Any, ledger: Any) -> None:
    """Remove a series, which compacts the file."""
    world.hits.remove(f"doomed-{ledger.step}")


OPERATIONS = pytest.mark.parametrize(("operation", "prepare"), [(remove, doom), (compact, doom_and_compact)])


def passing(world: Any) -> dict[str, float]:
    """The series that come and go, by their label."""
    fresh = mpmetrics.Collector(world.collector._store.path)
    found = [sample for family in fresh.collect() for sample in family.samples if sample.name == "passing_total"]
    fresh.close()
    return {sample.labels["way"]: sample.value for sample in found}


def doom_another(world: Any, ledger: Any) -> None:
    """Have a series of those that come and go, too, with a value and somebody who holds it."""
    doom(world, ledger)
    world.held = world.passing.labels("held")
    world.held.inc(5)


def remove_both(world: Any, ledger: Any) -> None:
    """Remove both, the one that is held first."""
    world.passing.remove("held")
    remove(world, ledger)


def use_again(world: Any) -> None:
    """What was removed counts from the start when it is used again, and nothing of it shows in who gets its slots."""
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
    """An exception out of a signal handler never leaves a series in slots that another one gets."""
    sweep.inspect = use_again
    sweep.interrupt(remove_both, doom_another)


def test_the_sweep_finds_cells_that_are_not_let_go_of(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a process that forgets its cells before it has taken them from their slots."""
    memory = sweep.world.memory

    def hasty(slots: Any, generation: int) -> None:
        going = memory._departures
        cells = going._bindings.cells_of(slots)
        going._bindings.forget(slots)
        going.finish()
        going._left.append(departures._Departure(cells, slots, generation))
        going.finish()

    monkeypatch.setattr(memory.directory, "_on_removed", hasty)
    sweep.inspect = use_again
    sweep.only = ("departures.py:Departures.finish", "departures.py:Departures._let_go")
    with pytest.raises(AssertionError, match="use_again"):
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
        assert passing(world).get("seen") in {1.0, 2.0}, f"killed at {point}"
        fork(world.passing.clear).result()
    assert hits > 5, "the kills do not hit"
    sweep.tally(hits)


def test_killed_anywhere_others_count_on(sweep: Any, failpoints: Any, fork: Any, gate: Any) -> None:
    """Whoever holds the series counts on in it, or in a new one, but never in one that is gone."""
    kill_beside_a_witness(sweep, failpoints, fork, gate)


def test_the_sweep_finds_a_removal_that_is_not_announced(
    sweep: Any, failpoints: Any, fork: Any, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with the word changed only once the records are there, a kill in between leaves others behind."""
    take = SeriesDirectory._append

    def unannounced(self: Any, kind: int, body: Any) -> None:
        if kind == fmt.REMOVED:
            self.words[fmt.GENERATION] -= 1
        take(self, kind, body)

    monkeypatch.setattr(SeriesDirectory, "_append", unannounced)
    sweep.only = ("directory.py:SeriesDirectory._take_in",)
    with pytest.raises(AssertionError, match="killed at"):
        kill_beside_a_witness(sweep, failpoints, fork, gate)


@OPERATIONS
def test_killed_anywhere(operation: Any, prepare: Any, sweep: Any) -> None:
    """Killed before any line, a process leaves the series as it was or removes it; all others are exact."""
    sweep.world.compacts = operation is compact
    sweep.kill(operation, prepare)


@OPERATIONS
def test_interrupted_anywhere(operation: Any, prepare: Any, sweep: Any) -> None:
    """An exception out of a signal handler leaves the series as it was or removes it; the process goes on."""
    sweep.world.compacts = operation is compact
    sweep.interrupt(operation, prepare)


@OPERATIONS
def test_an_error_anywhere(operation: Any, prepare: Any, sweep: Any) -> None:
    """Whichever call into the system fails, and how: it is done, or ``remove`` says that it was not."""
    sweep.world.compacts = operation is compact
    sweep.may_raise = (StoreError,)
    sweep.fail(operation, prepare)


@OPERATIONS
def test_an_error_of_the_kernel(operation: Any, prepare: Any, traced: Any) -> None:
    """The same out of the kernel."""
    traced.world.compacts = operation is compact
    traced.may_raise = (StoreError,)
    traced.fail(operation, prepare)


def test_interrupted_while_the_compacted_file_is_opened(sweep: Any) -> None:
    """Half of the old file and half of the new one is neither: the file is opened again."""
    sweep.world.compacts = True
    sweep.only = ("directory.py:SeriesDirectory._open", "directory.py:SeriesDirectory._reopen")
    sweep.interrupt(compact, doom_and_compact)


def test_the_sweep_finds_slots_that_are_not_zero(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a process that says it has let go of removed series, and leaves their values in the slots."""
    let_go = Segments.let_go
    monkeypatch.setattr(Segments, "let_go", lambda self, _, generation: let_go(self, [], generation))
    sweep.only = ("directory.py:SeriesDirectory._append",)
    with pytest.raises(AssertionError):
        sweep.kill(remove, doom)


def test_the_sweep_finds_a_compaction_that_nobody_is_told_of(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the word that says so, others go on with the file that was replaced."""

    class Deaf:
        def __init__(self, words: Any) -> None:
            self._words = words

        def __getitem__(self, index: int) -> int:
            return int(self._words[index])

        def __setitem__(self, index: int, value: int) -> None:
            if index != fmt.SUPERSEDED:
                self._words[index] = value

    compact_file = SeriesDirectory._compact

    def quiet(self: Any) -> None:
        words, self.words = self.words, Deaf(self.words)
        try:
            compact_file(self)
        finally:
            if isinstance(self.words, Deaf):
                self.words = words

    monkeypatch.setattr(SeriesDirectory, "_compact", quiet)
    sweep.only = ("directory.py:SeriesDirectory._append",)
    sweep.world.compacts = True
    with pytest.raises(AssertionError):
        sweep.kill(compact, doom_and_compact)
