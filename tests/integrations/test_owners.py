"""A server of an ordinary user whose store becomes unreadable or disappears while it runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Serve = Callable[..., Any]

NOBODY = 65534


@pytest.fixture
def ordinary(serve: Serve) -> Serve:
    """Make servers that run as an ordinary user from the start."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("becomes another user")

    def make(*arguments: str) -> Any:
        server = serve(*arguments)
        os.chown(server.home, NOBODY, NOBODY)
        server.command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *server.command]
        return server

    return make


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """Mount an empty read-only file system over a directory."""
    mounts: list[Path] = []

    def make(path: Path) -> None:
        path.mkdir()
        options = f"ro,size=4m,mode=0700,uid={NOBODY},gid={NOBODY}"
        command = ["/bin/mount", "-t", "tmpfs", "-o", options, "none", str(path)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no file system can be mounted here")
        mounts.append(path)

    yield make
    for path in mounts:
        subprocess.run(["/bin/umount", "-l", str(path)], check=True)


def said(server: Any, words: str) -> int:
    """Return how many lines of the log contain these words."""
    return sum(words in line for line in Path(server.log).read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("what", ["store", "epoch"])
@pytest.mark.parametrize("how", ["closed", "root's"])
def test_a_closed_store_costs_no_request_and_no_scrape(ordinary: Serve, what: str, how: str) -> None:
    """While workers and the collector are replaced, no request or scrape fails; after a reload all totals are exact."""
    server = ordinary("-w", "2").start()
    served: list[int] = []

    def visit() -> None:
        served.extend(int(server.get("/page")) for _ in range(10))

    visit()
    server.wait_for(lambda: visit() or len(set(served)) == 2, what="requests to each worker, which have a slab then")
    used, leased = len(served), set(served)
    assert used == server.value('hits_total{path="/page"}')
    store = server.home / "store"
    path = store if what == "store" else next(store.glob("epoch-*"))
    if how == "closed":
        path.chmod(0)
    else:
        os.chown(path, 0, 0)
    visit()
    used = len(served)
    text = server.scrape()
    assert used == server.value('hits_total{path="/page"}', text)  # the collector has the slabs open
    assert 1 <= server.value("mpmetrics_unreadable_files", text)

    os.kill(server.workers()[0], signal.SIGKILL)
    first = server.collector()
    os.kill(first, signal.SIGKILL)
    server.wait_for(lambda: server.collector() not in (None, first))
    text = server.wait_for(server.scrape)
    assert 0 == server.value("mpmetrics_store_up", text)
    assert 1 == said(server, "without an election")
    server.wait_for(lambda: len(server.workers()) == 2)
    visit()
    second, before = server.collector(), set(server.workers())
    server.signal(signal.SIGHUP)
    server.wait_for(lambda: len(server.workers()) == 2 and not before & set(server.workers()))
    server.wait_for(lambda: server.collector() not in (None, second))
    visit()
    assert 0 == server.value("mpmetrics_store_up")

    path.chmod(0o700)
    os.chown(path, NOBODY, NOBODY)
    # Without the workers that lived only meanwhile: they had no place for their counts.
    kept = leased | set(server.workers())
    served = [pid for pid in served if pid in kept]
    visit()
    # A worker that had no slab until now moves its values in a moment after its first request.
    server.wait_for(lambda: server.value('hits_total{path="/page"}') >= len(served), what="waiting values to move in")
    text = server.scrape()
    assert len(served) == server.value('hits_total{path="/page"}', text)
    assert 1 == server.value("mpmetrics_store_up", text)
    assert 0 == server.value("mpmetrics_unreadable_files", text)
    assert 0 == server.stop()


def test_a_server_on_a_read_only_disk_serves_and_has_a_store_after_a_reload(
    ordinary: Serve, read_only: Callable[[Path], None]
) -> None:
    """The log says why once, scrapes have store_up 0, and a reload makes a store once the disk is writable."""
    server = ordinary("-w", "2")
    read_only(server.home / "store")
    server.start()
    for _ in range(5):
        server.get("/page")
    assert 1 == said(server, "Read-only file system") == said(server, "the server runs")
    assert 0 == server.value("mpmetrics_store_up")
    assert 0 == server.value('hits_total{path="/page"}')

    subprocess.run(["/bin/mount", "-o", "remount,rw", str(server.home / "store")], check=True)
    old = set(server.workers())
    server.signal(signal.SIGHUP)
    server.wait_for(lambda: len(server.workers()) == 2 and not old & set(server.workers()))
    server.wait_for(lambda: server.value("mpmetrics_store_up"))
    for _ in range(10):
        server.get("/page")
    assert 10 == server.value('hits_total{path="/page"}')
    assert 0 == server.stop()
