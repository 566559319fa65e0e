"""Removal, the reuse of its slots, and compaction, disturbed at every step."""

from __future__ import annotations

from typing import Any

import pytest

from mpmetrics.errors import StoreError
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
