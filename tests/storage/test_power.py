"""A root master beside workers of another user: that user controls the store, but gains no power over root."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

import mpmetrics
from mpmetrics.integrations.server_store import ServerStore
from mpmetrics.storage import store as store_module
from mpmetrics.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Scrape = Callable[..., dict[str, float]]

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def _as_nobody(function: Callable[[], object]) -> None:
    """Run ``function`` in a child of user nobody; fail if it fails."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            function()
            status = 0
        finally:
            os._exit(status)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def master(fast_dir: Path) -> Iterator[mpmetrics.Provider]:
    """A provider of root in a server's epoch, in a store of user nobody."""
    fast_dir.chmod(0o755)
    made = mpmetrics.Provider.deferred()
    mpmetrics.Counter("early", "x", provider=made)
    ServerStore({}).enter(made, str(fast_dir / "store"), SimpleNamespace(uid=NOBODY, gid=NOBODY))
    yield made
    made.shutdown()


def _metric(master: mpmetrics.Provider) -> mpmetrics.Counter:
    return mpmetrics.Counter("hooks", "x", ["hook"], provider=master)


def test_masters_counts_are_read_by_workers(master: mpmetrics.Provider, scrape: Scrape) -> None:
    """The master's slab belongs to root, and a collector of user nobody reads it like the workers' slabs."""
    hooks = _metric(master)
    hooks.labels("start").inc(3)
    found: Path = Path(str(master.directory), "found")

    def collect() -> None:
        hooks.labels("start").inc(4)
        found.write_text(str(scrape(str(master.directory))["hooks_total{hook=start}"]))

    _as_nobody(collect)
    assert "7.0" == found.read_text()
    path = Path(str(master.epoch.path if master.epoch else ""))
    owners = {entry.stat().st_uid: oct(entry.stat().st_mode & 0o777) for entry in path.glob("idle-*")}
    owners |= {entry.stat().st_uid: oct(entry.stat().st_mode & 0o777) for entry in path.glob("slab-*")}
    assert {0: "0o644", NOBODY: "0o600"} == owners


@pytest.mark.parametrize("plant", ["link", "directory"])
def test_root_makes_no_file_where_a_worker_points_to(master: mpmetrics.Provider, fast_dir: Path, plant: str) -> None:
    """With a link or another directory in the epoch's place, root makes no file there and counts in memory."""
    target = fast_dir / "roots"
    target.mkdir(0o755)
    path = Path(str(master.epoch.path if master.epoch else ""))

    def swap() -> None:
        path.rename(f"{path}.away")
        if plant == "link":
            path.symlink_to(target)
        else:
            path.mkdir()

    _as_nobody(swap)
    _metric(master).labels("start").inc()

    assert [] == list(target.iterdir())
    if plant == "directory":
        assert [] == list(path.iterdir())


@pytest.mark.parametrize("name", ["shared", "removals", "lease"])
def test_a_file_that_workers_cut_short_does_not_end_the_master(master: mpmetrics.Provider, name: str) -> None:
    """Root maps no file that others can truncate, so no truncated file ends it with SIGBUS."""
    hooks = _metric(master)
    hooks.labels("start").inc()
    path = Path(str(master.epoch.path if master.epoch else ""))
    pid = os.fork()
    if pid == 0:  # stays root
        try:
            _as_nobody(lambda: os.truncate(path / name, 0))
            for hook in ("start", "reload"):
                hooks.labels(hook).inc()
            mpmetrics.Gauge("later", "x", provider=master).set(1)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert -signal.SIGBUS != status
    assert 0 == status


def test_workers_cannot_truncate_the_masters_slab(master: mpmetrics.Provider) -> None:
    """The master's slab belongs to root from the start, even before it counts, so workers cannot truncate it."""
    (slab,) = Path(str(master.epoch.path if master.epoch else "")).glob("idle-*")

    def cut() -> None:
        with pytest.raises(PermissionError):
            os.truncate(slab, 0)

    _as_nobody(cut)


def test_a_link_in_the_place_of_an_epoch_that_begins(fast_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """User nobody replaces a beginning epoch by a link once it owns the directory: root makes no file there."""
    target = fast_dir / "roots"
    target.mkdir(0o755)
    store = Store(fast_dir / "store", owner=(NOBODY, NOBODY))
    secure = store_module._secure_directory

    def swap(path: str, owner: tuple[int, int]) -> object:
        descriptor = secure(path, owner)
        Path(path).rename(f"{path}.away")
        Path(path).symlink_to(target)
        return descriptor

    monkeypatch.setattr(store_module, "_secure_directory", swap)
    with pytest.raises(mpmetrics.StoreUnavailableError):
        store.join()

    assert [] == list(target.iterdir())


def test_a_removal_by_a_worker_reaches_the_master(master: mpmetrics.Provider, scrape: Scrape) -> None:
    """The master applies removals when it makes a series; values of a removed series are not shown."""
    hooks = _metric(master)
    hooks.labels("start").inc(3)
    _as_nobody(lambda: hooks.remove("start"))
    hooks.labels("other").inc()
    hooks.labels("start").inc(2)
    copy = Path(str(master.directory) + ".copy")
    shutil.copytree(str(master.directory), copy)

    found = scrape(str(master.directory))
    assert [2, 1] == [found["hooks_total{hook=start}"], found["hooks_total{hook=other}"]]
