"""Full disks, exhausted inodes, read-only mounts, and files that vanish or shrink under running processes."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics import _cells
from mpmetrics.collector.epoch_reader import EpochReader
from mpmetrics.registry import Registry
from mpmetrics.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Sums = Callable[[Any], dict[str, float]]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems, becomes another user")
NOBODY = 65534


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[Path]:
    """A tmpfs of its own with these options."""
    path.mkdir()
    if subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", options, "none", str(path)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield path
    finally:
        subprocess.run(["/bin/umount", "-l", str(path)], check=True)


class Used:
    """One metric of each kind; each use counts one, with a label that may be new."""

    def __init__(self, provider: mpmetrics.Provider) -> None:
        self.provider = provider
        of = {"provider": provider}
        self.hits = mpmetrics.Counter("hits", "Hits.", ["who"], **of)
        self.open = mpmetrics.UpDownCounter("open", "Open.", **of)
        self.level = mpmetrics.Gauge("level", "Level.", multiprocess_mode="sum", **of)
        self.latest = mpmetrics.Gauge("latest", "Latest.", ["who"], multiprocess_mode="mostrecent", **of)
        self.took = mpmetrics.Histogram("took", "Took.", ["who"], buckets=(1, 2), **of)
        self.size = mpmetrics.Summary("size", "Size.", **of)
        self.build = mpmetrics.Info("build", "Build.", **of)
        self.mood = mpmetrics.Enum("mood", "Mood.", states=("good", "bad"), **of)
        self.paid = provider.meter("kit").counter("paid")
        self.timer = Registry("kit", provider=provider).get_or_register_timer("timer")

    def use(self, who: str) -> None:
        """One use of each."""
        self.hits.labels(who).inc()
        self.open.inc()
        self.level.inc()
        self.latest.labels(who).set(7)
        self.took.labels(who).observe(1.5)
        self.size.observe(1.5)
        self.build.info({"version": who})
        self.mood.state("bad")
        self.paid.inc({"who": who})
        self.timer.update(1.5)


NAMES = ("hits_total", "open", "level", "took_count", "size_count", "paid_total")


def uses(values: dict[str, float]) -> set[float]:
    """How often each metric was used, which is the same for all."""
    return {values.get(name, 0.0) for name in NAMES}


def wait_until(condition: Callable[[], object], seconds: float = 100.0) -> bool:
    """Wait for a condition, at most so long; whether it came true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def flushed(provider: mpmetrics.Provider) -> list[object]:
    """What waits in memory still, after another attempt."""
    provider.force_flush()
    return list(provider.memory.private_maps())


@needs_root
@pytest.mark.parametrize("options", ["size=64k", "size=1m", "size=1m,nr_inodes=12"])
def test_a_full_disk_stops_no_process_and_totals_recover(
    sums: Sums, options: str, store_directory: str, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk all uses succeed and it is logged once; once there is room again, totals are exact."""
    home = Path(store_directory)
    with mounted(home / "disk", options) as disk:
        ballast = disk / "ballast"
        ballast.mkdir()
        used = Used(mpmetrics.Provider(disk / "store"))
        used.use("first")
        if "inodes" in options:
            for number in range(100):
                with contextlib.suppress(OSError):
                    (ballast / str(number)).touch()
        elif "1m" in options:
            (ballast / "block").write_bytes(bytes(800 * 1024))
        own = 250 if "64k" in options else 700
        with caplog.at_level(logging.WARNING, "mpmetrics"):
            for number in range(own):
                used.use(f"own-{number}")
        # The others: each with more than there is room for, alive until there is.
        go_on = home / "go-on"
        workers = []
        for worker in range(3):
            pid = os.fork()
            workers.append(pid)
            if not pid:
                for number in range(30):
                    used.use(f"worker-{worker}-{number}")
                (home / f"done-{worker}").touch()
                wait_until(go_on.exists)
                os._exit(not wait_until(lambda: not flushed(used.provider)))
        wait_until(lambda: len(list(home.glob("done-*"))) == 3)
        full = sums(disk / "store")
        lines = [record.getMessage() for record in caplog.records]
        assert full["mpmetrics_drops_total"] >= 1 or "inodes" in options
        assert len(lines) <= 4, lines  # one a cause
        # With what waits in its memory, it is all there, and what of the others there was room for.
        assert all(own + 1 <= count <= own + 1 + 3 * 30 for count in uses(sums(used.provider)))
        subprocess.run(["/bin/mount", "-o", "remount,size=64m,nr_inodes=1000", str(disk)], check=True)
        go_on.touch()
        assert {0} == {os.waitpid(pid, 0)[1] for pid in workers}
        wait_until(lambda: not flushed(used.provider))
        used.use("last")
        values = sums(disk / "store")
        assert {own + 2.0 + 3 * 30} == uses(values)
        assert 0 == values["mpmetrics_damaged_records"]
        used.provider.shutdown()


@needs_root
@pytest.mark.parametrize("is_naive", [False, True], ids=["as it is", "control"])
def test_a_slab_has_its_blocks_before_it_is_written_to(store_directory: str, *, is_naive: bool) -> None:
    """On a full disk a worker goes on. The control: a store into a file without allocated blocks raises SIGBUS."""
    with mounted(Path(store_directory) / "disk", "size=64k") as disk:
        mine = mpmetrics.Provider(disk / "store")
        hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
        with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(b"x" * 4096)
        pid = os.fork()
        if not pid:
            faulthandler.disable()
            if is_naive:
                descriptor = os.open(disk / "store" / "sparse", os.O_RDWR | os.O_CREAT)
                os.truncate(descriptor, 8192)
                memoryview(_cells.Map(descriptor, 8192, write=True))[4096] = 1
            hits.inc()
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        assert is_naive == os.WIFSIGNALED(status)
        assert status == (signal.SIGBUS if is_naive else 0) or os.WTERMSIG(status) == signal.SIGBUS
        mine.shutdown()


@needs_root
def test_a_file_system_that_becomes_read_only_stops_no_process(sums: Sums, store_directory: str) -> None:
    """Mapped words count on; what would need the disk stays in private memory until the disk can be written again."""
    with mounted(Path(store_directory) / "disk", "size=4m") as disk:
        used = Used(mpmetrics.Provider(disk / "store"))
        used.use("first")
        # With open writable files the kernel refuses to remount; a bind mount that is read-only is what a process sees
        # that begins now, and what containers do.
        view = Path(store_directory) / "view"
        view.mkdir()
        subprocess.run(["/bin/mount", "--bind", str(disk), str(view)], check=True)
        subprocess.run(["/bin/mount", "-o", "remount,bind,ro", str(view)], check=True)
        try:
            with pytest.raises(mpmetrics.StoreError, match="Read-only"):
                Store(view / "store").begin()
            environ = os.environ | {"MPMETRICS_DIR": str(view / "store")}
            program = (
                "import mpmetrics; c = mpmetrics.Counter('hits', 'Hits.', ['who']); c.labels('x').inc(); print('on')"
            )
            ended = subprocess.run(
                [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=100, check=False
            )
            assert (0, "on\n") == (ended.returncode, ended.stdout)
            assert 1 == ended.stderr.count("metrics of process")  # said once
            used.use("second")
            assert {2.0} == uses(sums(view / "store"))  # a collector needs to write nothing
        finally:
            subprocess.run(["/bin/umount", "-l", str(view)], check=True)
        used.provider.shutdown()


@pytest.mark.parametrize(
    "what",
    ["slab-", "shared", "removals", "retired", "removals.lock", "fold.lock", "lease", "", "everything"],
)
def test_a_cleaner_that_removes_files_stops_no_process(
    sums: Sums, what: str, store_directory: str, child: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is unlinked, uses succeed and the running collector shows them; losses are counted and logged."""
    used = Used(mpmetrics.Provider(store_directory))
    used.use("first")
    child(lambda: used.use("dead")).end()
    collector = mpmetrics.Collector(store_directory)
    assert {2.0} == uses(sums(collector))
    path = Path(str(used.provider.epoch.path))  # type: ignore[union-attr]
    if what == "everything":
        shutil.rmtree(store_directory)
    for entry in list(path.iterdir()) if path.is_dir() else []:
        if entry.name.startswith(what):
            entry.unlink()

    with caplog.at_level(logging.WARNING, "mpmetrics"):
        for number in range(5):
            used.use("first")
            used.use(f"new-{number}")
            child(lambda: used.use("worker")).end()
            values = sums(collector)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(set(lines)) <= 12, lines
    if what not in {"", "everything"}:
        # Workers come and go, and what they count is exact: their slabs are made after the cleaner was here.
        assert uses(values) == {17.0}
    if what == "slab-":
        assert 1 == values["mpmetrics_unreadable_files"]
        assert 1 == sum("was removed while its owner" in line for line in lines)
    if what in {"", "everything"}:
        assert values["mpmetrics_unreadable_files"] >= 1 or not values["mpmetrics_store_up"]
    used.provider.shutdown()

    if not os.path.isdir(store_directory):  # noqa: PTH112 (whether it is there)
        os.mkdir(store_directory, 0o700)  # noqa: PTH102 (the next start's own parent)
    epoch = Store(store_directory).begin()
    later = mpmetrics.Provider(store_directory, epoch=epoch.number)
    Used(later).use("first")
    assert {1.0} == uses(sums(store_directory))  # the next start is as any
    assert 0 == sums(store_directory)["mpmetrics_unreadable_files"]
    later.shutdown()


@pytest.mark.parametrize("is_naive", [False, True], ids=["as it is", "control"])
def test_a_reader_goes_on_from_its_map_where_a_slab_was_unlinked(
    shared: mpmetrics.Provider, child: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, *, is_naive: bool
) -> None:
    """The reader also sees later series and removals of the owner. The control silently takes the slab for folded."""
    if is_naive:
        monkeypatch.setattr(EpochReader, "_is_orphan", lambda *_: False)
    hits = mpmetrics.Counter("hits", "Hits.", ["who"], provider=shared)
    hits.labels("stays").inc()
    hits.labels("goes").inc()
    path = Path(str(shared.epoch.path))  # type: ignore[union-attr]
    collector = mpmetrics.Collector(str(path.parent))
    assert {"stays": 1, "goes": 1} == by_who(collector)
    (path / "slab-0").unlink()
    hits.labels("stays").inc()
    hits.labels("comes").inc()
    hits.remove("goes")
    child(lambda: hits.labels("stays").inc()).kill()
    snapshot = collector.snapshot()
    assert is_naive == (not any("was removed while its owner" in why for why in snapshot.unreadable.values()))
    assert ({"stays": 1.0} if is_naive else {"stays": 3.0, "comes": 1.0}) == by_who(collector)
    assert {"stays": 1.0} == by_who(str(path.parent))  # a new collector cannot know
    collector.close()


def by_who(source: Any) -> dict[str, float]:
    """What there is of ``hits``, by its label."""
    collector = source if isinstance(source, mpmetrics.Collector) else mpmetrics.Collector(source)
    (family,) = [family for family in collector.collect() if family.name == "hits"]
    return {sample.labels["who"]: sample.value for sample in family.samples if sample.name == "hits_total"}


def test_the_slab_of_a_dead_process_that_was_unlinked_is_shown_and_reported(
    sums: Sums, shared: mpmetrics.Provider, fork: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector that has it mapped keeps its counts; a folded slab is not taken for an unlinked one."""
    hits = mpmetrics.Counter("hits", "Hits.", provider=shared)
    path = Path(str(shared.epoch.path))  # type: ignore[union-attr]
    collector = mpmetrics.Collector(str(path.parent))
    monkeypatch.setattr("mpmetrics.collector.collection.fold", lambda *_, **__: 0)
    fork(hits.inc).result()
    assert 1 == sums(collector)["hits_total"]
    (slab,) = path.glob("slab-*")
    slab.unlink()
    for _ in range(2):
        values = sums(collector)
        assert (1, 1) == (values["hits_total"], values["mpmetrics_unreadable_files"])
    fork(hits.inc).result()
    assert 2 == sums(collector)["hits_total"]
    monkeypatch.undo()
    assert 2 == sums(collector)["hits_total"]
    values = sums(collector)
    assert (2, 1) == (values["hits_total"], values["mpmetrics_unreadable_files"])


@pytest.mark.parametrize("name", ["slab-", "retired"])
@pytest.mark.parametrize("size", [0, 1, 100, 4095])
def test_a_file_that_is_cut_short_costs_a_collector_that_file_alone(
    sums: Sums, name: str, size: int, store_directory: str, child: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A collector that has the file open lives on, shows the rest, and logs it once."""
    _ = mpmetrics.Provider(store_directory)  # the epoch lives on

    def work() -> None:
        Used(mpmetrics.Provider(store_directory)).use("worker")

    child(work).end()
    child(work)  # and lives on
    collector = mpmetrics.Collector(store_directory)
    assert {2.0} == uses(sums(collector))
    (epoch,) = Path(store_directory).glob("epoch-*")
    (victim,) = epoch.glob(name + "*")
    assert victim.stat().st_size > size
    os.truncate(victim, size)

    with caplog.at_level(logging.WARNING, "mpmetrics"):
        for _ in range(3):
            values = sums(collector)
    # The retired file is read once and never changes: this collector has it, and does not look again.
    assert {"slab-": {1.0}, "retired": {2.0}}[name] == uses(values)
    is_noticed = name != "retired"
    assert is_noticed == values["mpmetrics_unreadable_files"]
    lines = [record.getMessage() for record in caplog.records]
    assert is_noticed <= len(lines) == len(set(lines)) <= 2


def test_a_worker_whose_mapped_file_is_cut_short_ends_alone(
    sums: Sums, store_directory: str, child: Callable[..., Any]
) -> None:
    """SIGBUS, which Python cannot catch, ends that worker only; other processes and scrapes go on."""
    used = Used(mpmetrics.Provider(store_directory))
    used.use("first")
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        used.use("worker")
        slab = used.provider.memory.slab_name
        assert slab is not None
        os.truncate(Path(str(used.provider.epoch.path), slab.file), 0)  # type: ignore[union-attr]
        os.write(writer, b".")
        faulthandler.disable()
        used.use("worker")
        os._exit(0)
    os.read(reader, 1)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status)
    assert signal.SIGBUS == os.WTERMSIG(status)
    used.use("first")
    child(lambda: used.use("another")).end()
    values = sums(store_directory)
    assert {3.0} == uses(values)
    assert 1 == values["mpmetrics_unreadable_files"]
    used.provider.shutdown()
    os.close(reader)
    os.close(writer)


def test_the_directory_is_locked_against_systemd_tmpfiles(store_directory: str, child: Callable[..., Any]) -> None:
    """While a process of the server lives, systemd-tmpfiles does not get the lock that it wants before it cleans."""

    def is_free() -> bool:
        descriptor = os.open(store_directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as its dir_cleanup() does, and passes over else
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    mine = mpmetrics.Provider(store_directory)
    hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
    assert not is_free()
    worker = child(hits.inc)
    mine.shutdown()
    assert not is_free()
    worker.end()
    assert is_free()


@needs_root
def test_planted_links_and_files_of_others_cost_themselves_alone(
    sums: Sums, store_directory: str, child: Callable[..., Any]
) -> None:
    """Links, pipes, sockets, directories, devices and others' files in the epoch are counted and never followed."""
    victim = Path(store_directory + "-victim")
    victim.write_bytes(b"precious")
    try:
        used = Used(mpmetrics.Provider(store_directory))
        path = Path(str(used.provider.epoch.path))  # type: ignore[union-attr]
        names = ["slab-1", "slab-2", f"idle-{3:032x}", "slab-4", "dead-5-5", "slab-6"]
        (path / names[0]).symlink_to(victim)
        (path / names[1]).symlink_to(path / names[1])
        os.mkfifo(path / names[2])
        (path / names[3]).mkdir()
        os.mknod(path / names[4], 0o600 | 0o020000, os.makedev(1, 8))
        (path / names[5]).write_bytes(os.urandom(4096))
        os.chown(path / names[5], NOBODY, NOBODY)
        for name in ("new-slab-" + "1" * 32, "new-retired-" + "1" * 32, "ask-3-" + "1" * 32, "metrics.sock"):
            (path / name).symlink_to(victim)

        used.use("first")
        child(lambda: used.use("worker")).end()
        child(lambda: used.use("worker")).end()
        values = sums(store_directory)

        assert {3.0} == uses(values)
        assert 6 == values["mpmetrics_unreadable_files"]
        assert b"precious" == victim.read_bytes()
        assert (path / names[3]).is_dir()
        used.provider.shutdown()
    finally:
        victim.unlink()


def test_errors_of_the_disk_are_named() -> None:
    """The message names the path and the system's reason."""
    with pytest.raises(mpmetrics.StoreError) as caught:
        mpmetrics.Provider("/proc/nowhere/store")
    assert os.strerror(errno.ENOENT) in str(caught.value)
