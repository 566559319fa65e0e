"""Stores and epochs: a restart inherits nothing, living neighbours stay untouched, planted files are not followed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mpmetrics
from mpmetrics.collector.epoch_reader import EpochReader
from mpmetrics.integrations.server_store import default_base, new_default_directory, remove_dead_stores
from mpmetrics.storage import epoch as epoch_module
from mpmetrics.storage import store as store_module
from mpmetrics.storage.descriptor import Directory
from mpmetrics.storage.fold import fold
from mpmetrics.storage.locks import hold_shared
from mpmetrics.storage.store import Store, remove_if_dead

Fork = Callable[..., Any]
MakeProvider = Callable[[], mpmetrics.Provider]
Scrape = Callable[..., dict[str, float]]

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users")


def epochs(directory: str) -> list[str]:
    """The names of a store's epochs, oldest first."""
    return sorted(name for name in os.listdir(directory) if name.startswith("epoch-"))


def write_in(directory: str, amount: float) -> None:
    """Join the current epoch and count."""
    mpmetrics.Counter("hits", "Hits.", provider=mpmetrics.Provider(directory)).inc(amount)


def write_and_stay(directory: str, ready: Any, leave: Any) -> None:
    """Join, count one and stay."""
    write_in(directory, 1)
    ready.open()
    leave.wait()


def serve(directory: str, amount: float, ready: Any, leave: Any) -> None:
    """Begin an epoch as a server, count and stay."""
    epoch = Store(directory).begin()
    provider = mpmetrics.Provider.deferred()
    provider.attach(epoch)
    mpmetrics.Counter("hits", "Hits.", provider=provider).inc(amount)
    ready.open()
    leave.wait()


def test_processes_that_find_a_store_share_its_first_epoch(
    store_dir: str, fork: Fork, gate: Callable[..., Any], scrape: Scrape
) -> None:
    """The first process begins an epoch; the others join it while it lives."""
    ready, leave = ([gate() for _ in range(5)] for _ in range(2))
    children = [fork(write_and_stay, store_dir, *gates) for gates in zip(ready, leave, strict=True)]
    for each in ready:
        each.wait()

    assert 1 == len(epochs(store_dir))
    assert 5 == scrape(store_dir)["hits_total"]
    for each in leave:
        each.open()
    for child in children:
        child.result()


def test_a_restart_inherits_nothing(store_dir: str, fork: Fork, gate: Callable[..., Any], scrape: Scrape) -> None:
    """After a crash the next server starts at zero, under the next number, and the dead epoch is removed."""
    ready, leave = gate(), gate()
    first = fork(serve, store_dir, 100, ready, leave)
    ready.wait()
    assert 100 == scrape(store_dir)["hits_total"]
    (before,) = epochs(store_dir)
    first.stop()

    second = fork(serve, store_dir, 1, ready, leave)
    ready.wait()

    (after,) = epochs(store_dir)
    assert before < after
    assert 1 == scrape(store_dir)["hits_total"]
    second.stop()


def test_epochs_are_numbered_by_the_time_of_their_start(store_dir: str) -> None:
    """The number is the time in ms; if the clock stands still or goes back, the highest number + 1."""
    times = iter([1_700_000_000.1234, 1_700_000_000.1239, 5.0, 1_700_000_001.0])
    store = Store(store_dir, clock=lambda: next(times))
    held = [store.begin() for _ in range(4)]

    assert [1_700_000_000_123, 1_700_000_000_124, 1_700_000_000_125, 1_700_000_001_000] == [
        epoch.number for epoch in held
    ]


def test_a_living_neighbour_is_untouched(
    store_dir: str, fork: Fork, gate: Callable[..., Any], peek: Callable[[str], dict[str, float]]
) -> None:
    """A server that begins beside a living one changes none of its files, and each has totals of its own."""
    ready, leave = gate(), gate()
    fork(serve, store_dir, 100, ready, leave)
    ready.wait()
    (first,) = epochs(store_dir)
    old = Path(store_dir, first)
    before = {entry.name: (entry.stat().st_ino, entry.read_bytes()) for entry in old.iterdir()}

    fork(serve, store_dir, 1, ready, leave)
    ready.wait()

    assert before == {entry.name: (entry.stat().st_ino, entry.read_bytes()) for entry in old.iterdir()}
    assert (100, 1) == tuple(peek(f"{store_dir}/{name}")["hits_total"] for name in epochs(store_dir))
    assert first == epochs(store_dir)[0]


def test_a_join_of_a_dead_epoch_begins_a_new_one(store_dir: str, fork: Fork, scrape: Scrape) -> None:
    """A guest that finds only a dead epoch begins a new one, inherits nothing, and the dead epoch is removed."""
    fork(write_in, store_dir, 100).result()
    assert 100 == scrape(store_dir)["hits_total"]
    (first,) = epochs(store_dir)

    fork(write_in, store_dir, 1).result()

    assert 1 == scrape(store_dir)["hits_total"]
    assert [first] != epochs(store_dir)
    assert 1 == len(epochs(store_dir))


def test_a_dead_epoch_cannot_be_joined_while_it_is_removed(
    store_dir: str, fork: Fork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that finds an epoch dead locks it until its lease is unlinked; others join the new epoch."""
    fork(write_in, store_dir, 100).result()
    children = []
    begin = Store._begin

    def begin_slowly(self: Store, *, is_server: bool) -> Any:
        if not children:
            children.append(fork(lambda: Store(store_dir).join().number))
            threading.Event().wait(0.2)
        return begin(self, is_server=is_server)

    monkeypatch.setattr(Store, "_begin", begin_slowly)
    epoch = Store(store_dir).join()

    assert epoch.number == children[0].result()
    epoch.close()


JOINS = {
    "guest": lambda path, _: Store(path).join(),
    "worker": lambda path, number: Store(path).join(number),
    "server": lambda path, _: Store(path).begin(),
    "neighbour": lambda path, _: (remove_if_dead(path, 0.0), Store(path).join())[1],
}


@pytest.mark.parametrize("knows", [True, False], ids=["", "control"])
@pytest.mark.parametrize("who", JOINS)
def test_an_epoch_that_lost_its_lease_is_not_taken_for_dead(
    who: str,
    knows: bool,  # noqa: FBT001 (whether the protection is in place)
    store_dir: str,
    fork: Fork,
    gate: Callable[..., Any],
    scrape: Scrape,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a cleaner has unlinked the lease of a living epoch, new processes do not remove it, and guests join it."""
    ready, leave = gate(), gate()
    fork(serve, store_dir, 100, ready, leave)
    ready.wait()
    (first,) = epochs(store_dir)
    Path(store_dir, first, "lease").unlink()
    if not knows:
        monkeypatch.setattr(epoch_module, "_has_lost_its_lease", lambda _: False)
        with contextlib.suppress(mpmetrics.StoreUnavailableError):
            JOINS[who](store_dir, int(first.removeprefix("epoch-"))).close()
        assert who == "worker" or first not in epochs(store_dir)
        return

    epoch = JOINS[who](store_dir, int(first.removeprefix("epoch-")))
    provider = mpmetrics.Provider.deferred()
    provider.attach(epoch)
    mpmetrics.Counter("hits", "Hits.", provider=provider).inc(1)

    assert first in epochs(store_dir)
    assert (who == "server") == (epoch.path != str(Path(store_dir, first)))
    assert scrape(store_dir)["hits_total"] == (1 if who == "server" else 101)
    leave.open()
    provider.shutdown()


def test_an_epoch_without_lease_and_owners_is_dead(store_dir: str, fork: Fork, scrape: Scrape) -> None:
    """An epoch without lease and living owners, as a killed cleaner leaves it, is removed by the next process."""
    fork(write_in, store_dir, 100).result()
    (first,) = epochs(store_dir)
    Path(store_dir, first, "lease").unlink()
    fork(write_in, store_dir, 1).result()

    assert 1 == scrape(store_dir)["hits_total"]
    assert [first] != epochs(store_dir)
    assert 1 == len(epochs(store_dir))


@pytest.mark.parametrize("lease_first", [True, False], ids=["", "control"])
def test_what_a_killed_cleaner_left_of_an_epoch_is_not_joined(
    lease_first: bool,  # noqa: FBT001 (whether the protection is in place)
    store_dir: str,
    fork: Fork,
    gate: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If a cleaner of a dead epoch is killed while a process waits for it, the process does not join the rest."""
    fork(write_in, store_dir, 100).result()
    (dead,) = epochs(store_dir)
    ready, seen, inside = gate(), gate(), gate()
    lock, remove = store_module.lock_if_dead, store_module.remove_epoch

    def remove_half(epoch: str) -> None:
        ready.open()
        seen.wait()
        monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: (inside.open(), threading.Event().wait()))
        (remove if lease_first else shutil.rmtree)(epoch)

    def clean() -> None:
        monkeypatch.setattr(store_module, "remove_epoch", remove_half)
        Store(store_dir).begin()

    cleaner = fork(clean)
    ready.wait()

    @contextlib.contextmanager
    def look_and_kill(epoch: str) -> Iterator[bool]:
        with lock(epoch) as is_dead:
            seen.open()
            inside.wait()
            cleaner.stop()
            monkeypatch.setattr(store_module, "lock_if_dead", lock)
            yield is_dead

    monkeypatch.setattr(store_module, "lock_if_dead", look_and_kill)
    epoch = Store(store_dir).join()

    assert lease_first == (epoch.path != str(Path(store_dir, dead)))
    epoch.close()


@pytest.mark.parametrize("looks", [True, False], ids=["", "control"])
def test_a_lease_that_was_unlinked_after_its_opening_does_not_count(
    looks: bool,  # noqa: FBT001 (whether the protection is in place)
    store_dir: str,
    fork: Fork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If an epoch is removed between the opening and the locking of its lease, that lock joins no epoch."""
    fork(write_in, store_dir, 100).result()
    (dead,) = epochs(store_dir)
    directory = Directory.at(f"{store_dir}/{dead}")
    flock, status, removed = fcntl.flock, os.fstat, []

    def remove_and_lock(descriptor: int, flags: int) -> None:
        if not removed:
            removed.append(flags)
            Store(store_dir).begin().close()
        flock(descriptor, flags)

    monkeypatch.setattr(fcntl, "flock", remove_and_lock)
    if not looks:
        monkeypatch.setattr(os, "fstat", lambda file: os.stat_result([*status(file)[:3], 1, *status(file)[4:]]))
    with pytest.raises(FileNotFoundError) if looks else contextlib.nullcontext():
        hold_shared("lease", directory)

    assert removed
    assert dead not in epochs(store_dir)


def test_a_guest_that_outlives_its_server_is_still_counted(
    store_dir: str, fork: Fork, gate: Callable[..., Any], scrape: Scrape
) -> None:
    """A guest is still read after a restart of its server, whether it looks up series or not."""
    ready, leave = gate(), gate()
    server = fork(serve, store_dir, 100, ready, leave)
    ready.wait()
    go_on, done = gate(), gate()

    def live_on() -> None:
        provider = mpmetrics.Provider(store_dir)
        tasks = mpmetrics.Counter("tasks", "Tasks.", ["kind"], provider=provider)
        held = tasks.labels("held")
        held.inc()
        done.open()
        for _ in range(3):
            go_on.wait()
            held.inc()
            done.open()
        go_on.wait()
        tasks.labels("looked-up").inc(5)
        held.inc(10)
        pid = os.fork()
        if pid == 0:
            tasks.labels("child").inc(7)
            os._exit(0)
        os.waitpid(pid, 0)
        done.open()
        go_on.wait()

    guest = fork(live_on)
    done.wait()
    server.stop()
    assert 1 == len(epochs(store_dir))

    fork(serve, store_dir, 3, ready, leave)
    ready.wait()
    assert 3 == scrape(store_dir)["hits_total"]
    assert 1 == scrape(store_dir)["tasks_total{kind=held}"]
    for count in (2, 3, 4):
        go_on.open()
        done.wait()
        assert count == scrape(store_dir)["tasks_total{kind=held}"]
    go_on.open()
    done.wait()
    for _ in range(2):
        found = scrape(store_dir)
        assert [14, 5, 7] == [found[f"tasks_total{{kind={kind}}}"] for kind in ("held", "looked-up", "child")]
        guest.stop()
    leave.open()


def test_a_guest_of_a_living_server_stays_with_it(
    store_dir: str, fork: Fork, gate: Callable[..., Any], peek: Callable[[str], dict[str, float]]
) -> None:
    """A second server in the same store takes over no guest while the first one lives."""
    ready, leave = gate(), gate()
    fork(serve, store_dir, 100, ready, leave)
    ready.wait()
    guest = mpmetrics.Provider(store_dir)
    tasks = mpmetrics.Counter("tasks", "Tasks.", provider=guest)
    tasks.inc()
    fork(serve, store_dir, 1, ready, leave)
    ready.wait()
    tasks.inc()

    first, second = (peek(f"{store_dir}/{name}") for name in epochs(store_dir))
    assert [100, 2, 1] == [first["hits_total"], first["tasks_total"], second["hits_total"]]
    assert "tasks_total" not in second
    guest.shutdown()


def test_a_worker_joins_the_epoch_it_is_told(store_dir: str) -> None:
    """With ``epoch``, a worker joins that epoch although there is a later one; a missing epoch is an error."""
    first, second = Store(store_dir).begin(), Store(store_dir).begin()
    provider = mpmetrics.Provider(store_dir, epoch=first.number)

    assert first.number < second.number
    assert first.path == str(provider.epoch.path)
    with pytest.raises(mpmetrics.StoreUnavailableError, match="epoch-7"):
        mpmetrics.Provider(store_dir, epoch=7)
    provider.shutdown()
    first.close()
    second.close()


def test_an_epoch_lives_as_long_as_any_of_its_processes(store_dir: str, fork: Fork, gate: Callable[..., Any]) -> None:
    """A worker that outlives its master keeps the epoch alive, even if it never wrote."""
    ready, leave = gate(), gate()

    def lead() -> int:
        epoch = Store(store_dir).begin()
        pid = os.fork()
        if pid == 0:
            ready.open()
            leave.wait()
            epoch.close()
            os._exit(0)
        return pid

    fork(lead).result()
    ready.wait()
    (first,) = epochs(store_dir)
    Store(store_dir).begin().close()
    assert 2 == len(epochs(store_dir))
    leave.open()
    for _ in range(3000):
        Store(store_dir).begin().close()
        if first not in epochs(store_dir):
            break
        threading.Event().wait(0.01)
    assert first not in epochs(store_dir)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777], ids=oct)
@pytest.mark.parametrize("user", [None, pytest.param(NOBODY, marks=needs_root)])
def test_modes_do_not_depend_on_the_umask(umask: int, user: int | None, fast_dir: Path, fork: Fork) -> None:
    """Directories have mode 0700 and files 0600, with any umask and any creator."""
    fast_dir.chmod(0o777)
    store = fast_dir / "store"

    def write() -> dict[str, str]:
        if user is not None:
            os.setgid(user)
            os.setuid(user)
        os.umask(umask)
        provider = mpmetrics.Provider(store)
        counter = mpmetrics.Counter("hits", "Hits.", ["code"], provider=provider)
        counter.labels("200").inc()
        pid = os.fork()
        if pid == 0:
            counter.labels("200").inc()
            os._exit(0)
        os.waitpid(pid, 0)
        assert 1 == fold(str(provider.epoch.path))
        found = [store, *store.rglob("*")]
        return {entry.name.split("-")[0]: oct(entry.lstat().st_mode & 0o7777) for entry in found}

    directories = ("store", "epoch")
    files = ("lock", "lease", "server", "shared", "removals", "removals.lock", "fold.lock", "slab", "retired")
    assert dict.fromkeys(directories, "0o700") | dict.fromkeys(files, "0o600") == fork(write).result()


@needs_root
def test_a_privileged_master_makes_the_store_for_its_workers(fast_dir: Path, fork: Fork, scrape: Scrape) -> None:
    """A store that root makes for another user belongs to that user, who can write, fold and collect in it."""
    fast_dir.chmod(0o755)
    store = str(fast_dir / "store")
    epoch = Store(store, owner=(NOBODY, NOBODY)).begin()
    provider = mpmetrics.Provider.deferred()
    provider.attach(epoch)
    counter = mpmetrics.Counter("hits", "Hits.", provider=provider)
    counter.inc()

    def work() -> None:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        counter.inc(10)

    def collect() -> dict[str, float]:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return scrape(store)

    fork(work).result()
    fork(work).result()
    values = fork(collect).result()
    provider.shutdown()

    assert (21, 2, 0) == (
        values["hits_total"],
        values["mpmetrics_folds_total"],
        values["mpmetrics_unreadable_files"],
    )
    entries = {Path(store), *Path(store).rglob("*")}
    own = {path for path in entries if path.name.startswith(("slab-", "dead-")) and path.lstat().st_uid == 0}
    entries -= own
    assert 1 == len(own)
    assert {(NOBODY, NOBODY)} == {(entry.lstat().st_uid, entry.lstat().st_gid) for entry in entries}


@pytest.fixture
def refused(fast_dir: Path) -> Iterator[Callable[[Path], str]]:
    """Returns the error message for a store at a path, the same for providers and collectors."""

    def message(path: Path) -> str:
        with pytest.raises(mpmetrics.StoreUnavailableError) as caught:
            mpmetrics.Provider(path)
        assert str(path) in str(caught.value)
        with pytest.raises(mpmetrics.StoreUnavailableError):
            mpmetrics.Collector(path)
        return str(caught.value)

    yield message
    assert fast_dir.is_dir()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777], ids=oct)
def test_a_directory_that_others_can_write_is_refused(
    mode: int, fast_dir: Path, refused: Callable[[Path], str]
) -> None:
    """The error names the directory, its mode and the command that repairs it; nothing is created in it."""
    path = fast_dir / "store"
    path.mkdir()
    path.chmod(mode)

    assert f"chmod 0700 {path}" in refused(path)
    assert [] == list(path.iterdir())


def test_a_symbolic_link_is_refused(fast_dir: Path, refused: Callable[[Path], str]) -> None:
    """A link in the store's place is not followed, even to a directory of our own."""
    (fast_dir / "elsewhere").mkdir(mode=0o700)
    (fast_dir / "store").symlink_to(fast_dir / "elsewhere")

    assert "symbolic link" in refused(fast_dir / "store")
    assert "MPMETRICS_DIR" in refused(fast_dir / "store")
    assert [] == list((fast_dir / "elsewhere").iterdir())


def test_a_file_is_refused(fast_dir: Path, refused: Callable[[Path], str]) -> None:
    """A file in the store's place is an error and stays unchanged."""
    (fast_dir / "store").write_text("mine")

    assert "directory" in refused(fast_dir / "store")
    assert "mine" == (fast_dir / "store").read_text()


@needs_root
def test_a_directory_of_another_user_is_refused(fast_dir: Path, fork: Fork) -> None:
    """A user other than root trusts only their own directory; the error names its owner."""
    fast_dir.chmod(0o755)
    path = fast_dir / "store"
    path.mkdir(mode=0o755)

    def attempt() -> str:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        with pytest.raises(mpmetrics.StoreUnavailableError) as caught:
            mpmetrics.Provider(path)
        return str(caught.value)

    message = fork(attempt).result()
    assert "belongs to user 0" in message
    assert "MPMETRICS_DIR" in message


@needs_root
@pytest.mark.parametrize("mode", [0o700, 0o755], ids=oct)
def test_root_that_cannot_use_the_owners_files_is_refused(mode: int, fast_dir: Path) -> None:
    """Root of a user namespace without the owner gets an error that names the owner and the way out."""
    fast_dir.chmod(0o755)
    path = fast_dir / "store"
    path.mkdir()
    path.chmod(mode)
    os.chown(path, NOBODY, NOBODY)
    inside = [shutil.which("unshare") or "false", "-U", "-r"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespace can be made here")
    code = "import sys, mpmetrics; getattr(mpmetrics, sys.argv[1])(sys.argv[2])"
    for what in ("Provider", "Collector"):
        done = subprocess.run(
            [*inside, sys.executable, "-c", code, what, str(path)], capture_output=True, text=True, check=False
        )
        last = done.stderr.splitlines()[-1]
        for words in ("StoreUnavailableError", f"{path} belongs to user", "user namespace", "MPMETRICS_DIR"):
            assert words in last
    assert [] == list(path.iterdir())


def test_a_store_that_cannot_be_made_says_where(fast_dir: Path, refused: Callable[[Path], str]) -> None:
    """A store is not created with missing parent directories; the error names the path."""
    assert "MPMETRICS_DIR" in refused(fast_dir / "missing" / "store")
    assert not (fast_dir / "missing").exists()


@pytest.mark.parametrize("name", ["retired", "slab-0", "shared", "removals", "removals.lock"])
def test_a_planted_link_is_not_followed(
    name: str, provider: MakeProvider, fast_dir: Path, store_dir: str, fork: Fork, scrape: Scrape
) -> None:
    """A link in a file's place makes that file unusable at most; its target is neither read nor changed."""
    victim = fast_dir / "victim"
    victim.write_bytes(b"precious" * 1024)
    mine = provider()
    path = Path(str(mine.epoch.path))
    (path / name).unlink(missing_ok=True)
    (path / name).symlink_to(victim)
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)

    hits.labels("200").inc()
    fork(hits.labels("200").inc).result()
    values = scrape(store_dir)

    assert b"precious" * 1024 == victim.read_bytes()
    if name != "removals.lock":
        assert 1 == values["mpmetrics_unreadable_files"]
    assert 2 == values["hits_total{code=200}"]


@pytest.mark.timeout(5)
@pytest.mark.parametrize("name", ["slab-0", "retired"])
def test_a_pipe_in_a_files_place_blocks_no_process(
    name: str, provider: MakeProvider, store_dir: str, scrape: Scrape
) -> None:
    """A named pipe, whose opening could block, is skipped and counted."""
    mine = provider()
    os.mkfifo(f"{mine.epoch.path}/{name}")
    mpmetrics.Counter("hits", "Hits.", provider=mine).inc()

    values = scrape(store_dir)

    assert (1, 1) == (values["hits_total"], values["mpmetrics_unreadable_files"])


def test_dead_default_stores_are_removed_and_living_ones_never(
    fast_dir: Path, fork: Fork, gate: Callable[..., Any]
) -> None:
    """Of a user's default stores, only those without a living process are removed, and nothing else is."""
    uid = os.getuid()
    ready, leave = gate(), gate()
    crashed, live = (new_default_directory(str(fast_dir), uid) for _ in range(2))
    fork(serve, crashed, 1, ready, leave)
    ready.wait()
    fork(serve, live, 1, ready, leave).pid  # noqa: B018 (the process stays, so it has no result)
    ready.wait()
    half = new_default_directory(str(fast_dir), uid)
    Path(half).mkdir()
    strangers = [fast_dir / f"mpmetrics-{uid}1-abc", fast_dir / f"mpmetrics-{uid + 1}-abc", fast_dir / "other"]
    for stranger in strangers:
        stranger.mkdir()
    (fast_dir / f"mpmetrics-{uid}-link").symlink_to(fast_dir / "other")

    assert [] == remove_dead_stores(str(fast_dir), uid)
    leave.open(1)
    for _ in range(3000):
        removed = remove_dead_stores(str(fast_dir), uid)
        if removed:
            break
        threading.Event().wait(0.01)

    assert 1 == len(removed)
    assert removed[0] in (crashed, live)
    kept = live if removed == [crashed] else crashed
    assert not Path(removed[0]).exists()
    assert 1 == len(list(Path(kept).glob("epoch-*/lease")))
    assert Path(half).exists()
    assert all(stranger.exists() for stranger in strangers)


@needs_root
def test_stores_of_another_user_are_not_removed(fast_dir: Path) -> None:
    """A directory named like a default store, but with another owner, is left alone, even if old and dead."""
    path = fast_dir / "mpmetrics-0-abcdef"
    path.mkdir()
    os.utime(path, (0, 0))
    os.chown(path, NOBODY, NOBODY)
    assert [] == remove_dead_stores(str(fast_dir), 0)

    os.chown(path, 0, 0)
    os.utime(path, (0, 0))
    assert [str(path)] == remove_dead_stores(str(fast_dir), 0)


def test_default_stores_lie_in_memory_where_there_is_some(tmp_path: Path) -> None:
    """Default stores are in /dev/shm, or else in the user's runtime directory."""
    expected = "/dev/shm" if os.access("/dev/shm", os.W_OK) else str(tmp_path)

    assert expected == default_base({"XDG_RUNTIME_DIR": str(tmp_path)})
    assert stat.S_ISDIR(os.stat(default_base({})).st_mode)  # noqa: PTH116


def test_an_epoch_of_an_older_release_is_named_at_once(store_dir: str) -> None:
    """Joining a living epoch of format 1 fails at once, with an error that names the older release."""
    store = Store(store_dir)
    epoch = Path(store_dir, "epoch-1")
    epoch.mkdir(0o700)
    for name in ("lease", "series", "series.lock", "fold.lock"):
        (epoch / name).touch(0o600)
    lease = hold_shared("lease", Directory.at(str(epoch)))
    started = time.monotonic()
    with pytest.raises(mpmetrics.StoreUnavailableError, match=r"format version 1"):
        store.join()

    assert time.monotonic() - started < 1
    assert "format version 1" in EpochReader(str(epoch)).snapshot().unreadable["shared"]
    del lease
