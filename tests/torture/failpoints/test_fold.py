"""Fold and the retired file's replacement, disturbed at every step."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from mpmetrics.errors import FormatError
from mpmetrics.storage import fold as fold_module
from mpmetrics.storage.fold import fold
from mpmetrics.storage.retired import load_retired


def leave_three(world: Any, ledger: Any) -> None:
    """Leave three dead slabs."""

    def count() -> None:
        ledger.do("h", lambda: world.hits.labels("dead").inc())
        ledger.do("s", lambda: world.sizes.labels("dead").observe(0.25))

    world.bury(3, count)


def fold_them(world: Any, _: Any) -> None:
    """Fold the dead."""
    fold(world.path, timeout=20.0)


def die_before_the_unlinks(world: Any, ledger: Any) -> None:
    """Leave dead slabs of which one folder has taken in some, without living to unlink them."""
    leave_three(world, ledger)
    pid = os.fork()
    if pid == 0:
        fold_module.os.unlink = lambda _: os._exit(0)
        fold(world.path, timeout=20.0)
    os.waitpid(pid, 0)
    world.bury(1, lambda: ledger.do("h", lambda: world.hits.labels("dead").inc()))


PREPARED = pytest.mark.parametrize("prepare", [leave_three, die_before_the_unlinks])


@PREPARED
def test_killed_anywhere(prepare: Any, sweep: Any) -> None:
    """Killed before any line, a folder loses and doubles nothing, and the next one finishes its work."""
    sweep.kill(fold_them, prepare)


@PREPARED
def test_interrupted_anywhere(prepare: Any, sweep: Any) -> None:
    """An exception out of a signal handler loses and doubles nothing; the same process folds on."""
    sweep.interrupt(fold_them, prepare)


@PREPARED
def test_an_error_anywhere(prepare: Any, sweep: Any) -> None:
    """Whichever call into the system fails, and how: nothing is lost or doubled, the next fold goes through."""
    sweep.may_raise = (OSError, FormatError)
    sweep.fail(fold_them, prepare)


@PREPARED
def test_an_error_of_the_kernel(prepare: Any, traced: Any) -> None:
    """The same out of the kernel."""
    traced.may_raise = (OSError, FormatError)
    traced.fail(fold_them, prepare)


def test_a_contained_slab_that_cannot_be_looked_at_counts_once(world: Any) -> None:
    """A slab that a killed folder did not unlink stays named, even if the next one is out of descriptors just then."""

    def fold_blindly(ledger: Any) -> object:
        die_before_the_unlinks(world, ledger)
        contained = load_retired(world.path).slabs
        real, unlink = os.open, os.unlink

        def short(path: Any, *arguments: Any) -> int:
            if any(identity in str(path) for identity in contained):
                raise OSError(errno.EMFILE, "too many open files")
            return real(path, *arguments)

        def stay(path: Any) -> None:
            if any(identity in str(path) for identity in contained):
                raise OSError(errno.EACCES, "it stays")
            unlink(path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "open", short)
            patch.setattr(os, "unlink", stay)
            with pytest.raises(PermissionError):  # the number of files is going to grow: this has to be said
                fold(world.path, timeout=20.0)
        return len(contained), load_retired(world.path).folded

    outcome = world.child(fold_blindly)

    assert outcome.said == [3, 4]
    world.check(outcome, "after a fold that could not look at what is contained already")


def test_the_sweep_finds_a_retired_file_without_its_list(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: if the retired file does not name what it contains, a kill after the commit counts it twice."""
    retire = fold_module.retire

    def forgetful(*arguments: Any) -> Any:
        retired = retire(*arguments)
        retired.slabs = set()
        return retired

    monkeypatch.setattr(fold_module, "retire", forgetful)
    sweep.only = ("fold.py:_unlink",)
    with pytest.raises(AssertionError, match="killed at"):
        sweep.kill(fold_them, leave_three)


def test_the_sweep_finds_an_unlink_before_the_commit(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: if the slabs go before the retired file is there, a kill in between loses them."""
    write_retired = fold_module.write_retired

    def hasty(path: str, retired: Any, owner: Any) -> None:
        names = [name for name in os.listdir(path) if name.rpartition("-")[2] in retired.slabs]
        bodies = {name: os.rename(f"{path}/{name}", f"{path}/gone-{name}") for name in names}  # noqa: PTH104
        write_retired(path, retired, owner)
        for name in bodies:
            os.rename(f"{path}/gone-{name}", f"{path}/{name}")  # noqa: PTH104

    monkeypatch.setattr(fold_module, "write_retired", hasty)
    sweep.only = ("retired.py:write_retired",)
    with pytest.raises(AssertionError, match="killed at"):
        sweep.kill(fold_them, leave_three)
