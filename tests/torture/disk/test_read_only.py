"""File systems that become read-only under a store, and processes that start on them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems, becomes another user")
NOBODY = 65534


def mount(*arguments: str) -> str:
    """Run mount; what it says when it fails."""
    ended = subprocess.run(["/bin/mount", *arguments], capture_output=True, text=True, check=False)
    return ended.stderr if ended.returncode else ""


@contextlib.contextmanager
def mounted(store: Path, *arguments: str) -> Iterator[Path]:
    """Another file system in the place of the store's directory, which an ordinary user owns."""
    if error := mount(*arguments, str(store)):
        pytest.skip(f"no such file system can be mounted here: {error}")
    try:
        os.chown(store, NOBODY, NOBODY)
        store.chmod(0o700)
        yield store
    finally:
        subprocess.run(["/bin/umount", "-l", str(store)], check=True)


def test_linux_makes_nothing_read_only_under_a_writer_and_readers_need_not_write(
    store_directory: str, person: Callable[..., Any]
) -> None:
    """Linux refuses the remount while a process uses the store; after it, collectors show all and starts say why."""
    with mounted(Path(store_directory, "store"), "-t", "tmpfs", "-o", "size=4m", "none") as store:
        workers = [person(), person()]
        for each in workers:
            each.work()
            each.use("all")
        watcher = person()
        watcher.watch()
        assert 2 == watcher.scrape()["hits_total"]
        assert "busy" in mount("-o", "remount,ro", str(store))  # EBUSY: open for writing, or mapped so
        for each in workers:
            each.use("all", "new")
        assert 6 == watcher.scrape()["hits_total"]
        workers[0].kill()
        assert "busy" in mount("-o", "remount,ro", str(store))
        workers[1].kill()  # not folded before the remount
        assert "" == mount("-o", "remount,ro", str(store))

        late, new = person(), person()
        new.watch()
        assert not late.work(default=True)
        for number in range(3):
            late.use("all", f"late-{number}")
            late.declare(f"later_{number}")
            for each in (watcher, new):
                values = each.scrape()
                assert (6, 6, 0, 1) == tuple(
                    values[name]
                    for name in ("hits_total", "took_count", "mpmetrics_unreadable_files", "mpmetrics_store_up")
                )
        (line,) = late.said()
        assert "Read-only file system" in line
        assert "stay private" in line
        assert "Read-only file system" in person().refusal("begin")
        assert [1, 1] == [sum("cannot be folded" in line for line in each.said()) for each in (watcher, new)]

        assert "" == mount("-o", "remount,rw", str(store))
        after = person()
        assert after.work()
        after.use("all")
        for each in (watcher, new):
            assert 1 == each.scrape()["hits_total"]  # no process lived in the epoch before
        after.kill()
        assert 1 == watcher.scrape()["hits_total"]
        assert [] == list(store.glob("epoch-*/slab-*"))
        for each in (watcher, new, late):
            each.kill()


def test_a_disk_whose_file_system_fails_under_its_writers_stops_no_process(
    store_directory: str, tmp_path: Path, person: Callable[..., Any]
) -> None:
    """After ext4 shuts down, mapped words count on and are shown; the rest stays private."""
    if not (make := shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin:/bin")):
        pytest.skip("there is no mkfs.ext4")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run([make, "-q", str(image)], check=True, capture_output=True)
    with mounted(Path(store_directory, "store"), "-o", "loop", str(image)) as store:
        worker, parent, idle, victim = (person() for _ in range(4))
        for each in (worker, parent, idle, victim):
            each.work()
        for each in (worker, parent, victim):
            each.use("all")
        watcher = person()
        watcher.watch()
        assert 3 == watcher.scrape()["hits_total"]
        os.sync()
        assert "" == mount("-o", "remount,abort", str(store))
        with pytest.raises(OSError, match="Read-only"):
            (store / "probe").touch()

        shown = 3.0
        parent.fork()
        for number in range(20):
            for each in (worker, parent, idle):
                each.use("all", f"new-{number:0100}")
            victim.use("all")
            now = watcher.scrape()
            # All earlier series, and new ones of processes that have slabs, as long as there are blocks.
            assert shown + 3 <= now["hits_total"] <= shown + 5
            shown = now["hits_total"]
        victim.kill()
        worker.declare("later")
        values = watcher.scrape()
        assert (shown, 0, 1) == tuple(
            values[name] for name in ("hits_total", "mpmetrics_unreadable_files", "mpmetrics_store_up")
        )
        assert values["mpmetrics_drops_total"] >= 40
        assert 3 + 2 * 20 * 2 + 20 == values["level"]
        # Each process has kept all of its own. Its own collector shows that, and what is in the store.
        for name in ("hits_total", "took_count"):
            waiting = 0.0
            for each in (worker, parent, idle):
                each.watch_own()
                own = each.scrape()[name] - values[name]
                assert own == 40 if each is parent else 0 < own < 20
                waiting += own
            assert 3 + 20 * (3 * 2 + 1) == values[name] + waiting
        for each in (worker, parent, idle):
            assert 1 == sum("values wait in process" in line for line in each.said())
        assert "Read-only file system" in person().refusal("begin")
        for each in (worker, parent, idle, watcher):
            each.kill()
