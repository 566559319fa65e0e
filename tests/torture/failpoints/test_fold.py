"""A fold (it replaces the retired file, marks slabs and unlinks them), disturbed at every step."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from mpmetrics.errors import StoreError
from mpmetrics.storage import fold as fold_module
from mpmetrics.storage import format as fmt
from mpmetrics.storage.fold import fold
from mpmetrics.storage.retire import Contents


def leave_three(world: Any, ledger: Any) -> None:
    """Leave three dead slabs."""

    def count() -> None:
        ledger.do("h", lambda: world.hits.labels("dead").inc())
        ledger.do("s", lambda: world.sizes.labels("dead").observe(0.25))

    world.bury(3, count)


def fold_them(world: Any, _: Any) -> None:
    """Fold the dead."""
    fold(world.path)


def _die_before(world: Any, where: Any, step: str) -> None:
    """Kill a folding process before it marks the first slab that it folded, or before it unlinks it."""
    pid = os.fork()
    if pid == 0:
        setattr(where, step, lambda *_, **__: os._exit(0))
        try:
            fold(world.path)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def die_before_the_marks(world: Any, ledger: Any) -> None:
    """Leave dead slabs, some of which are in the retired file without a mark, since the folding process was killed."""
    leave_three(world, ledger)
    _die_before(world, fold_module._Fold, "_mark")
    world.bury(1, lambda: ledger.do("h", lambda: world.hits.labels("dead").inc()))


def die_before_the_unlinks(world: Any, ledger: Any) -> None:
    """Leave dead slabs, some of which are in the retired file and marked, but not unlinked."""
    leave_three(world, ledger)
    _die_before(world, os, "unlink")
    world.bury(1, lambda: ledger.do("h", lambda: world.hits.labels("dead").inc()))


PREPARED = pytest.mark.parametrize("prepare", [leave_three, die_before_the_marks, die_before_the_unlinks])


@PREPARED
def test_killed_anywhere(prepare: Any, sweep: Any) -> None:
    """A fold that is killed before any line loses and doubles nothing, and the next fold completes it."""
    sweep.kill(fold_them, prepare)


@PREPARED
def test_interrupted_anywhere(prepare: Any, sweep: Any) -> None:
    """An exception from a signal handler loses and doubles nothing, and the same process can fold again."""
    sweep.interrupt(fold_them, prepare)


@PREPARED
def test_an_error_anywhere(prepare: Any, sweep: Any) -> None:
    """When a system call fails in any way, nothing is lost or doubled, and the next fold succeeds."""
    sweep.may_raise = (OSError, StoreError)
    sweep.fail(fold_them, prepare)


@PREPARED
def test_an_error_of_the_kernel(prepare: Any, traced: Any) -> None:
    """The same holds when the kernel itself returns the error."""
    traced.may_raise = (OSError, StoreError)
    traced.fail(fold_them, prepare)


def test_a_contained_slab_that_cannot_be_looked_at_counts_once(world: Any) -> None:
    """The retired file keeps naming a folded slab without a mark, even when the next fold is out of descriptors."""

    def fold_blindly(ledger: Any) -> object:
        leave_three(world, ledger)
        _die_before(world, fold_module._Fold, "_mark")
        world.bury(1, lambda: ledger.do("h", lambda: world.hits.labels("dead").inc()))
        # The one that died last has taken the name of the one before it, which had that of the one before it.
        contained, real = [name for name in os.listdir(world.path) if name.startswith("dead-")], os.open

        def short(path: Any, *arguments: Any, **named: Any) -> int:
            if path in contained:
                raise OSError(errno.EMFILE, "too many open files")
            return real(path, *arguments, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "open", short)
            folded = fold(world.path)
        return len(contained), folded

    outcome = world.child(fold_blindly)

    assert [3, 1] == outcome.said
    world.check(outcome, "after a fold that could not look at what is contained already")


def test_the_sweep_finds_a_retired_file_without_its_list(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a retired file without its list of slabs counts them twice after a kill behind the commit."""
    add = Contents.add_record

    def forgetful(self: Any, kind: int, body: bytes) -> None:
        if kind != fmt.FOLDED:
            add(self, kind, body)

    monkeypatch.setattr(Contents, "add_record", forgetful)
    sweep.only = ("storage/fold.py:_Fold._remove", "storage/fold.py:_Fold._mark")
    sweep.least = 0
    with pytest.raises(AssertionError, match="killed at"):
        sweep.kill(fold_them, leave_three)


def test_the_sweep_finds_an_unlink_before_the_commit(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: slabs that are unlinked before the new retired file is in place are lost by a kill in between."""
    write = fold_module._Fold._write

    def hasty(self: Any, readers: Any, names: Any) -> None:
        for reader in readers:
            os.unlink(reader.where)  # noqa: PTH108
        write(self, readers, names)

    monkeypatch.setattr(fold_module._Fold, "_write", hasty)
    sweep.only = ("storage/fold.py:_fill",)
    sweep.least = 0
    with pytest.raises(AssertionError, match="killed at"):
        sweep.kill(fold_them, leave_three)
