"""Append: a family declared and a series obtained, disturbed at every step."""

from __future__ import annotations

from typing import Any

import pytest

import mpmetrics
from mpmetrics.storage import format as fmt
from mpmetrics.storage import locks
from mpmetrics.storage.directory import SeriesDirectory
from mpmetrics.storage.locks import AppendLock


def lease(world: Any, ledger: Any) -> None:
    """Have a slab before what is looked at begins."""
    ledger.do("h", lambda: world.hits.labels("warm").inc())


def obtain(world: Any, ledger: Any) -> None:
    """The first uses of two series."""
    ledger.do("h", lambda: world.hits.labels(f"way-{ledger.step}").inc())
    ledger.do("s", lambda: world.sizes.labels(f"way-{ledger.step}").observe(0.25))


def declare(world: Any, ledger: Any) -> None:
    """A new metric, and its first series."""
    mpmetrics.Counter(f"more_{ledger.step}", "More.", ["way"], provider=world.provider).labels("there").inc()


@pytest.mark.parametrize("operation", [obtain, declare])
def test_killed_anywhere(operation: Any, sweep: Any) -> None:
    """Killed before any line of a first use, a process leaves the store exact and to the next one."""
    sweep.kill(operation, lease)


@pytest.mark.parametrize("operation", [obtain, declare])
def test_interrupted_anywhere(operation: Any, sweep: Any) -> None:
    """An exception out of a signal handler costs the use that it interrupts, and nothing else."""
    sweep.interrupt(operation, lease)


@pytest.mark.parametrize("operation", [obtain, declare])
def test_an_error_anywhere(operation: Any, sweep: Any) -> None:
    """Whichever call into the system fails, and how: the request succeeds and is counted."""
    sweep.fail(operation, lease)


@pytest.mark.parametrize("operation", [obtain, declare])
def test_an_error_of_the_kernel(operation: Any, traced: Any) -> None:
    """The same out of the kernel."""
    traced.fail(operation, lease)


def test_the_sweep_finds_a_commit_before_the_record(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with the commit stored first, a kill leaves readers a record that is not there."""
    append = SeriesDirectory._append

    def hasty(self: Any, kind: int, body: list[Any]) -> None:
        self.words[fmt.COMMITTED] += 64
        self.words[fmt.COMMITTED] -= 64 * bool(append(self, kind, body))  # type: ignore[func-returns-value]

    monkeypatch.setattr(SeriesDirectory, "_append", hasty)
    sweep.only = ("series_file.py:write_all",)
    with pytest.raises(AssertionError):
        sweep.kill(obtain, lease)


def test_the_sweep_finds_a_lock_that_an_interrupt_leaves(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: nobody gives back a lock that an exception left taken."""
    monkeypatch.setattr(AppendLock, "settle", lambda *_: None)
    sweep.only = ("locks.py:AppendLock.release",)
    with pytest.raises(AssertionError, match="a lock is left"):
        sweep.interrupt(obtain, lease)


def test_the_sweep_finds_an_error_that_comes_out(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: an unlock that fails in the middle of a request."""

    def release(self: Any, _: object = None) -> None:
        locks.fcntl.flock(self._descriptor.fileno(), locks.fcntl.LOCK_UN)
        self._user = None
        self._threads.release()

    monkeypatch.setattr(AppendLock, "release", release)
    with pytest.raises(AssertionError, match="came out"):
        sweep.fail(declare, lease)
