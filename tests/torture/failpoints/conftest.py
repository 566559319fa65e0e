"""Sweeps: kills, interrupts and errors at every step of the storage code, and what must hold after each.

A :class:`Sweep` runs an operation once for each of its failpoints, each time in a new child, and then has the
:class:`World` checked: totals against the child's account, leftovers, and that the next process goes on. The failpoints
are the lines of ``mpmetrics/storage``, for kills with the twin in Python also those of ``mpmetrics/_cells``, and the
system calls. The short form tries a sample of them, another one each time. With ``MPMETRICS_TORTURE_SECONDS`` in the
environment it is all of them, and from 3600 on every instruction instead of every line.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("world", "sweep")

from injections import EVERYWHERE, LONG, Calls, Failpoints, Traced  # noqa: E402
from sweep import ERRORS, Sweep  # noqa: E402
from world import Ledger, World  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def world() -> Iterator[World]:
    """A store of its own."""
    path = tempfile.mkdtemp(prefix="mpmetrics-test-", dir="/dev/shm")
    made = World(f"{path}/store")
    yield made
    made.close()
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def sweep(world: World, tally: Callable[..., None]) -> Sweep:
    """Sweeps over that store; how much was tried stands in the table."""
    return Sweep(world, tally)


@pytest.fixture
def traced(sweep: Sweep) -> Sweep:
    """A sweep whose errors come out of the kernel; skips the test where strace cannot trace a process of ours."""

    def try_it(_: Ledger) -> list[str]:
        traced = Traced()
        with traced:
            os.chmod(sweep.world.path, 0o700)  # noqa: PTH101 (a call that is traced)
        return traced.made

    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    tried = sweep.world.child(try_it)
    if tried.status or "chmod" not in str(tried.said):
        pytest.skip(f"strace cannot be attached to a process: {str(tried.said).splitlines()[-1]}")
    sweep.calls, sweep.samples = Traced, 12
    return sweep


@pytest.fixture
def sweep_everywhere(world: World, tally: Callable[..., None]) -> Sweep:
    """The same, with failpoints in all that a scrape runs through."""
    return Sweep(world, tally, where=EVERYWHERE, samples=12)


@pytest.fixture
def failpoints() -> type[Failpoints]:
    """Failpoints of one's own."""
    return Failpoints


@pytest.fixture
def calls() -> type[Calls]:
    """Calls of one's own that fail."""
    return Calls


@pytest.fixture
def errors() -> tuple[int, ...]:
    """The errors that are tried."""
    return ERRORS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give sweeps a longer limit: on a busy machine they take many times as long."""
    for item in items:
        if "failpoints" in item.nodeid:
            item.add_marker(pytest.mark.timeout(3600 if LONG else 600))
